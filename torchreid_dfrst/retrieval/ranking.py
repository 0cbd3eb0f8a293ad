"""The first images of each ranking, for lists and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from torchreid_dfrst.checks import check
from torchreid_dfrst.sightings import Sightings


def first(distance: np.ndarray, count: int, leave_out: np.ndarray | None = None) -> np.ndarray:
    """Gallery rows of the ``count`` smallest distances of each query, nearest first.

    Args:
        distance: ``(Q, G)`` distances; equal ones rank by gallery order.
        count: length of each list, ``>= 1``.
        leave_out: ``(Q, G)`` bool, images that must not be listed (junk, see ``metrics.evaluate``); None for none.

    Returns:
        ``(Q, count)`` int64; -1 where a query has fewer images.

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
    for i, row in enumerate(distance):
        if np.isnan(row).any():
            raise ValueError(f"distance of query {i} is NaN")
        allowed = np.arange(len(row)) if leave_out is None else np.flatnonzero(~leave_out[i])
        order = allowed[np.argsort(row[allowed], kind="stable")[:count]]
        result[i, : len(order)] = order
    return result


def best_matches(
    distance: np.ndarray, query: Sightings, gallery: Sightings, count: int, junk: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` gallery images of each query, and their distances.

    Args:
        distance: ``(Q, G)``.
        query: what each row is.
        gallery: what each column is.
        count: length of each list.
        junk: leave out images of the query's own identity and camera.

    Returns:
        Gallery rows, -1 where there are fewer, and their distances, NaN there: both ``(Q, count)``.
    """
    same = (query.identity[:, None] == gallery.identity) & (query.camera[:, None] == gallery.camera)
    index = first(distance, count, leave_out=same if junk else None)
    near = np.take_along_axis(distance, np.maximum(index, 0), axis=1)
    return index, np.where(index < 0, np.nan, near)


class Best:
    """The first images of each query and its first right one, noted while the distances go by in blocks.

    Args:
        query: what each row is.
        gallery: what each column is.
        count: length of each list.
        junk: leave out images of the query's own identity and camera.

    Attributes:
        index: ``(Q, count)`` gallery rows, as ``best_matches`` gives them.
        distance: ``(Q, count)`` float32, likewise.
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
            for row in block:
                self._note(row)
            del block

    def _note(self, row: np.ndarray) -> None:
        query = self.done
        same = np.flatnonzero(self.gallery.identity == self.query.identity[query])
        own = (self.gallery.camera[same] == self.query.camera[query]) & self.junk
        junk, right = same[own], same[~own]
        last = min(self.count + len(junk), len(row)) - 1
        near = np.setdiff1d(np.flatnonzero(row <= np.partition(row, last)[last]), junk, assume_unique=True)
        near = near[np.argsort(row[near], kind="stable")[: self.count]]
        self.index[query, : len(near)], self.distance[query, : len(near)] = near, row[near]
        if len(right):
            match = right[np.argmin(row[right])]
            ahead = np.concatenate([np.flatnonzero(row < row[match]), np.flatnonzero(row[:match] == row[match])])
            self.match[query], self.rank[query] = match, 1 + len(ahead) - np.isin(junk, ahead).sum()
        self.done += 1
