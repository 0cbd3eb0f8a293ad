"""One distance for both directions, where a space-time model has two."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.retrieval import pairs
from torchreid_dfrst.spatiotemporal.transit import Transit


class Mirrored:
    """A transit between images of one list, the same there and back.

    k-reciprocal sets know one distance between two images; models with directed camera pairs have two. Between a query
    and a gallery image that of the query counts, as in the ranking without re-ranking; between two queries or two
    gallery images it is the mean of both directions. (Our reading.)

    Args:
        transit: ``(N, N)`` transit distances of queries, then gallery.
        queries: how many of the N are queries.
    """

    symmetric = True

    def __init__(self, transit: Transit, queries: int):
        self.transit, self.queries = transit, queries
        self.shape, self.low, self.high = transit.shape, transit.low, transit.high

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows and columns."""
        result = np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32)
        for i in self._sides(rows):
            for j in self._sides(columns):
                there = i.start < self.queries, j.start < self.queries
                if there == (True, False):
                    value = self.transit.block(i, j)
                elif there == (False, True):
                    value = self.transit.block(j, i).T
                else:
                    value = (self.transit.block(i, j) + self.transit.block(j, i).T) / 2
                result[i.start - rows.start : i.stop - rows.start, j.start - columns.start : j.stop - columns.start] = (
                    value
                )
        return result

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Float32 distances of single pairs, as in their blocks."""
        query = rows < self.queries, columns < self.queries
        there, back = query[0] & ~query[1], ~query[0] & query[1]
        # what goes against the query's direction is turned round, both directions only where they are averaged
        first = np.where(back, columns, rows), np.where(back, rows, columns)
        value = pairs.transits(self.transit, *first)
        both = np.flatnonzero(~(there | back))
        value[both] = (value[both] + pairs.transits(self.transit, columns[both], rows[both])) / 2
        return value

    def _sides(self, part: slice) -> list[slice]:
        """The pieces of a slice that are queries and gallery."""
        middle = min(max(self.queries, part.start), part.stop)
        return [s for s in (slice(part.start, middle), slice(middle, part.stop)) if s.start < s.stop]


def mirrored(transit: Transit, queries: int) -> Transit:
    """The transit itself if it says that it is the same there and back, else ``Mirrored``."""
    return transit if is_symmetric(transit) else Mirrored(transit, queries)


def is_symmetric(transit: Transit) -> bool:
    """Whether the distance there is the distance back, to the last bit: what the transit says, no if it says nothing.

    Samples would not show it: two directions may differ between two cameras of hundreds.
    """
    return bool(getattr(transit, "symmetric", False))
