"""How much of a score is owed to space and time."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.retrieval.metrics import Metrics, evaluate
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.model import GapModel

ORDER_SEED = 776


def rank(distance: np.ndarray, query: Sightings, gallery: Sightings, seed: int = ORDER_SEED) -> Metrics:
    """Score a distance matrix by the junk rule, with ties in an order that knows nothing of identity.

    Space and time leave many distances equal, and galleries are sorted by identity. The gallery is shuffled first, so
    that a tie is decided by a seeded draw.

    Args:
        distance: ``(Q, G)``.
        query: the rows.
        gallery: the columns.
        seed: of the draw.
    """
    shuffled = order(len(gallery), seed)
    return score(np.ascontiguousarray(distance[:, shuffled]), query, gallery[shuffled])


def order(images: int, seed: int = ORDER_SEED) -> np.ndarray:
    """The seeded draw of ``rank``: a permutation of the gallery."""
    return np.random.default_rng(seed).permutation(images)


def score(distance: np.ndarray, query: Sightings, gallery: Sightings) -> Metrics:
    """Score a distance matrix by the junk rule, ties by gallery order."""
    return evaluate(distance, query.identity, gallery.identity, query.camera, gallery.camera)


def tie_bounds(distance: np.ndarray, query: Sightings, gallery: Sightings) -> tuple[Metrics, Metrics]:
    """The score if every tie were decided against the query's identity, and if all were decided for it."""
    place = np.empty(distance.shape, dtype=np.float32)
    for row, values in zip(place, distance, strict=True):
        row[:] = 2 * np.unique(values, return_inverse=True)[1]
    wrong = query.identity[:, None] != gallery.identity
    return rank(place + ~wrong, query, gallery), rank(place + wrong, query, gallery)


def time_only(model: GapModel, query: Sightings, gallery: Sightings) -> Metrics:
    """Score of a fitted model without any appearance, see ``rank``."""
    return rank(model.distance(query, gallery), query, gallery)


def percent(metrics: Metrics) -> dict[str, float]:
    """``mAP``, ``R1`` and ``R5`` in percent, two digits."""
    shares = {"mAP": metrics.mAP, "R1": metrics.rank(1), "R5": metrics.rank(5)}
    return {name: round(100 * share, 2) for name, share in shares.items()}
