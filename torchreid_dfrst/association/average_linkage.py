"""Average linkage on evidence, and the tree it leaves.

Two clusters merge in the order of the mean evidence between their passes. Where a tree is cut, its clusters are the
trajectories; uncut, the evidence at which two passes come together ranks all others for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import cophenet, fcluster, linkage


@dataclass(frozen=True, eq=False)
class Tree:
    """What average linkage found.

    Args:
        merges: SciPy's linkage matrix, with ``top - evidence`` as its distance; None for fewer than two passes.
        top: evidence at distance 0.
        size: number of passes.
    """

    merges: np.ndarray | None
    top: float
    size: int

    def cut(self, evidence: float) -> np.ndarray:
        """``(P,)`` int64 labels from 0 of the clusters whose passes came together at that evidence or more."""
        if self.merges is None:
            return np.arange(self.size)
        return np.unique(fcluster(self.merges, self.top - evidence, "distance"), return_inverse=True)[1]

    def together(self) -> np.ndarray:
        """``(P (P - 1) / 2,)`` float32 evidence at which two passes come together, in the order of ``upper``."""
        if self.merges is None:
            return np.empty(0, dtype=np.float32)
        return (self.top - cophenet(self.merges)).astype(np.float32)


def upper(matrix: np.ndarray) -> np.ndarray:
    """The values above the diagonal of a square matrix, row after row: the flat form of all pairs."""
    return matrix[np.triu(np.ones(matrix.shape, dtype=bool), 1)]


def grow(evidence: np.ndarray, size: int) -> Tree:
    """The tree of the evidence of all pairs of ``size`` passes, in the order of ``upper``."""
    if size < 2:
        return Tree(None, 0.0, size)
    top = float(evidence.max())
    return Tree(linkage(top - evidence.astype(np.float64), "average"), top, size)
