"""What rankings are worth (CMC, mAP and mINP with the junk rule), and the first images of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.checks import check, within
from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.retrieval.tiles import each, workers
from torchreid_dfrst.sightings import UNKNOWN, Sightings, same_vehicle

PRECISION, TRAPEZOID = "precision", "trapezoid"
GROUP = 16


class NothingToScoreError(ValueError):
    """No query counts; the message says why."""


@dataclass(frozen=True, eq=False)
class Metrics:
    """What one ranking is worth; every share is in [0, 1].

    Args:
        cmc: ``(R,)`` float64; ``cmc[r - 1]`` is the share of used queries with a match among their first r images.
        mAP: mean average precision over the used queries.
        mINP: mean inverse negative penalty (matches over the rank of the last match; Ye et al., 2021).
        average_precision: ``(Q,)`` float64, NaN for skipped queries.
        first_match: ``(Q,)`` int64 rank of the first match, from 1; 0 for skipped queries, one more than the gallery
            has where no match is listed (``evaluate_lists``).
        inverse_penalty: ``(Q,)`` float64, the terms of mINP, NaN for skipped queries.
        used: number of queries that count.
        skipped: number of queries without an identity, or without any image of it that is not junk.
        truncated: number of used queries whose lists miss a match; 0 for whole rankings.
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
        """Rank-r accuracy, r from 1 on; beyond the last measured rank the curve stays at its last value."""
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
    at: int | None = None,
) -> Metrics:
    """Score a ranking by torchreid's (Market-1501's) rule.

    For each query, gallery images of its own identity *and* camera are junk: they are neither right nor wrong. Equal
    distances rank by gallery order. ``UNKNOWN`` (-1) is nobody's identity: such a query is skipped, such a gallery
    image is never right.

    Args:
        distance: ``(Q, G)`` distances, or blocks of consecutive rows as they are made.
        query_identity: ``(Q,)`` integers.
        gallery_identity: ``(G,)`` integers.
        query_camera: ``(Q,)`` integers.
        gallery_camera: ``(G,)`` integers.
        max_rank: length of the CMC curve; a smaller gallery gives a shorter one.
        average_precision: ``"precision"``: mean of the precision at each match (torchreid, fast-reid);
            ``"trapezoid"``: the area of VeRi-776's official MATLAB code.
        at: k of mAP@k: precision counts at matches among the first k images, over ``min(matches, k)``; None for all.

    Raises:
        ValueError: shapes that do not fit, NaN distances, no gallery, ``at`` below 1.
        NothingToScoreError: no query counts (the message says why).
        KeyError: an unknown form of average precision.
    """
    columns = query_identity, gallery_identity, query_camera, gallery_camera = _checked_labels(
        (query_identity, gallery_identity, query_camera, gallery_camera), max_rank, average_precision
    )
    queries, images = len(query_identity), len(gallery_identity)
    if at is not None:
        within("at", at, lowest=1)
    done, scores = 0, []
    for block in _row_blocks(distance):
        if block.ndim != 2 or block.shape[1] != images or done + len(block) > queries:
            raise ValueError(f"distances of shape {block.shape} from query {done} on, expected ({queries}, {images})")
        here = slice(done, done + len(block))
        row, column = np.nonzero(same_vehicle(query_identity[here, None], gallery_identity))
        rank = _places_in_ranking(block, row, column, done)
        by_rank = np.lexsort((rank, row))
        row, column, rank = row[by_rank], column[by_rank], rank[by_rank]
        junk: np.ndarray = gallery_camera[column] == query_camera[here][row]
        matches = np.bincount(row[~junk], minlength=len(block))
        scores.append(_score_queries(row, rank, junk, matches, average_precision, at))
        done += len(block)
        del block  # or there would be two while the next one is made
    if done != queries:
        raise ValueError(f"distances of {done} queries were given, {queries} are expected")
    return _summary_of_queries([np.concatenate(parts) for parts in zip(*scores, strict=True)], columns, max_rank)


