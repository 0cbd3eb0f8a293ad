"""The result of a search."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest columns of each row, nearest first.

    Args:
        index: ``(N, k)`` int64 column numbers; equal distances are ordered by column number.
        distance: ``(N, k)`` float32 distances, not squared.
        farthest: ``(N,)`` float32 distance of the farthest column of all, not squared.
        near_ties: ``(T, 3)`` int64: a row and two columns that follow each other in its list (or the last one and the
            first that was left out) though their distances are closer than ``settle.resolution``: code that works in
            float32 throughout may order them differently.
        fallbacks: number of rows with so many candidates that they were measured whole.
        method: what made the products, for a report.
    """

    index: np.ndarray
    distance: np.ndarray
    farthest: np.ndarray
    near_ties: np.ndarray = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))
    fallbacks: int = 0
    method: str = ""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)
