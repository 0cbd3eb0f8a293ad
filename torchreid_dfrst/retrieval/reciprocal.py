"""k-reciprocal sets and their encoding as sparse matrices (Zhong et al., CVPR 2017)."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval import pairs
from torchreid_dfrst.retrieval.distances import CLOSE
from torchreid_dfrst.retrieval.embeddings import Stack
from torchreid_dfrst.retrieval.search import Neighbors
from torchreid_dfrst.retrieval.transit import Fusion, transits


class Sets:
    """Reciprocal neighbours of every image, and those of its neighbours that share more than 2/3 of theirs.

    Args:
        index: ``(N, >= full)`` neighbours, nearest first.
        full: length of the lists that must hold each other's image.
        half: length of the lists for the neighbours' own neighbours.
    """

    def __init__(self, index: np.ndarray, full: int, half: int):
        self.own, self.theirs = reciprocal(index[:, :full]), reciprocal(index[:, :half])
        # 2/3 of the number in float64, as the reference computes it: the comparison is strict
        self.enough = 2.0 / 3 * np.diff(self.theirs.indptr)

    def expanded(self, rows: slice) -> sparse.csr_matrix:
        """The sets of some rows: ``(rows, N)`` CSR; what is stored belongs, whatever its value."""
        own = self.own[rows]
        # a set of theirs is a row and, being reciprocal, the same column
        shared = own.multiply(own @ self.theirs).tocoo()
        chosen = shared.data > self.enough[shared.col]
        ones = np.ones(int(chosen.sum()), dtype=np.float32)
        friends = sparse.csr_matrix((ones, (shared.row[chosen], shared.col[chosen])), shape=own.shape)
        return (own + friends @ self.theirs).tocsr()


def reciprocal(index: np.ndarray) -> sparse.csr_matrix:
    """Pairs that are in each other's lists: binary ``(N, N)`` CSR."""
    listed = binary(index, len(index))
    return listed.multiply(listed.T.tocsr()).tocsr()


def binary(index: np.ndarray, columns: int) -> sparse.csr_matrix:
    """``(rows, columns)`` CSR with a 1 where a row lists a column."""
    count, width = index.shape
    ones = np.ones(index.size, dtype=np.float32)
    return sparse.csr_matrix((ones, index.ravel(), np.arange(0, index.size + 1, width)), shape=(count, columns))


def weigh(support: sparse.csr_matrix, exponent: np.ndarray) -> sparse.csr_matrix:
    """Encoding with weights ``exp(-exponent)`` over their sum in each row; ``exponent`` follows ``support.data``."""
    weight = np.exp(-exponent)
    size = np.diff(support.indptr)
    total = np.bincount(np.repeat(np.arange(len(size)), size), weight, minlength=len(size))
    data = (weight / np.repeat(total, size)).astype(np.float32)
    return sparse.csr_matrix((data, support.indices, support.indptr), shape=support.shape)


def averaged(encoding: sparse.csr_matrix, index: np.ndarray, rows: slice) -> sparse.csr_matrix:
    """Local query expansion of some rows: each becomes the mean of the rows of ``encoding`` it lists in ``index``."""
    if index.shape[1] == 1:
        return encoding[rows]
    mean = binary(index[rows], len(index))
    mean.data /= index.shape[1]
    return mean @ encoding


def looked_up(support: sparse.csr_matrix, index: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the pairs of ``support`` that are in the lists.

    Args:
        support: ``(rows, N)`` CSR.
        index: ``(rows, k)`` columns listed for each row.
        value: ``(rows, k)`` value of each.

    Returns:
        One float32 value per stored pair, and the positions of the pairs that no list holds (their value is 0).
    """
    count, columns = support.shape
    order = np.argsort(index, axis=1)
    code = np.arange(count)[:, None] * columns
    listed = (np.take_along_axis(index, order, axis=1) + code).ravel()
    row = np.repeat(np.arange(count), np.diff(support.indptr))
    asked = row * columns + support.indices
    place = np.minimum(np.searchsorted(listed, asked), len(listed) - 1)
    found = listed[place] == asked
    result = np.take_along_axis(value, order, axis=1).ravel()[place].astype(np.float32)
    result[~found] = 0
    return result, np.flatnonzero(~found)


def support_distances(
    support: sparse.csr_matrix, block: slice, near: Neighbors, images: Stack, fusion: Fusion | None
) -> np.ndarray:
    """Distance (not squared) of every pair of ``support``: from the lists where they hold it, else measured.

    Args:
        support: ``(rows, N)`` CSR.
        block: which rows they are; none that crosses from one part of ``images`` into the next.
        near: the lists of all rows.
        images: the embeddings.
        fusion: what to add to the appearance distance; None for nothing.
    """
    result, missing = looked_up(support, near.index[block], near.distance[block])
    row = np.searchsorted(support.indptr, missing, side="right") - 1
    column = support.indices[missing]
    order = np.lexsort((column, row))
    found = np.empty(len(missing), dtype=np.float32)
    product = pairs.products(images, images, block, row[order], column[order])
    found[order] = np.sqrt(np.maximum(2 - 2 * product, 0))
    # a fused list may leave out what looks the same: equal images are then at 0, not at a rounding error's root
    close = np.flatnonzero(found < CLOSE)
    found[close] = pairs.exact(images, images, row[close] + block.start, column[close])
    if fusion is not None:
        found += np.float32(fusion.weight) * transits(fusion.transit, row + block.start, column)
    result[missing] = found
    return result