def evaluate_lists(
    index: np.ndarray,
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
    *,
    max_rank: int = 50,
    average_precision: str = PRECISION,
) -> Metrics:
    """Score lists of the nearest images (``neighbors``, ``Reranking.top``) by the rule of ``evaluate``.

    ``truncated`` of the result counts the used queries whose list misses a right image. If it is 0, the result is that
    of ``evaluate`` on the whole ranking. If not, a right image that is not listed counts as never found: AP is divided
    by *all* right images, the inverse penalty of its query is 0, and a query without any listed match is never right.
    All three are then lower bounds, though CMC is exact up to rank r where every list holds r images that are not junk.

    ``index`` is ``(Q, k)`` integer gallery rows, best first, with -1 behind the last of a list that has fewer. All
    other arguments are those of ``evaluate``.

    Raises:
        ValueError: shapes that do not fit, rows that the gallery does not have, a row twice in one list, a row behind
            a -1, or no query that counts (the message says why).
        KeyError: an unknown form of average precision.
    """
    columns = query_identity, gallery_identity, query_camera, gallery_camera = _checked_labels(
        (query_identity, gallery_identity, query_camera, gallery_camera), max_rank, average_precision
    )
    index = _checked_lists(index, len(query_identity), len(gallery_identity))
    row, rank = np.nonzero(same_vehicle(query_identity[:, None], gallery_identity[index]) & (index >= 0))
    junk: np.ndarray = gallery_camera[index[row, rank]] == query_camera[row]
    _, who = np.unique(np.concatenate([query_identity, gallery_identity]), return_inverse=True)
    _, where = np.unique(np.concatenate([query_camera, gallery_camera]), return_inverse=True)
    _, both = np.unique(who * (where.max() + 1) + where, return_inverse=True)
    # all images of the query's identity, less those of its camera too
    seen, own = (np.bincount(code[len(index) :], minlength=len(code))[code[: len(index)]] for code in (who, both))
    matches = np.where(query_identity == UNKNOWN, 0, seen - own)
    precision, penalty, match = _score_queries(row, rank, junk, matches, average_precision)
    match[(matches > 0) & (match == 0)] = len(gallery_identity) + 1
    missed = np.bincount(row[~junk], minlength=len(index)) < matches
    return _summary_of_queries((precision, penalty, match), columns, max_rank, int(missed.sum()))


def _places_in_ranking(distance: np.ndarray, row: np.ndarray, column: np.ndarray, first_query: int) -> np.ndarray:
    """Place of single gallery images in the ranking of their query, from 0, by their value; ``row`` rises."""
    value, result = distance[row, column], np.empty(len(row), dtype=np.int64)
    edges = np.searchsorted(row, np.arange(len(distance) + 1))

    def work(part: slice) -> None:
        ordered = np.sort(distance[part], axis=1)
        bad = np.flatnonzero(np.isnan(ordered[:, -1]))
        if len(bad):
            raise ValueError(f"distance of query {first_query + part.start + bad[0]} is NaN")
        for i, line in enumerate(ordered, start=part.start):
            asked = slice(edges[i], edges[i + 1])
            result[asked] = line.searchsorted(value[asked])
            tied = line.searchsorted(value[asked], side="right") > result[asked] + 1
            for k in edges[i] + np.flatnonzero(tied):
                result[k] += np.count_nonzero(distance[i, : column[k]] == value[k])

    each(consecutive(0, len(distance), 16), work, workers(None))
    return result


