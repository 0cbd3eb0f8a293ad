"""Metrics of rankings of which only the best places are known: lists of the k nearest images."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.retrieval.metrics import PRECISION, Metrics, check_choices, check_columns, score, summary


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
    """Score lists of the nearest images (``neighbors``, ``Reranking.top``) by the rule of ``metrics.evaluate``.

    ``truncated`` of the result counts the used queries whose list misses a right image. If it is 0, the result is that
    of ``evaluate`` on the whole ranking. If not, a right image that is not listed counts as never found: its precision
    is 0 (AP is divided by *all* right images), the inverse penalty of its query is 0, and a query without any listed
    match is never right. All three are then lower bounds, though CMC is exact up to rank r where every list holds r
    images that are not junk.

    Args:
        index: ``(Q, k)`` integer gallery rows, best first; -1 behind the last of a list that has fewer.
        query_identity: ``(Q,)`` integers.
        gallery_identity: ``(G,)`` integers.
        query_camera: ``(Q,)`` integers.
        gallery_camera: ``(G,)`` integers.
        max_rank: length of the CMC curve; a smaller gallery gives a shorter one.
        average_precision: see ``evaluate``.

    Raises:
        ValueError: shapes that do not fit, rows that the gallery does not have, a row twice in one list, a row behind
            a -1, or no query that counts (the message says why).
        KeyError: an unknown form of average precision.
    """
    check_choices(max_rank, average_precision)
    columns = check_columns(query_identity, gallery_identity, query_camera, gallery_camera)
    query_identity, gallery_identity, query_camera, gallery_camera = columns
    index = _checked(index, len(query_identity), len(gallery_identity))
    row, rank = np.nonzero((gallery_identity[index] == query_identity[:, None]) & (index >= 0))
    junk: np.ndarray = gallery_camera[index[row, rank]] == query_camera[row]
    matches = _matches(*columns)
    precision, penalty, first = score(row, rank, junk, matches, average_precision)
    first[(matches > 0) & (first == 0)] = len(gallery_identity) + 1
    missed = np.bincount(row[~junk], minlength=len(index)) < matches
    return summary((precision, penalty, first), columns, max_rank, int(missed.sum()))


def _matches(
    query_identity: np.ndarray, gallery_identity: np.ndarray, query_camera: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """Number of right images of each query in the whole gallery: of its identity, less those of its camera too."""
    _, who = np.unique(np.concatenate([query_identity, gallery_identity]), return_inverse=True)
    _, where = np.unique(np.concatenate([query_camera, gallery_camera]), return_inverse=True)
    queries, both = len(query_identity), who * (where.max() + 1) + where
    seen, own = np.bincount(who[queries:], minlength=who.max() + 1), np.sort(both[queries:])
    junk = np.searchsorted(own, both[:queries], side="right") - np.searchsorted(own, both[:queries], side="left")
    return np.asarray(seen[who[:queries]] - junk)


def _checked(index: np.ndarray, queries: int, images: int) -> np.ndarray:
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
