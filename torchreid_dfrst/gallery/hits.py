"""What is asked of a gallery and what it finds: the hits of all partitions as one table, with what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchreid_dfrst.association.average_linkage import grow, upper
from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import Content
from torchreid_dfrst.messages import numbered

TEXT = ("path", "camera", "identity", "track")
NUMBERS = ("query", "distance", "appearance", "transit", "time_s")
APPEARANCE, FUSED = "appearance", "+ ST"
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
        cameras: names of those whose images were searched.
        lost: file to why it could not be read; ``gone`` where it is not there any more.
        parts: of some queries, a row for each image: ``NUMBERS``, ``TEXT`` and ``embedding``.
    """

    candidates: np.ndarray
    cameras: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)


def merged(found: Sequence[Found], query: Query, by: str) -> tuple[Hits, np.ndarray, np.ndarray]:
    """The nearest of all partitions, by query, distance, time and name; their transit distances and embeddings."""
    parts = [part for one in found for part in one.parts]
    number = {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in NUMBERS}
    embedding = np.concatenate([np.empty((0, query.embedding.shape[1]), np.float32), *(p["embedding"] for p in parts)])
    words = {name: [word for part in parts for word in part[name]] for name in TEXT}
    names = np.array(words["path"], dtype=np.str_)
    order = np.lexsort((names, number["time_s"], number["distance"], number["query"]))
    row = number["query"][order]
    place = np.arange(len(order)) - np.searchsorted(row, row, "left")
    order, place = order[place < query.top], place[place < query.top]
    text = {name: [words[name][k] for k in order] for name in TEXT}
    columns = {
        "query": number["query"][order].astype(np.int64).tolist(),
        "rank": (place + 1).tolist(),
        "path": text["path"],
        "camera": text["camera"],
        "time_s": [None if np.isnan(t) else t for t in number["time_s"][order].tolist()],
        "identity": text["identity"],
        "track": text["track"],
        "distance": number["distance"][order].tolist(),
        "appearance": number["appearance"][order].tolist(),
        **{name: [None] * len(order) for name in ("probability", "passes", "trip")},
    }
    count = sum((one.candidates for one in found), start=np.zeros(len(query.embedding), dtype=np.int64))
    return Hits(columns, count, by), number["transit"][order], embedding[order]


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
    columns, notes = dict(hits.columns), hits.notes
    row, time_s = np.array(columns["query"], dtype=np.int64), np.array(columns["time_s"], dtype=np.float64)
    here = np.array(query.camera)[row] == np.array(columns["camera"], dtype=np.str_)  # which is no trip
    way = np.where(np.isnan(time_s) | here, np.nan, transit) if trips is not None else None
    appearance = np.array(columns["appearance"])
    columns["probability"] = calibration.probability(appearance, way, hits.candidates[row], strangers).tolist()
    if rate is not None:
        least = calibration.threshold(rate, trips is not None)
        columns["passes"] = (np.asarray(sum(calibration.evidence(appearance, way))) >= least).tolist()
    trip: list[int | None] = [None] * len(hits)
    for one, candidates in enumerate(hits.candidates.tolist()):
        rows = np.flatnonzero(row == one)[:JOINED]
        both = np.concatenate([query.embedding[[one]], embedding[rows]]).astype(np.float64)
        camera = [query.camera[one], *(columns["camera"][k] for k in rows)]
        evidence = _evidence_among(both, camera, np.append(query.time_s[one], time_s[rows]), trips, calibration)
        label = grow(upper(evidence), len(both)).cut(-float(calibration.prior(float(candidates), strangers)))
        _, first = np.unique(label, return_index=True)
        for k, number in zip(rows.tolist(), np.argsort(np.argsort(first))[label][1:].tolist(), strict=True):
            trip[k] = number
    if None in trip:
        notes = (*notes, numbered("hits beyond the first {count} of a query are not joined into trips", JOINED))
    return replace(hits, columns={**columns, "trip": trip}, notes=notes)


def _evidence_among(
    embedding: np.ndarray, camera: list[str], time_s: np.ndarray, trips: Trips | None, calibration: Calibration
) -> np.ndarray:
    """``(N, N)`` evidence that two of these images show one vehicle."""
    appearance, way = np.linalg.norm(embedding[:, None] - embedding, axis=2), None
    if trips is not None:
        rows, gap = trips.rows(camera), time_s - time_s[:, None]
        way = trips.model.law.distance(rows[:, None], rows, gap).astype(np.float64)
        way[np.isnan(gap) | (rows[:, None] == rows)] = np.nan  # one camera and itself is no trip
    return np.asarray(sum(calibration.evidence(appearance, way)))


def remarks(query: Query, hits: Hits, content: Content, lost: int) -> list[str]:
    """What a reader of hits should know, a sentence each; ``lost``: files of the gallery that were not read."""
    notes, learnt = [], content.spacetime is not None
    if (content.calibration or {}).get("held_out") is False:
        notes.append("probabilities are too sure: the network was trained on the vehicles that they were fitted on")
    if learnt and hits.by == APPEARANCE:
        notes.append("ranked by appearance alone: a camera and a time of each query are needed for space and time")
    elif not learnt and all(query.camera):
        notes.append("ranked by appearance alone: `dfrst gallery fit` teaches the gallery space and time")
    if lost:
        notes.append(numbered("{count} [file|files] of the gallery could not be read and [is|are] left out", lost))
    if empty := int((hits.candidates == 0).sum()):
        notes.append(numbered("{count} [query has|queries have] no sighting in [its|their] window of time", empty))
    last = max((file.last_s for file in content.files if file.last_s is not None), default=np.inf)
    after = np.isfinite(query.low) & (query.low > last)
    for rows, words in (
        (after, "the window of {count} [query|queries] begins after the last sighting of the gallery"),
        (~after & (query.time_s > last), "{count} [query is|queries are] later than the last sighting of the gallery"),
    ):
        if rows.any():
            notes.append(numbered(words, int(rows.sum())))
    return notes
