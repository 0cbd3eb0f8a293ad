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
        fit: ``(F,)`` int64 rows to learn from, none of a vehicle that is asked for.
        query: ``(Q,)`` int64 rows, one image of each vehicle asked for and camera.
        gallery: ``(G,)`` int64 rows, those of ``query`` among them.
    """

    fit: np.ndarray
    query: np.ndarray
    gallery: np.ndarray


def held_out(sightings: Sightings, folds: int = 3, most: int = 200, parts: int = 1, seed: int = SEED) -> Iterator[Fold]:
    """Folds over vehicles, each built as VeRi-776 builds its test.

    Args:
        sightings: training images; those without an identity are in no fold.
        folds: number of disjoint groups of vehicles; the images of a group are a gallery.
        most: most vehicles in one gallery; the others of its group are only learned from.
        parts: how many times each gallery is yielded, each time asked for another part of its vehicles. Only the
            vehicles asked for are left out of ``fit``: with more parts it comes closer to all of ``sightings``.
        seed: decides the groups and the query images.

    Raises:
        ValueError: fewer than two vehicles for each fold.
    """
    vehicles = np.unique(sightings.identity[sightings.identity != UNKNOWN])
    if len(vehicles) < 2 * folds:
        raise ValueError(f"{len(vehicles)} training vehicles are too few for {folds} folds: {2 * folds} needed")
    generator = np.random.default_rng(seed)
    for group in np.array_split(generator.permutation(vehicles), folds):
        gallery = np.flatnonzero(np.isin(sightings.identity, group[:most]))
        shuffled = generator.permutation(gallery)
        key = np.stack([sightings.identity[shuffled], sightings.camera[shuffled]])
        query = shuffled[np.unique(key, axis=1, return_index=True)[1]]
        for asked in np.array_split(group[:most], min(parts, len(group[:most]))):
            out = np.isin(sightings.identity, asked)
            yield Fold(np.flatnonzero(~out), query[out[query]], gallery)