def _score_queries(
    row: np.ndarray, rank: np.ndarray, junk: np.ndarray, matches: np.ndarray, form: str, at: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision, inverse penalty (NaN without a match) and rank of the first known match (0: none) of queries.

    Given are, of each image of the query's identity whose place is known: the query, rising, the place from 0, rising
    for each query, and whether it is junk. ``matches`` also counts right images whose place is not known.
    """
    # an image's rank among those that count is lower by the junk before it
    before = np.cumsum(junk) - junk
    rank = rank + 1 - (before - before[np.searchsorted(row, row)])
    row, rank = row[~junk], rank[~junk]
    hits = np.arange(1, len(row) + 1) - np.searchsorted(row, row)
    precision: np.ndarray = hits / rank
    if form == TRAPEZOID:
        # the precision just before a match; before the very first image it is 1 by the official code's definition
        precision = (precision + np.where(rank > 1, (hits - 1) / np.maximum(rank - 1, 1), 1.0)) / 2
    most = matches
    if at is not None:
        precision, most = np.where(rank <= at, precision, 0.0), np.minimum(matches, at)
    some, begin, known = np.unique(row, return_index=True, return_counts=True)
    result, penalty = np.where(matches > 0, np.zeros((2, len(matches))), np.nan)
    result[some] = np.bincount(row, precision, minlength=len(matches))[some] / most[some]
    penalty[some] = np.where(known == matches[some], known / rank[begin + known - 1], 0)
    match = np.zeros(len(matches), dtype=np.int64)
    match[some] = rank[begin]
    return result, penalty, match


def _summary_of_queries(
    scores: Sequence[np.ndarray], columns: Sequence[np.ndarray], max_rank: int, truncated: int = 0
) -> Metrics:
    """``Metrics`` of all queries from the scores of each, if any counts."""
    precision, penalty, match = scores
    valid = match > 0
    if not valid.any():
        raise NothingToScoreError(_nothing_to_score(columns))
    ranks, used = np.arange(1, min(max_rank, len(columns[1])) + 1), int(valid.sum())
    cmc = np.searchsorted(np.sort(match[valid]), ranks, side="right") / used
    means = float(precision[valid].mean()), float(penalty[valid].mean())
    return Metrics(cmc, *means, precision, match, penalty, used, len(match) - used, truncated)


def _nothing_to_score(columns: Sequence[np.ndarray]) -> str:
    """Why no query counts."""
    query_identity, gallery_identity, query_camera, gallery_camera = columns
    asked = query_identity[query_identity != UNKNOWN]
    here = np.isin(asked, gallery_identity)
    if not here.any():
        return f"none of the {len(np.unique(asked))} query identities is in the gallery: check the labels"
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


def require_known(query_identity: np.ndarray) -> None:
    """Raise a ``NothingToScoreError`` where no query has an identity, before anything is computed."""
    if (query_identity == UNKNOWN).all():
        raise NothingToScoreError(
            f"none of the {len(query_identity)} queries has an identity: there is nothing to score; `dfrst rank` lists "
            "what is nearest to each"
        )


def _checked_labels(columns: Sequence[np.ndarray], max_rank: int, average_precision: str) -> list[np.ndarray]:
    """Identities of queries and gallery, and their cameras, as arrays that fit together; the choices exist too."""
    if average_precision not in (PRECISION, TRAPEZOID):
        raise KeyError(f"no average precision {average_precision!r}: {PRECISION!r} or {TRAPEZOID!r}")
    check("max_rank", max_rank, int)
    within("max_rank", max_rank, lowest=1)
    queries, images = np.size(columns[0]), np.size(columns[1])
    if not queries or not images:
        raise ValueError(f"{queries} queries and {images} gallery images: at least one of each is needed")
    names = "query_identity", "gallery_identity", "query_camera", "gallery_camera"
    checked = [np.asarray(column) for column in columns]
    for name, array, size in zip(names, checked, 2 * (queries, images), strict=True):
        if array.shape != (size,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"{name} has shape {array.shape} and dtype {array.dtype}, expected ({size},) integers: one per image"
            )
    require_known(checked[0])
    return checked


def _row_blocks(distance: np.ndarray | Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    if not isinstance(distance, Iterable):
        raise ValueError(f"distance is {distance!r}, expected a (queries, gallery) array or blocks of its rows")
    if not isinstance(distance, np.ndarray):
        return map(np.asarray, distance)
    if distance.ndim != 2:
        raise ValueError(f"distance has shape {distance.shape}, expected (queries, gallery)")
    return (distance[part] for part in consecutive(0, len(distance), 256))


def _checked_lists(index: np.ndarray, queries: int, images: int) -> np.ndarray:
    """The lists, if they are lists of this gallery."""
    index = np.asarray(index)
    if index.ndim != 2 or len(index) != queries or not index.shape[1] or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"index has shape {index.shape} and dtype {index.dtype}, expected ({queries}, k) integers: gallery rows, "
            "best first"
        )
    beyond = np.argwhere((index < -1) | (index >= images))
    if len(beyond):
        query, place = beyond[0]
        raise ValueError(
            f"the list of query {query} holds row {index[query, place]} of a gallery of {images}: 0 to {images - 1}, "
            "or -1 behind its end"
        )
    later = np.argwhere((index[:, :-1] < 0) & (index[:, 1:] >= 0))
    if len(later):
        raise ValueError(f"the list of query {later[0][0]} goes on behind a -1: -1 ends a list")
    ordered = np.sort(index, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    if len(twice):
        query, place = twice[0]
        raise ValueError(f"the list of query {query} holds gallery row {ordered[query, place]} twice")
    return index


def lowest(line: np.ndarray, count: int, leave_out: np.ndarray | None = None) -> np.ndarray:
    """Places of the ``count`` lowest values of a line but those left out, rising; equal ones by place."""
    last = min(count + (0 if leave_out is None else len(leave_out)), len(line)) - 1
    # so many minima of groups are so many values: the true limit is no higher than theirs
    groups = len(line) // GROUP
    least = line[: GROUP * groups].reshape(GROUP, groups).min(axis=0) if groups > last else line
    near = np.flatnonzero(line <= np.partition(least, last)[last])
    if leave_out is not None:
        near = np.setdiff1d(near, leave_out, assume_unique=True)
    return np.asarray(near[np.argsort(line[near], kind="stable")[:count]])


def first(distance: np.ndarray, count: int, leave_out: np.ndarray | None = None) -> np.ndarray:
    """Gallery rows of the ``count`` smallest of the ``(Q, G)`` distances of each query, equal ones by gallery order.

    ``leave_out`` are ``(Q, G)`` bool, images that must not be listed (junk, see ``evaluate``). Returned are
    ``(Q, count)`` int64, nearest first; -1 where a query has fewer images.

    Raises:
        ValueError: ``count`` is no whole number or below 1, NaN distances, or shapes that differ.
    """
    distance = np.asarray(distance)
    check("count", count, int)
    if count < 1 or distance.ndim != 2 or (leave_out is not None and leave_out.shape != distance.shape):
        raise ValueError(
            f"{count} images of distances {distance.shape}, leaving out {getattr(leave_out, 'shape', None)}: "
            "at least one image, and (queries, gallery) for both"
        )
    result = np.full((len(distance), count), -1)
    for i, line in enumerate(distance if distance.size else ()):
        if np.isnan(line).any():
            raise ValueError(f"distance of query {i} is NaN")
        near = lowest(line, count, None if leave_out is None else np.flatnonzero(leave_out[i]))
        result[i, : len(near)] = near
    return result


class Best:
    """The first images of each query and its first right one, noted while the distances go by in blocks.

    ``junk`` leaves out images of the query's own identity and camera.

    Attributes:
        index: ``(Q, count)`` gallery rows, as ``first`` gives them.
        distance: ``(Q, count)`` float32, NaN where there are fewer.
        match: ``(Q,)`` gallery row of the first image of the query's identity, -1 where there is none.
        rank: ``(Q,)`` its rank among the images that are not left out, from 1; 0 where there is none.
    """

    def __init__(self, query: Sightings, gallery: Sightings, count: int, junk: bool = True):
        self.query, self.gallery, self.count, self.junk, self.done = query, gallery, count, junk, 0
        self.index = np.full((len(query), count), -1)
        self.distance = np.full((len(query), count), np.nan, dtype=np.float32)
        self.match, self.rank = np.full(len(query), -1), np.zeros(len(query), dtype=np.int64)

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Hand on blocks ``(rows, G)`` of consecutive queries, and note each once whoever takes it is done with it."""
        for block in blocks:
            yield block
            self.note(block)
            del block

    def note(self, block: np.ndarray) -> None:
        """Note the distances of the next queries, ``(rows, G)``."""
        for line in block:
            self._note(line, self.done)
            self.done += 1

    def _note(self, line: np.ndarray, query: int) -> None:
        same = np.flatnonzero(same_vehicle(self.query.identity[query], self.gallery.identity))
        own = (self.gallery.camera[same] == self.query.camera[query]) & self.junk
        junk, right = same[own], same[~own]
        near = lowest(line, self.count, junk)
        near = near[line[near] < np.inf]  # a protocol leaves images out by an infinite distance
        self.index[query, : len(near)], self.distance[query, : len(near)] = near, line[near]
        if len(right):
            match = right[np.argmin(line[right])]
            ahead = np.concatenate([np.flatnonzero(line < line[match]), np.flatnonzero(line[:match] == line[match])])
            self.match[query], self.rank[query] = match, 1 + len(ahead) - np.isin(junk, ahead).sum()
