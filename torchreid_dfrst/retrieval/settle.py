"""From candidates whose distances are known up to an error to lists that are right to the last place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchreid_dfrst.retrieval.embeddings import check_finite

RESOLUTION = 2.0**-20
"""Distances closer than this (four float32 roundings of a squared distance) may be ordered differently elsewhere."""

Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]
Blur = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def resolution(appearance: np.ndarray, rounding: float) -> np.ndarray:
    """How much farther an image may be than one at this appearance distance and still come first in float32 code.

    Such code orders squared distances ``2 - 2 s``, and a product s is off by some ``rounding``: two squares that
    differ by less than ``4 rounding`` may change places. The smaller the distance, the larger a gap that is.
    """
    least = np.maximum(appearance, 0)
    return np.maximum(RESOLUTION, np.sqrt(least**2 + 4 * rounding) - least)


def blurred(distance: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Which distances are so close to the next one that float32 code may order the two differently."""
    return np.diff(distance) < np.maximum(blur[:-1], blur[1:])


def settle(
    row: np.ndarray,
    column: np.ndarray,
    distance: np.ndarray,
    error: np.ndarray,
    count: int,
    rows: int,
    judge: Judge,
    blur: Blur,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``count`` nearest candidates of each row.

    Candidates whose intervals ``distance +- error`` touch, directly or through others, are measured again by ``judge``
    where they can matter; equal ones go by column number.

    Args:
        row: ``(P,)`` row of each candidate, 0 to ``rows - 1``, sorted; at least ``count`` for each.
        column: ``(P,)`` its column.
        distance: ``(P,)`` float64 distance, rising within a row.
        error: ``(P,)`` bound on the error of each.
        count: length of the lists.
        rows: number of rows.
        judge: true distances of the pairs ``(row, column)``.
        blur: ``resolution`` of the pairs ``(row, column)``, whose true distances come third.

    Returns:
        Columns ``(rows, count)`` int64, distances ``(rows, count)`` float64, and near-ties ``(T, 3)`` int64: a row and
        two columns, one after the other in its list (or the last and the first that is left out), whose distances
        float32 cannot tell apart.

    Raises:
        ValueError: distances are not finite, or so few of a row are there that others must have been NaN.
    """
    start = np.searchsorted(row, np.arange(rows))
    sound = np.bincount(row[np.isfinite(distance)], minlength=rows)
    check_finite((sound >= count) & (sound == np.diff(start, append=len(row))))
    rank = np.arange(len(row)) - start[row]
    far = 2.0 * (distance.max(initial=0.0) + error.max(initial=0.0)) + 1.0
    latest = np.maximum.accumulate(distance + error + far * row)
    earliest = np.minimum.accumulate((distance - error + far * row)[::-1])[::-1]
    run = np.concatenate([[0], np.cumsum(latest[:-1] < earliest[1:])])
    first = np.flatnonzero(np.diff(run, prepend=-1))
    size = np.diff(first, append=len(row))
    open_run = (size > 1) & (rank[first] < count)
    member = np.flatnonzero(open_run[run])
    near_ties = np.empty((0, 3), dtype=np.int64)
    if len(member):
        truth = judge(row[member], column[member])
        order = np.lexsort((column[member], truth, run[member]))
        column, distance = column.copy(), distance.copy()
        column[member], distance[member] = column[member][order], truth[order]
        left, right = member[:-1], member[1:]
        close = blurred(distance[member], blur(row[member], column[member], distance[member]))
        close &= (run[left] == run[right]) & (rank[left] < count)
        near_ties = np.stack([row[left], column[left], column[right]], axis=1)[close]
    place = start[:, None] + np.arange(count)
    return column[place].astype(np.int64), distance[place], near_ties
