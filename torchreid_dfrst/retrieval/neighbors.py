"""Exact k nearest neighbours by appearance or by the fused distance of Eq. 6, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.retrieval import checks
from torchreid_dfrst.spatiotemporal.transit import Transit

BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest columns of each row, nearest first.

    Args:
        index: ``(N, k)`` int64 column numbers; equal distances are ordered by column number.
        distance: ``(N, k)`` float32 distances, not squared.
        farthest: ``(N,)`` float32 distance of the farthest column of all, not squared.
    """

    index: np.ndarray
    distance: np.ndarray
    farthest: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)


def normalise(embedding: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length: a new ``(N, D)`` float32 array.

    Raises:
        ValueError: not ``(N, D)`` floating point, NaN, infinity, or a row of zeros (the rows are named).
    """
    embedding = checks.embeddings("embedding", embedding)
    length = np.sqrt(np.einsum("nd,nd->n", embedding, embedding, dtype=np.float64))
    zero = np.flatnonzero(length == 0)
    if len(zero):
        rows = ", ".join(map(str, zero[:5]))
        raise ValueError(
            f"{len(zero)} of {len(embedding)} embeddings are zero and have no direction (first rows: {rows}): "
            "leave those images out"
        )
    return (embedding / length[:, None]).astype(np.float32)


def neighbors(
    rows: np.ndarray, columns: np.ndarray, count: int, *, transit: Transit | None = None, weight: float = 0.0
) -> Neighbors:
    """The ``count`` nearest columns of each row by ``Da + weight * transit`` (Eq. 6).

    Nothing is left out: a column that is the same image as the row is its own neighbour at distance 0.

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        count: neighbours per row, 1 to M.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.

    Raises:
        ValueError: bad embeddings, ``count`` out of range, a transit of another shape, or a negative weight.
    """
    rows, columns = checks.embeddings("rows", rows), checks.embeddings("columns", columns)
    checks.same_width(rows, columns)
    if not 1 <= count <= len(columns):
        raise ValueError(f"{count} neighbours of {len(columns)} images were asked for: between 1 and {len(columns)}")
    checks.fusion(transit, weight, (len(rows), len(columns)))
    index = np.empty((len(rows), count), dtype=np.int64)
    nearest = np.empty((len(rows), count), dtype=np.float32)
    farthest = np.empty(len(rows), dtype=np.float32)
    for part in blocks(len(rows), len(columns)):
        block = _distance(rows, columns, part, transit, weight)
        farthest[part] = block.max(axis=1)
        # every column as near as the k-th takes part, so that the tie at the border goes to the lowest number
        limit = np.partition(block, count - 1, axis=1)[:, count - 1 : count]
        row, column = np.nonzero(block <= limit)
        order = np.lexsort((column, block[row, column], row))
        start = np.searchsorted(row[order], np.arange(len(block)))
        chosen = order[start[:, None] + np.arange(count)]
        index[part], nearest[part] = column[chosen], block[row[chosen], column[chosen]]
    return Neighbors(index, nearest, farthest)


def distance(
    rows: np.ndarray, columns: np.ndarray, *, transit: Transit | None = None, weight: float = 0.0
) -> np.ndarray:
    """All ``(N, M)`` float32 distances ``Da + weight * transit`` (Eq. 6), Da Euclidean and not squared, in [0, 2].

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.

    Raises:
        ValueError: bad embeddings, a transit of another shape, or a negative weight.
    """
    rows, columns = checks.embeddings("rows", rows), checks.embeddings("columns", columns)
    checks.same_width(rows, columns)
    checks.fusion(transit, weight, (len(rows), len(columns)))
    result = np.empty((len(rows), len(columns)), dtype=np.float32)
    for part in blocks(len(rows), len(columns)):
        result[part] = _distance(rows, columns, part, transit, weight)
    return result


def blocks(count: int, width: int) -> list[slice]:
    """Consecutive slices of ``count`` rows of which one, ``width`` float32 values wide, takes at most 64 MB."""
    step = max(1, BLOCK_BYTES // (4 * width))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _distance(rows: np.ndarray, columns: np.ndarray, part: slice, transit: Transit | None, weight: float) -> np.ndarray:
    block = rows[part] @ columns.T
    np.multiply(block, -2, out=block)
    np.add(block, 2, out=block)
    np.maximum(block, 0, out=block)
    np.sqrt(block, out=block)
    if transit is not None and weight:
        block += np.float32(weight) * transit.block(part, slice(0, len(columns)))
    return block
