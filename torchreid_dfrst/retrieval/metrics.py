"""Cumulative matching curve, mean average precision and mean inverse negative penalty, with the junk rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.distances import blocks
from torchreid_dfrst.retrieval.embeddings import check_labels
from torchreid_dfrst.retrieval.places import places, running

PRECISION, TRAPEZOID = "precision", "trapezoid"


@dataclass(frozen=True, eq=False)
class Metrics:
    """What one ranking is worth; every share is in [0, 1].

    Args:
        cmc: ``(R,)`` float64; ``cmc[r - 1]`` is the share of used queries with a match among their first r images.
        mAP: mean average precision over the used queries.
        mINP: mean inverse negative penalty (matches over the rank of the last match; Ye et al., 2021).
        average_precision: ``(Q,)`` float64, NaN for skipped queries.
        first_match: ``(Q,)`` int64 rank of the first match, from 1; 0 for skipped queries, one more than the gallery
            has where no match is listed (``listed.evaluate_lists``).
        inverse_penalty: ``(Q,)`` float64, the terms of mINP, NaN for skipped queries.
        used: number of queries that count.
        skipped: number of queries without any image of their identity that is not junk.
        truncated: number of used queries whose lists miss a match, so that mAP, mINP and CMC are lower bounds; 0 for
            whole rankings.
    """

    cmc: np.ndarray
    mAP: float
    mINP: float
    average_precision: np.ndarray
    first_match: np.ndarray
    inverse_penalty: np.ndarray
    used: int
    skipped: int
    truncated: int = 0

    def rank(self, r: int) -> float:
        """Rank-r accuracy; beyond the last measured rank the curve stays at its last value.

        Raises:
            ValueError: ``r`` is no whole number or below 1.
        """
        check("r", r, int)
        if r < 1:
            raise ValueError(f"rank {r} does not exist: 1 or more")
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
    check_choices(max_rank, average_precision)
    columns = check_columns(query_identity, gallery_identity, query_camera, gallery_camera)
    query_identity, gallery_identity, query_camera, gallery_camera = columns
    queries, images = len(query_identity), len(gallery_identity)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
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
        by_rank = np.argsort(row * images + rank)
        row, column, rank = row[by_rank], column[by_rank], rank[by_rank]
        junk: np.ndarray = gallery_camera[column] == query_camera[here][row]
        found.append(score(row, rank, junk, np.bincount(row[~junk], minlength=len(block)), average_precision))
        done += len(block)
        del block  # or there would be two while the next one is made
    if done != queries:
        raise ValueError(f"distances of {done} queries were given, {queries} are expected")
    return summary([np.concatenate(parts) for parts in zip(*found, strict=True)], columns, max_rank)


def score(
    row: np.ndarray, rank: np.ndarray, junk: np.ndarray, matches: np.ndarray, average_precision: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision, inverse penalty and rank of the first match of some queries.

    Args:
        row: ``(P,)`` query of each image of the query's identity whose place is known, rising.
        rank: ``(P,)`` its place among all images, from 0, rising for each query.
        junk: ``(P,)`` bool, whether it is junk.
        matches: ``(Q,)`` number of images that are right, also where their place is not known: their precision is
            taken as 0, and the inverse penalty of their query too.
        average_precision: see ``evaluate``.

    Returns:
        ``(Q,)`` average precision and inverse penalty, NaN where nothing is right, and ``(Q,)`` ranks from 1, 0 where
        the place of no right image is known.
    """
    # an image's rank among those that count is lower by the junk before it
    rank = rank + 1 - running(junk, row, np.bincount(row, minlength=len(matches)))
    row, rank = row[~junk], rank[~junk]
    known = np.bincount(row, minlength=len(matches))
    hits = running(np.ones(len(row), dtype=bool), row, known)
    precision: np.ndarray = hits / rank
    if average_precision == TRAPEZOID:
        # the precision just before a match; before the very first image it is 1 by the official code's definition
        before = np.where(rank > 1, (hits - 1) / np.maximum(rank - 1, 1), 1.0)
        precision = (precision + before) / 2
    result, penalty = np.full(len(matches), np.nan), np.full(len(matches), np.nan)
    scored = matches > 0
    result[scored] = np.bincount(row, precision, minlength=len(matches))[scored] / matches[scored]
    penalty[scored] = 0.0
    end = np.cumsum(known)
    whole = np.flatnonzero(scored & (known == matches))
    penalty[whole] = matches[whole] / rank[end[whole] - 1]
    first = np.zeros(len(matches), dtype=np.int64)
    some = np.flatnonzero(known)
    first[some] = rank[(end - known)[some]]
    return result, penalty, first


def summary(scores: Sequence[np.ndarray], columns: Sequence[np.ndarray], max_rank: int, truncated: int = 0) -> Metrics:
    """``Metrics`` of all queries from the scores of each (see ``score``) and the columns of ``check_columns``.

    Raises:
        ValueError: no query counts (the message says why).
    """
    precision, penalty, first = scores
    valid = first > 0
    if not valid.any():
        raise ValueError(_nothing_to_score(*columns))
    ranks = np.arange(1, min(max_rank, len(columns[1])) + 1)
    used = int(valid.sum())
    cmc = np.searchsorted(np.sort(first[valid]), ranks, side="right") / used
    means = float(precision[valid].mean()), float(penalty[valid].mean())
    return Metrics(cmc, *means, precision, first, penalty, used, len(first) - used, truncated)


def check_choices(max_rank: int, average_precision: str) -> None:
    """Refuse a form of average precision or a length of the curve that do not exist."""
    if average_precision not in (PRECISION, TRAPEZOID):
        raise KeyError(f"no average precision {average_precision!r}: {PRECISION!r} or {TRAPEZOID!r}")
    check("max_rank", max_rank, int)
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}: 1 or more")


def check_columns(
    query_identity: np.ndarray, gallery_identity: np.ndarray, query_camera: np.ndarray, gallery_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Identities and cameras, in this order, as arrays that fit together."""
    queries, images = np.size(query_identity), np.size(gallery_identity)
    if not queries or not images:
        raise ValueError(f"{queries} queries and {images} gallery images: at least one of each is needed")
    return (
        check_labels("query_identity", query_identity, queries),
        check_labels("gallery_identity", gallery_identity, images),
        check_labels("query_camera", query_camera, queries),
        check_labels("gallery_camera", gallery_camera, images),
    )


def _row_blocks(distance: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    if isinstance(distance, np.ndarray):
        if distance.ndim != 2:
            raise ValueError(f"distance has shape {distance.shape}, expected (queries, gallery)")
        for part in blocks(len(distance), max(1, distance.shape[1])):
            yield distance[part]
    else:
        if not isinstance(distance, Iterable):
            raise ValueError(f"distance is {distance!r}, expected a (queries, gallery) array or blocks of its rows")
        for block in distance:
            yield np.asarray(block)
            del block


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
