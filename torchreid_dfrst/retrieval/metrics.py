"""Cumulative matching curve, mean average precision and mean inverse negative penalty, with the junk rule."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.retrieval import checks
from torchreid_dfrst.retrieval.neighbors import blocks

PRECISION, TRAPEZOID = "precision", "trapezoid"


@dataclass(frozen=True, eq=False)
class Metrics:
    """What one ranking is worth; every share is in [0, 1].

    Args:
        cmc: ``(R,)`` float64; ``cmc[r - 1]`` is the share of used queries with a match among their first r images.
        mAP: mean average precision over the used queries.
        mINP: mean inverse negative penalty (matches over the rank of the last match; Ye et al., 2021).
        average_precision: ``(Q,)`` float64, NaN for skipped queries.
        first_match: ``(Q,)`` int64 rank of the first match, from 1; 0 for skipped queries.
        inverse_penalty: ``(Q,)`` float64, the terms of mINP, NaN for skipped queries.
        used: number of queries that count.
        skipped: number of queries without any image of their identity that is not junk.
    """

    cmc: np.ndarray
    mAP: float
    mINP: float
    average_precision: np.ndarray
    first_match: np.ndarray
    inverse_penalty: np.ndarray
    used: int
    skipped: int

    def rank(self, r: int) -> float:
        """Rank-r accuracy; beyond the last measured rank the curve stays at its last value."""
        return float(self.cmc[min(r, len(self.cmc)) - 1])


def evaluate(
    distance: np.ndarray | Iterable[np.ndarray],
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
    *,
    max_rank: int = 50,
    average_precision: str = PRECISION,
) -> Metrics:
    """Score a ranking by torchreid's (Market-1501's) rule.

    For each query, gallery images of its own identity *and* camera are junk: they are neither right nor wrong. Equal
    distances rank by gallery order.

    Args:
        distance: ``(Q, G)`` distances, or blocks of consecutive rows as they are made.
        query_identity: ``(Q,)`` integers.
        gallery_identity: ``(G,)`` integers.
        query_camera: ``(Q,)`` integers.
        gallery_camera: ``(G,)`` integers.
        max_rank: length of the CMC curve; a smaller gallery gives a shorter one.
        average_precision: ``"precision"``: mean of the precision at each match (torchreid, fast-reid);
            ``"trapezoid"``: the area of VeRi-776's official MATLAB code.

    Raises:
        ValueError: shapes that do not fit, NaN distances, no gallery, no query that counts (the message says why).
        KeyError: an unknown form of average precision.
    """
    if average_precision not in (PRECISION, TRAPEZOID):
        raise KeyError(f"no average precision {average_precision!r}: {PRECISION!r} or {TRAPEZOID!r}")
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}: 1 or more")
    query_identity, gallery_identity = np.asarray(query_identity), np.asarray(gallery_identity)
    queries, images = len(query_identity), len(gallery_identity)
    if not queries or not images:
        raise ValueError(f"{queries} queries and {images} gallery images: at least one of each is needed")
    query_identity = checks.labels("query_identity", query_identity, queries)
    gallery_identity = checks.labels("gallery_identity", gallery_identity, images)
    query_camera = checks.labels("query_camera", query_camera, queries)
    gallery_camera = checks.labels("gallery_camera", gallery_camera, images)

    result = np.full(queries, np.nan)
    penalty = np.full(queries, np.nan)
    first = np.zeros(queries, dtype=np.int64)
    order = np.argsort(gallery_identity, kind="stable")
    begin = np.searchsorted(gallery_identity[order], query_identity, side="left")
    end = np.searchsorted(gallery_identity[order], query_identity, side="right")
    done = 0
    for block in _row_blocks(distance):
        if block.ndim != 2 or block.shape[1] != images or done + len(block) > queries:
            raise ValueError(f"distances of shape {block.shape} from query {done} on, expected ({queries}, {images})")
        here = slice(done, done + len(block))
        size = end[here] - begin[here]
        row = np.repeat(np.arange(len(block)), size)
        column = order[np.arange(len(row)) + (begin[here] - np.cumsum(size) + size)[row]]
        rank = places(block, row, column, done)
        # by query and rank; ranks then lose one for each junk image before them
        order_here = np.argsort(row * images + rank)
        row, column, rank = row[order_here], column[order_here], rank[order_here]
        junk: np.ndarray = gallery_camera[column] == query_camera[here][row]
        rank = rank + 1 - _running(junk, row, size)
        row, rank = row[~junk], rank[~junk]
        matches = np.bincount(row, minlength=len(block))
        hits = _running(np.ones(len(row), dtype=bool), row, matches)
        precision: np.ndarray = hits / rank
        if average_precision == TRAPEZOID:
            # the precision just before a match; before the very first image it is 1 by the official code's definition
            before = np.where(rank > 1, (hits - 1) / np.maximum(rank - 1, 1), 1.0)
            precision = (precision + before) / 2
        scored = np.flatnonzero(matches)
        last = np.cumsum(matches)[scored] - 1
        result[done + scored] = np.bincount(row, precision, minlength=len(block))[scored] / matches[scored]
        penalty[done + scored] = matches[scored] / rank[last]
        first[done + scored] = rank[last - matches[scored] + 1]
        done += len(block)
    if done != queries:
        raise ValueError(f"distances of {done} queries were given, {queries} are expected")
    valid = first > 0
    if not valid.any():
        raise ValueError(_nothing_to_score(query_identity, gallery_identity, query_camera, gallery_camera))
    ranks = np.arange(1, min(max_rank, images) + 1)
    cmc = np.searchsorted(np.sort(first[valid]), ranks, side="right") / valid.sum()
    used = int(valid.sum())
    return Metrics(
        cmc, float(result[valid].mean()), float(penalty[valid].mean()), result, first, penalty, used, queries - used
    )


def places(distance: np.ndarray, row: np.ndarray, column: np.ndarray, first_query: int = 0) -> np.ndarray:
    """Place of single gallery images in the ranking of their query, from 0; equal distances go by column.

    Only values are sorted, and an image's place is found by its value; a row is sorted with its columns only where the
    value of one of the images asked for occurs more than once.

    Args:
        distance: ``(Q, G)`` distances.
        row: ``(P,)`` queries, rising.
        column: ``(P,)`` gallery images.
        first_query: number of the first row, for the message.

    Raises:
        ValueError: a distance is NaN.
    """
    value = distance[row, column]
    result = np.empty(len(row), dtype=np.int64)
    edges = np.searchsorted(row, np.arange(len(distance) + 1))

    def work(part: slice) -> None:
        ordered = np.sort(distance[part], axis=1)
        if np.isnan(ordered[:, -1]).any():
            raise ValueError(
                f"distance of query {first_query + part.start + int(np.isnan(ordered[:, -1]).argmax())} is NaN"
            )
        for i, line in enumerate(ordered, start=part.start):
            result[edges[i] : edges[i + 1]] = line.searchsorted(value[edges[i] : edges[i + 1]])
        span = slice(edges[part.start], edges[part.stop])
        after = np.minimum(result[span] + 1, distance.shape[1] - 1)
        again = (ordered[row[span] - part.start, after] == value[span]) & (after > result[span])
        for i in np.unique(row[span][again]):
            place = np.empty(distance.shape[1], dtype=np.int64)
            place[np.argsort(distance[i], kind="stable")] = np.arange(distance.shape[1])
            result[edges[i] : edges[i + 1]] = place[column[edges[i] : edges[i + 1]]]

    parts = blocks(len(distance), 16 * distance.shape[1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, parts))
    return result


def _running(flag: np.ndarray, row: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Number of flags so far within the own row; rows are consecutive and ``size`` long."""
    total = np.concatenate([[0], np.cumsum(flag)])
    return total[1:] - total[(np.cumsum(size) - size)[row]]


def _row_blocks(distance: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    if isinstance(distance, np.ndarray):
        if distance.ndim != 2:
            raise ValueError(f"distance has shape {distance.shape}, expected (queries, gallery)")
        for part in blocks(len(distance), max(1, distance.shape[1])):
            yield distance[part]
    else:
        for block in distance:
            yield np.asarray(block)


def _nothing_to_score(
    query_identity: np.ndarray, gallery_identity: np.ndarray, query_camera: np.ndarray, gallery_camera: np.ndarray
) -> str:
    here = np.isin(query_identity, gallery_identity)
    if not here.any():
        return f"none of the {len(np.unique(query_identity))} query identities is in the gallery: check the labels"
    cameras = np.union1d(query_camera, gallery_camera)
    if len(cameras) == 1:
        return (
            f"all images are from camera {cameras[0]}, so every match is junk (same identity, same camera): "
            "cross-camera evaluation needs two cameras"
        )
    return (
        f"{here.sum()} of {len(here)} queries have their identity in the gallery, but only from the query's own "
        "camera, which is junk: another camera has to see the vehicle"
    )
