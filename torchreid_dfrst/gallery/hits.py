"""What is asked of a gallery and what it finds: the hits of all partitions as one table, with what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchreid_dfrst.association.average_linkage import grow, upper
from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.messages import numbered

TEXT = ("path", "camera", "identity", "track")
JOINED = 200
"""Hits of a query, the first ones, that are joined into trips."""


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for.

    Args:
        embedding: ``(Q, D)`` float32 of unit length.
        camera: name of each camera, as names are compared; empty where not known.
        time_s: ``(Q,)``, NaN where not known.
        low: ``(Q,)`` no older images; minus infinity for all, also those without a time.
        high: ``(Q,)`` no later images.
        path: name of each query; empty where it has none.
        top: images for each, at most.
    """

    embedding: np.ndarray
    camera: tuple[str, ...]
    time_s: np.ndarray
    low: np.ndarray
    high: np.ndarray
    path: tuple[str, ...]
    top: int


@dataclass(frozen=True, eq=False)
class Hits:
    """What was found, as a table sorted by query and rank.

    Args:
        columns: ``query`` (its row, from 0), ``rank`` (from 1), ``path``, ``camera``, ``time_s`` (None where not
            known), ``identity``, ``track``, ``distance`` (by which it is ranked), ``appearance`` (Euclidean distance),
            and, None without a calibration: ``probability`` that it is the query's vehicle, ``passes`` (whether it
            passes the false-match rate that was asked for, None if none was), ``trip`` (see ``worth``).
        candidates: ``(Q,)`` images in each query's window.
        by: ``appearance`` or ``+ ST``.
        notes: what a reader should know, a sentence each.
    """

    columns: dict[str, list[Any]]
    candidates: np.ndarray
    by: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of hits of all queries."""
        return len(self.columns["rank"])

    def some(self, rows: Sequence[int]) -> Hits:
        """Those rows of the table."""
        return replace(self, columns={name: [column[k] for k in rows] for name, column in self.columns.items()})


@dataclass(eq=False)
class Found:
    """What one task found: the nearest images of each query, not in order.

    Args:
        candidates: ``(Q,)`` images in each query's window.
        lost: file to why it could not be read; ``gone`` where it is not there any more.
        parts: of each group of queries: query rows, distance, appearance, transit, time and embeddings of its images,
            and their words.
    """

    candidates: np.ndarray
    lost: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[Any, ...]] = field(default_factory=list)


def merged(found: Sequence[Found], query: Query, trips: Trips | None) -> tuple[Hits, np.ndarray, np.ndarray]:
    """The nearest of all partitions, by query, distance, time and name; their transit distances and embeddings."""
    parts = [part for one in found for part in one.parts]
    whole = [np.concatenate([np.empty(0), *(part[k] for part in parts)]) for k in range(5)]
    row, distance, appearance, transit, time_s = whole
    embedding = np.concatenate([np.empty((0, query.embedding.shape[1]), np.float32), *(p[5] for p in parts)])
    words = {name: [word for part in parts for word in part[6][name]] for name in TEXT}
    order = np.lexsort((np.array(words["path"], dtype=np.str_), time_s, distance, row))
    place = np.arange(len(order)) - np.searchsorted(row[order], row[order], "left")
    order, place = order[place < query.top], place[place < query.top]
    columns = {
        "query": row[order].astype(np.int64).tolist(),
        "rank": (place + 1).tolist(),
        **{name: [words[name][k] for k in order] for name in ("path", "camera")},
        "time_s": [None if np.isnan(t) else t for t in time_s[order].tolist()],
        **{name: [words[name][k] for k in order] for name in ("identity", "track")},
        "distance": distance[order].tolist(),
        "appearance": appearance[order].tolist(),
        **{name: [None] * len(order) for name in ("probability", "passes", "trip")},
    }
    count = sum((one.candidates for one in found), start=np.zeros(len(query.embedding), dtype=np.int64))
    return Hits(columns, count, "appearance" if trips is None else "+ ST"), transit[order], embedding[order]


def worth(
    hits: Hits,
    transit: np.ndarray,
    embedding: np.ndarray,
    query: Query,
    trips: Trips | None,
    calibration: Calibration,
    strangers: float,
    rate: float | None,
) -> Hits:
    """Hits with their probabilities, whether they pass a rate of false matches, and their trips.

    Trips: the query and its hits are joined where pairs, by their mean evidence, are one vehicle with a probability of
    1/2 or more. Trip 0 holds the query; others, vehicles of their own, are numbered by their first hits.
    """
    columns = hits.columns
    row, time_s = np.array(columns["query"], dtype=np.int64), _times(columns["time_s"])
    here = np.array(query.camera)[row] == np.array(columns["camera"], dtype=np.str_)  # which is no trip
    way = np.where(np.isnan(time_s) | here, np.nan, transit) if trips is not None else None
    appearance = np.array(columns["appearance"])
    more: dict[str, list[Any]] = {"trip": [None] * len(hits)}
    sure = calibration.probability(appearance, way, hits.candidates[row], strangers)
    more["probability"] = [float(value) for value in sure]
    notes = hits.notes
    if rate is not None:
        least = calibration.threshold(rate, trips is not None)
        own, trip = calibration.evidence(appearance, way)
        more["passes"] = [bool(value) for value in own + trip >= least]
    for one in range(len(query.embedding)):
        rows = np.flatnonzero(row == one)[:JOINED]
        odds = float(calibration.prior(float(hits.candidates[one]), strangers))
        label = _joined(query, one, columns, rows, time_s, embedding, trips, calibration, odds)
        for k, number in zip(rows.tolist(), label.tolist(), strict=True):
            more["trip"][k] = number
    if None in more["trip"]:
        notes = (*notes, numbered("hits beyond the first {count} of a query are not joined into trips", JOINED))
    return replace(hits, columns={**columns, **more}, notes=notes)


def _joined(
    query: Query,
    one: int,
    columns: dict[str, list[Any]],
    rows: np.ndarray,
    time_s: np.ndarray,
    embedding: np.ndarray,
    trips: Trips | None,
    calibration: Calibration,
    odds: float,
) -> np.ndarray:
    """Trip of each hit of a query."""
    both = np.concatenate([query.embedding[[one]], embedding[rows]]).astype(np.float64)
    appearance = np.linalg.norm(both[:, None] - both, axis=2)
    way = None
    if trips is not None:
        camera = trips.rows([query.camera[one], *(columns["camera"][k] for k in rows)])
        when = np.append(query.time_s[one], time_s[rows])
        way = trips.model.law.distance(camera[:, None], camera, when - when[:, None]).astype(np.float64)
        way[np.isnan(when[:, None] - when) | (camera[:, None] == camera)] = np.nan  # one camera and itself is no trip
    evidence = upper(np.asarray(sum(calibration.evidence(appearance, way))))
    label = grow(evidence, len(both)).cut(-odds)
    _, first = np.unique(label, return_index=True)
    return np.argsort(np.argsort(first))[label][1:]


def _times(column: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if time is None else time for time in column], dtype=np.float64)


def remarks(query: Query, hits: Hits, fused: bool, learnt: bool, last_s: float | None, lost: int) -> list[str]:
    """What a reader of hits should know, a sentence each.

    Args:
        query: what was looked for.
        hits: what was found.
        fused: by space and time too.
        learnt: whether the gallery could do so.
        last_s: its last sighting.
        lost: how many of its files could not be read.
    """
    notes = []
    if learnt and not fused:
        notes.append("ranked by appearance alone: a camera and a time of each query are needed for space and time")
    elif not learnt and all(query.camera):
        notes.append("ranked by appearance alone: `dfrst gallery fit` teaches the gallery space and time")
    if lost:
        notes.append(numbered("{count} [file|files] of the gallery could not be read and [is|are] left out", lost))
    empty = int((hits.candidates == 0).sum())
    if empty:
        notes.append(numbered("{count} [query has|queries have] no sighting in [its|their] window of time", empty))
    late = int((np.isfinite(query.low) & (query.low > last_s)).sum()) if last_s is not None else 0
    if late:
        words = "the window of {count} [query|queries] begins after the last sighting of the gallery"
        notes.append(numbered(words, late))
    return notes
