"""How the options of the likelihood model were chosen: on training vehicles held out from each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.weight import held_out
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import build

# the defaults, then one option changed at a time
TRIED: tuple[dict[str, Any], ...] = (
    {},
    {"pooling": False, "relays": 0},
    *({"relays": value} for value in (0, 3, 5, 20, 40)),
    *({"smoothing": value} for value in (1.0, 1.5, 3.0)),
    *({"shrinkage": value} for value in (0.03, 0.1, 1.0, 3.0)),
    *({"background": value} for value in (3.0, 12.0)),
    *({"scale_s": value} for value in (2.0, 10.0)),
    *({"similar": value} for value in (0.15, 0.7)),
)


def score(
    name: str, options: dict[str, Any], train: Sightings, network: CameraNetwork, folds: int = 3
) -> dict[str, float]:
    """Mean ``mAP``, ``R1`` and ``R5`` in percent of one model over folds of held-out training vehicles."""
    found = []
    for fold in held_out(train, folds):
        query, gallery = train[fold.query], train[fold.gallery]
        model = build(name, **options).fit(train[fold.fit], network)
        found.append(audit.percent(audit.rank(model.distance(query, gallery), query, gallery)))
    return {key: round(float(np.mean([f[key] for f in found])), 2) for key in found[0]}


def grid(train: Sightings, network: CameraNetwork) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """``TRIED`` one after the other, each with its score."""
    for options in TRIED:
        yield options, score("likelihood", options, train, network)
