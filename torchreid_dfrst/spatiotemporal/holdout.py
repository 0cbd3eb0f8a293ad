"""Training vehicles that play query and gallery, so that choices need no test vehicle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.sightings import UNKNOWN, Sightings

SEED = 776


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of a training list.

    Args:
        fit: ``(F,)`` int64 rows to learn from.
        query: ``(Q,)`` int64 rows, one image of each held-out vehicle and camera.
        gallery: ``(G,)`` int64 rows, all images of the held-out vehicles, those of ``query`` among them.
    """

    fit: np.ndarray
    query: np.ndarray
    gallery: np.ndarray


def held_out(sightings: Sightings, folds: int = 3, most: int = 200, seed: int = SEED) -> Iterator[Fold]:
    """Folds over vehicles, each built as VeRi-776 builds its test.

    Args:
        sightings: training images; those without an identity are in no fold.
        folds: number of disjoint groups of vehicles, each held out once.
        most: most vehicles held out in one fold; the others are neither held out nor left out of ``fit``.
        seed: decides the groups and the query images.

    Raises:
        ValueError: fewer than two vehicles for each fold.
    """
    vehicles = np.unique(sightings.identity[sightings.identity != UNKNOWN])
    if len(vehicles) < 2 * folds:
        raise ValueError(f"{len(vehicles)} training vehicles are too few for {folds} folds: {2 * folds} needed")
    generator = np.random.default_rng(seed)
    for group in np.array_split(generator.permutation(vehicles), folds):
        out = np.isin(sightings.identity, group[:most])
        gallery = np.flatnonzero(out)
        shuffled = generator.permutation(gallery)
        key = np.stack([sightings.identity[shuffled], sightings.camera[shuffled]])
        _, first = np.unique(key, axis=1, return_index=True)
        yield Fold(np.flatnonzero(~out), shuffled[first], gallery)
