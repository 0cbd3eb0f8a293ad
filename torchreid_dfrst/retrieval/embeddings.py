"""Embeddings as every entry of this package takes them: checked, of unit length, several lists addressed as one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from torchreid_dfrst.checks import check
from torchreid_dfrst.messages import sample

TOLERANCE = 1e-4  # how far the length of an embedding may be from 1
EXACT = 2.0**-22
"""How far it may be before it is mended; the bounds on errors of products (``float32_error``) allow for it."""
ROWS = 64  # rows measured at once, so that they stay in the processor's cache


def checked(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings as C-ordered float32, and their lengths, float64; copied only where dtype or layout ask for it.

    Raises:
        ValueError: not ``(N, D)`` floating point, no row, or rows with NaN or infinity in float32 (they are named).
    """
    array = np.asarray(values)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected (N, D) floating point: one row per image"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: there is no image or no feature to compare")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=np.float32)
    length = np.empty(len(result))
    for part in consecutive(0, len(result), ROWS):
        rows = result[part].astype(np.float64)
        length[part] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    # finite only where every value is: squares of float32 fit into float64
    bad = np.flatnonzero(~np.isfinite(length))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(array)} rows of {name} hold NaN or infinity (first rows: {sample(bad, 5)})"
            + ("" if array.dtype == np.float32 else "; float32 holds nothing above 3.4e38")
        )
    return result, length


def _divided(array: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Rows divided by ``(N,)`` float64 lengths, each quotient rounded once: a new float32 array."""
    return np.divide(array, length[:, None], out=np.empty_like(array), casting="same_kind")


def unit(name: str, values: np.ndarray) -> np.ndarray:
    """Embeddings of unit length, as C-ordered float32; a copy where a length is off by more than rounding.

    Raises:
        ValueError: as ``checked``, or a length that is not 1.
    """
    array, length = checked(name, values)
    off = np.abs(length - 1)
    bad = np.flatnonzero(off > TOLERANCE)
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(array)} rows of {name} are not of length 1 (row {bad[0]}: {length[bad[0]]:.6g}, at "
            f"most {TOLERANCE:g} off is accepted): pass them through normalise first"
        )
    return _divided(array, np.where(off > EXACT, length, 1)) if (off > EXACT).any() else array


def normalise(embedding: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length: a new ``(N, D)`` float32 array.

    Raises:
        ValueError: as ``checked``, or a row of zeros (the rows are named).
    """
    embedding, length = checked("embedding", embedding)
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise ValueError(
            f"{len(zero)} of {len(embedding)} embeddings are zero and have no direction "
            f"(first rows: {sample(zero, 5)}): leave those images out"
        )
    return _divided(embedding, length)


def same_width(first: np.ndarray, second: np.ndarray) -> None:
    """Refuse embeddings of two different models."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"embeddings have {first.shape[1]} and {second.shape[1]} dimensions: extract both with one model"
        )


def check_count(count: int, images: int) -> None:
    """Refuse lists that are not of a whole number of images between one and all."""
    check("count", count, int)
    if not 1 <= count <= images:
        raise ValueError(f"{count} neighbours of {images} images were asked for: between 1 and {images}")


def consecutive(start: int, stop: int, step: int) -> list[slice]:
    """Slices of at most ``step`` numbers that follow each other from ``start`` to ``stop``."""
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


class Stack:
    """Queries and gallery, say, as one list of ``N`` embeddings: arrays ``(N_p, D)`` float32 of one width."""

    def __init__(self, *parts: np.ndarray):
        self.parts = [part for part in parts if len(part)]
        self.edges = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.edges[-1]), self.parts[0].shape[1])

    def __len__(self) -> int:
        """Number of rows in all parts."""
        return self.shape[0]

    def blocks(self, step: int) -> list[slice]:
        """Consecutive slices of at most ``step`` rows, none of which crosses from one part into the next."""
        return [part for ends in pairwise(self.edges.tolist()) for part in consecutive(*ends, step)]

    def within(self, block: slice) -> tuple[int, slice]:
        """The part that holds a block, and the block's rows in it."""
        part = int(np.searchsorted(self.edges, block.start, side="right")) - 1
        return part, slice(block.start - self.edges[part], block.stop - self.edges[part])

    def rows(self, block: slice) -> np.ndarray:
        """View of a slice that does not cross from one part into the next."""
        part, rows = self.within(block)
        return self.parts[part][rows]

    def between(self, start: int, stop: int) -> Stack:
        """Views of consecutive rows."""
        ends = zip(self.parts, self.edges.tolist(), strict=False)
        return Stack(*(part[max(0, start - edge) : max(0, stop - edge)] for part, edge in ends))

    def take(self, index: np.ndarray) -> np.ndarray:
        """Copy of single rows, in the order asked for."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][index])
        result = np.empty((len(index), self.shape[1]), dtype=np.float32)
        for part, begin, end in zip(self.parts, self.edges[:-1], self.edges[1:], strict=True):
            here = (index >= begin) & (index < end)
            result[here] = part[index[here] - begin]
        return result


def alike(rows: Stack) -> np.ndarray:
    """Which embeddings are equal to the last bit: ``(N,)`` int64, the number of the first of them."""
    first = np.arange(len(rows))
    score = np.concatenate([_pattern_sums(part) for part in rows.parts])
    order = np.argsort(score, kind="stable")
    for k in np.flatnonzero(np.diff(score[order]) == 0):
        one, other = rows.take(order[k : k + 2])
        if np.array_equal(one, other):
            first[order[k + 1]] = first[order[k]]
    return first


def _pattern_sums(part: np.ndarray) -> np.ndarray:
    """``(N,)`` uint64, equal for rows that are equal to the last bit, and hardly ever for others.

    The sum of a row's bit patterns, taken as integers, each times a number of its column's: a sum of the patterns alone
    would be the same for another order of them.
    """
    view = part.view(np.uint64 if part.shape[1] % 2 == 0 else np.uint32)
    factor = np.random.default_rng(0).integers(1 << 64, size=view.shape[1], dtype=np.uint64)
    return np.einsum("nd,d->n", view, factor)
