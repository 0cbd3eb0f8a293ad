"""k-reciprocal sets and their encoding as sparse matrices (Zhong et al., CVPR 2017)."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval import pairs
from torchreid_dfrst.retrieval.fused import Fusion
from torchreid_dfrst.retrieval.stack import Stack


def expanded(index: np.ndarray, full: int, half: int) -> sparse.csr_matrix:
    """Reciprocal neighbours of every image, and those of its neighbours that share more than 2/3 of theirs.

    Args:
        index: ``(N, >= full)`` neighbours, nearest first.
        full: length of the lists that must hold each other's image.
        half: length of the lists for the neighbours' own neighbours.

    Returns:
        ``(N, N)`` CSR; what is stored belongs, whatever its value.
    """
    own, theirs = reciprocal(index[:, :full]), reciprocal(index[:, :half])
    shared = own.multiply(own @ theirs.T).tocoo()
    # 2/3 of the number in float64, as the reference computes it: the comparison is strict
    enough = shared.data > 2.0 / 3 * np.diff(theirs.indptr)[shared.col]
    ones = np.ones(int(enough.sum()), dtype=np.float32)
    friends = sparse.csr_matrix((ones, (shared.row[enough], shared.col[enough])), shape=own.shape)
    return (own + friends @ theirs).tocsr()


def reciprocal(index: np.ndarray) -> sparse.csr_matrix:
    """Pairs that are in each other's lists: binary ``(N, N)`` CSR."""
    listed = binary(index)
    return listed.multiply(listed.T.tocsr()).tocsr()


def binary(index: np.ndarray) -> sparse.csr_matrix:
    """``(N, N)`` CSR with a 1 where a row lists a column."""
    count, width = index.shape
    ones = np.ones(index.size, dtype=np.float32)
    return sparse.csr_matrix((ones, index.ravel(), np.arange(0, index.size + 1, width)), shape=(count, count))


def weigh(support: sparse.csr_matrix, exponent: np.ndarray) -> sparse.csr_matrix:
    """Encoding with weights ``exp(-exponent)`` over their sum in each row; ``exponent`` follows ``support.data``."""
    weight = np.exp(-exponent)
    size = np.diff(support.indptr)
    total = np.bincount(np.repeat(np.arange(len(size)), size), weight, minlength=len(size))
    data = (weight / np.repeat(total, size)).astype(np.float32)
    return sparse.csr_matrix((data, support.indices, support.indptr), shape=support.shape)


def averaged(encoding: sparse.csr_matrix, index: np.ndarray) -> sparse.csr_matrix:
    """Local query expansion: each row becomes the mean of the rows it lists in ``index``."""
    if index.shape[1] == 1:
        return encoding
    mean = binary(index)
    mean.data /= index.shape[1]
    return mean @ encoding


def looked_up(support: sparse.csr_matrix, index: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the pairs of ``support`` that are in the lists.

    Args:
        support: ``(N, N)`` CSR.
        index: ``(N, k)`` columns listed for each row.
        value: ``(N, k)`` value of each.

    Returns:
        One float32 value per stored pair, and the positions of the pairs that no list holds (their value is 0).
    """
    count = len(index)
    order = np.argsort(index, axis=1)
    code = np.arange(count)[:, None] * count
    listed = (np.take_along_axis(index, order, axis=1) + code).ravel()
    row = np.repeat(np.arange(count), np.diff(support.indptr))
    asked = row * count + support.indices
    place = np.minimum(np.searchsorted(listed, asked), len(listed) - 1)
    found = listed[place] == asked
    result = np.take_along_axis(value, order, axis=1).ravel()[place].astype(np.float32)
    result[~found] = 0
    return result, np.flatnonzero(~found)


def support_distances(
    support: sparse.csr_matrix, index: np.ndarray, distance: np.ndarray, rows: Stack, fusion: Fusion | None, step: int
) -> np.ndarray:
    """Distance (not squared) of every pair of ``support``: from the lists where they hold it, else measured."""
    result, missing = looked_up(support, index, distance)
    row = np.searchsorted(support.indptr, missing, side="right") - 1
    column = support.indices[missing]
    found = np.empty(len(missing), dtype=np.float32)
    for block in rows.blocks(step):
        part = slice(*np.searchsorted(row, [block.start, block.stop]))
        if part.start == part.stop:
            continue
        order = np.lexsort((column[part], row[part]))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        product = pairs.products(rows, rows, block, row[part][order] - block.start, column[part][order])[back]
        found[part] = np.sqrt(np.maximum(2 - 2 * product, 0))
        if fusion is not None:
            found[part] += np.float32(fusion.weight) * pairs.transits(fusion.transit, row[part], column[part])
    result[missing] = found
    return result
