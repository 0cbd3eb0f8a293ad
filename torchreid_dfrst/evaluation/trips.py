"""Trips of an extraction: what their evidence is fitted on, the rows that rank by them, and what they are worth."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from torchreid_dfrst import association
from torchreid_dfrst.association import Association, Evidence
from torchreid_dfrst.evaluation.weight import HELD_OUT, TRAINED_ON
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import UNKNOWN, Sightings
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood

TRIPS, FUSED_TRIPS = "+ trips", "+ ST + trips"
USES = "a rank depends on the whole gallery and, where there are any, its tracks"
logger = logging.getLogger(__name__)


def evidence(extraction: Extraction) -> Evidence | Likelihood | None:
    """What labelled training sightings say: the whole evidence, or that of trips alone, or nothing.

    Appearance is fitted only on embeddings of vehicles that the network was not trained on: it knows the others too
    well. Without them it is calibrated on the gallery. Where nothing says which they are, the log warns.
    """
    train, known, network = extraction.train, extraction.train_features, extraction.network
    seen = extraction.source.get("train_features")
    if known is not None and seen != TRAINED_ON:
        if seen != HELD_OUT:
            logger.warning(
                "trips are fitted on training vehicles that the network may have been trained on, nothing says that "
                "they were held out: if it was, probabilities are too sure; dfrst trips --no-labels does without them"
            )
        return association.fit(known, network, train)
    if train is not None and network is not None and not np.isnan(train.time_s).all():
        return Likelihood().fit(train, network)
    return None


def rankings(
    query: Features, gallery: Features, extraction: Extraction, labels: bool, roads: bool = True
) -> Iterator[tuple[str, Iterable[np.ndarray], dict[str, Any] | None]]:
    """Rows as ``scoring.rankings`` gives them: by trips learnt from the gallery alone, and from ``labels`` too.

    A row for which nothing can be calibrated is left out, and the log says why. ``roads``: the cameras are those of
    the road distances of ``extraction``, on which evidence is fitted.
    """
    given = evidence(extraction) if labels else None
    for row, fitted in ((TRIPS, None), (FUSED_TRIPS, given)):
        if row == FUSED_TRIPS and fitted is None:
            continue
        trips = association.associate(gallery, extraction.network if roads else None, fitted)
        if trips.evidence is None:
            logger.warning("no row %r: %s", row, trips.notes[-1])
            continue
        yield row, association.ranking(trips, query, gallery.sightings), about(trips, gallery.sightings)


def about(trips: Association, sightings: Sightings) -> dict[str, Any]:
    """Numbers of passes and trajectories, and, where vehicles are known, shares of right joins (for the card)."""
    size = np.bincount(trips.trajectory)
    found: dict[str, Any] = {"passes": len(trips.passes), "trajectories": len(size), "alone": int((size == 1).sum())}
    for name, (score, low, high) in measures(trips, sightings).items():
        found[name] = {"F1": score.f1, "precision": score.precision, "recall": score.recall, "interval": [low, high]}
    if trips.alike is not None and sightings.known.any():
        found["passes of several vehicles"] = wrong_passes(trips, sightings)
    return found


def measures(trips: Association, sightings: Sightings) -> dict[str, tuple[association.Score, float, float]]:
    """Each measure of ``association.MEASURES`` over passes whose vehicle is known, with the 95 % interval of its F1."""
    vehicle = sightings.identity[np.unique(trips.label, return_index=True)[1]]
    known = vehicle != UNKNOWN
    if not known.any():
        return {}
    scores = {name: of(trips.trajectory[known], vehicle[known]) for name, of in association.MEASURES.items()}
    return {n: (s, *s.interval(vehicle[known], np.random.default_rng(0))) for n, s in scores.items()}


def wrong_passes(trips: Association, sightings: Sightings) -> int:
    """Passes whose images are of more than one known vehicle."""
    pairs = np.unique(np.stack([trips.label, sightings.identity])[:, sightings.known], axis=1)
    return int((np.bincount(pairs[0]) > 1).sum())
