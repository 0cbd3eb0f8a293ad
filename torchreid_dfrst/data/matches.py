"""Vehicles that teach nothing and queries that nothing can answer."""

from __future__ import annotations

import logging

import numpy as np

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.data.text import sample
from torchreid_dfrst.sightings import UNKNOWN, Sightings

_log = logging.getLogger(__name__)


def one_camera_vehicles(sightings: Sightings) -> np.ndarray:
    """Identities that a single camera saw, ascending; rows without identity are left out."""
    known = sightings[sightings.identity != UNKNOWN]
    pairs = np.unique(np.stack([known.identity, known.camera]), axis=1)
    identity, cameras = np.unique(pairs[0], return_counts=True)
    return identity[cameras == 1]


def lone_queries(query: Sightings, gallery: Sightings) -> np.ndarray:
    """Rows of the queries whose vehicle no *other* camera saw in the gallery: the junk rule leaves them no match."""
    pairs = np.unique(np.stack([gallery.identity, gallery.camera]), axis=1)
    seen_by: dict[int, set[int]] = {}
    for vehicle, camera in pairs.T.tolist():
        seen_by.setdefault(vehicle, set()).add(camera)
    rows = zip(query.identity.tolist(), query.camera.tolist(), strict=True)
    return np.array([k for k, (v, c) in enumerate(rows) if not seen_by.get(v, set()) - {c}], dtype=np.int64)


def report_matches(name: str, train: Sightings, query: Sightings, gallery: Sightings) -> None:
    """Log training vehicles of one camera (if there are several cameras) and queries without a match.

    Raises:
        ValueError: no query has a match.
    """
    alone = one_camera_vehicles(train)
    if len(alone) and len(np.unique(train.camera)) > 1:
        _log.warning(
            numbered(
                "{count} of %d training vehicles of %s [is|are] seen by one camera only (%s): [it teaches|they teach] "
                "nothing about travel times",
                len(alone),
            ),
            len(np.unique(train.identity)),
            name,
            sample(alone),
        )
    lone = lone_queries(query, gallery)
    if len(lone) == len(query):
        raise ValueError(
            f"none of the {len(query)} queries of {name} shows a vehicle that another camera saw in the gallery: "
            "check that query and gallery belong together"
        )
    if len(lone):
        _log.warning(
            numbered(
                "{count} of %d queries of %s [shows|show] a vehicle that no other camera saw (%s): [it|they] cannot be "
                "scored",
                len(lone),
            ),
            len(query),
            name,
            sample(query.path[lone]),
        )
