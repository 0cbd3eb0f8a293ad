"""Where single gallery images stand in the ranking of their query."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from torchreid_dfrst.retrieval.distances import blocks


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


def running(flag: np.ndarray, row: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Number of flags so far within the own row; rows are consecutive and ``size`` long."""
    total = np.concatenate([[0], np.cumsum(flag)])
    return total[1:] - total[(np.cumsum(size) - size)[row]]
