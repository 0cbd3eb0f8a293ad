"""What two sets of encodings share, touching only pairs that share something."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from torchreid_dfrst.retrieval import memory

EVENTS = 1 << 21
"""Products of one entry with one entry that are held at once where memory does not matter."""


class Shared:
    """Sums of elementwise minima between rows of sparse encodings.

    Args:
        left: ``(Q, N)`` CSR encodings whose rows sum to 1.
        right: ``(G, N)`` CSR encodings whose rows sum to 1.

    Attributes:
        events: products of one entry with one entry that are held at once; those of one entry of ``left`` always are.
        crowd: the most entries in one column of ``right``.
    """

    def __init__(self, left: sparse.csr_matrix, right: sparse.csr_matrix):
        self.left, self.inverted = left, right.tocsc()
        self.events, self.crowd = EVENTS, int(np.diff(self.inverted.indptr).max())

    def plan(self, full: int, width: int, memory_limit: int | None, fused: bool = False) -> memory.BlockPlan:
        """Blocks of distances that keep within a limit of memory; ``events`` is set to theirs.

        Args:
            full: neighbours per image, held meanwhile.
            width: dimensions of the embeddings that are multiplied again; 0 for none.
            memory_limit: bytes; None for no limit.
            fused: whether transit distances take part.

        Raises:
            ValueError: not even single rows keep within it.
        """
        memory.give_back(memory_limit)
        columns, images = self.inverted.shape
        held = memory.encoded(images, full, [self.left.nnz, self.inverted.nnz])
        plan = memory.block_plan(held, columns, width, self.crowd, EVENTS, memory_limit, fused)
        self.events = plan.events
        return plan

    def add(self, rows: slice, total: np.ndarray) -> None:
        """Add the sums of minima of some rows of ``left`` to ``total``, ``(rows, G)`` float32 and contiguous."""
        left, inverted = self.left, self.inverted
        entry = slice(left.indptr[rows.start], left.indptr[rows.stop])
        column, weight = left.indices[entry], left.data[entry]
        first = inverted.indptr[column].astype(np.int64)
        holders = inverted.indptr[column + 1] - first
        done = np.concatenate([[0], np.cumsum(holders)])
        row = np.repeat(np.arange(rows.stop - rows.start), np.diff(left.indptr[rows.start : rows.stop + 1]))
        first -= done[:-1]
        row *= total.shape[1]
        start = 0
        while start < len(column):
            stop = max(start + 1, int(np.searchsorted(done, done[start] + self.events, side="right")) - 1)
            owner = np.repeat(np.arange(start, stop), holders[start:stop])
            place = np.arange(done[start], done[stop])
            place += first[owner]
            low = np.minimum(weight[owner], inverted.data[place])
            flat = row[owner]
            flat += inverted.indices[place]
            np.add.at(total.reshape(-1), flat, low)
            start = stop

    def distance(self, rows: slice) -> np.ndarray:
        """Jaccard distances ``1 - sum min / sum max`` of some rows: ``(rows, G)`` float32 in [0, 1]."""
        total = np.zeros((rows.stop - rows.start, self.inverted.shape[0]), dtype=np.float32)
        self.add(rows, total)
        return jaccard(total, 1.0)


def jaccard(total: np.ndarray, share: float) -> np.ndarray:
    """Turn sums of minima into ``share`` times the Jaccard distance, in place.

    Encodings that sum to 1 have a sum of maxima of ``2 - sum min``, so the distance is ``2 - 2 / (2 - sum min)``.
    """
    tensor = torch.from_numpy(total)
    tensor.neg_().add_(2).clamp_(min=1).reciprocal_().mul_(-2 * share).add_(2 * share)
    return total
