"""What two sets of encodings share, touching only pairs that share something."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse

EVENTS = 1 << 21
"""Products of one entry with one entry that are held at once (24 bytes each)."""


class Shared:
    """Sums of elementwise minima between rows of sparse encodings.

    Args:
        left: ``(Q, N)`` CSR encodings whose rows sum to 1.
        right: ``(G, N)`` CSR encodings whose rows sum to 1.
    """

    def __init__(self, left: sparse.csr_matrix, right: sparse.csr_matrix):
        self.left, self.inverted = left, right.tocsc()
        holders = np.diff(self.inverted.indptr).astype(np.int64)
        self.work = np.concatenate([[0], np.cumsum(holders[left.indices])])[left.indptr]

    def add(self, rows: slice, total: np.ndarray) -> None:
        """Add the sums of minima of some rows of ``left`` to ``total``, ``(rows, G)`` float32 and contiguous."""
        left, inverted = self.left, self.inverted
        entry = slice(left.indptr[rows.start], left.indptr[rows.stop])
        column = left.indices[entry]
        first = inverted.indptr[column].astype(np.int64)
        holders = inverted.indptr[column + 1] - first
        owner = np.repeat(np.arange(len(column)), holders)
        place = np.arange(len(owner)) + (first - np.cumsum(holders) + holders)[owner]
        low = np.minimum(left.data[entry][owner], inverted.data[place])
        row = np.repeat(np.arange(rows.stop - rows.start), np.diff(left.indptr[rows.start : rows.stop + 1]))
        flat = (row * total.shape[1])[owner] + inverted.indices[place]
        np.add.at(total.reshape(-1), flat, low)

    def distance(self, rows: slice) -> np.ndarray:
        """Jaccard distances ``1 - sum min / sum max`` of some rows: ``(rows, G)`` float32 in [0, 1]."""
        total = np.zeros((rows.stop - rows.start, self.inverted.shape[0]), dtype=np.float32)
        self.add(rows, total)
        return jaccard(total, 1.0)

    def blocks(self, step: int, within: slice | None = None) -> Iterator[slice]:
        """Slices of at most ``step`` rows of ``left`` (one at least) that hold a bounded amount of work.

        They follow each other through all rows, or through those ``within``.
        """
        start, count = (within.start, within.stop) if within else (0, self.left.shape[0])
        while start < count:
            stop = int(np.searchsorted(self.work, self.work[start] + EVENTS, side="right")) - 1
            stop = max(start + 1, min(stop, start + step, count))
            yield slice(start, stop)
            start = stop


def jaccard(total: np.ndarray, share: float) -> np.ndarray:
    """Turn sums of minima into ``share`` times the Jaccard distance, in place.

    Encodings that sum to 1 have a sum of maxima of ``2 - sum min``, so the distance is ``2 - 2 / (2 - sum min)``.
    """
    tensor = torch.from_numpy(total)
    tensor.neg_().add_(2).clamp_(min=1).reciprocal_().mul_(-2 * share).add_(2 * share)
    return total
