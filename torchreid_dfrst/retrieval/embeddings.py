"""Embeddings as every entry of this package takes them: checked, of unit length, several lists addressed as one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from torchreid_dfrst.checks import check

TOLERANCE = 1e-4
"""How far the length of an embedding may be from 1."""
EXACT = 2.0**-22
"""How far it may be before it is mended; the bounds on errors of products (``products.float32_error``) allow for it."""
ROWS = 64
"""Rows measured at once, so that they stay in the processor's cache."""


def checked(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings as C-ordered float32, and their lengths, float64; copies only where dtype or layout ask for it.

    Raises:
        ValueError: not ``(N, D)`` floating point, no row, or values that are NaN or infinite in float32 (the rows are
            named).
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
    for start in range(0, len(result), ROWS):
        part = result[start : start + ROWS].astype(np.float64)
        length[start : start + ROWS] = np.sqrt(np.einsum("nd,nd->n", part, part))
    # finite only where every value is: squares of float32 fit into float64
    bad = np.flatnonzero(~np.isfinite(length))
    if len(bad):
        rows = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{len(bad)} of {len(array)} rows of {name} hold NaN or infinity (first rows: {rows})"
            + ("" if array.dtype == np.float32 else "; float32 holds nothing above 3.4e38")
        )
    return result, length


def scaled(array: np.ndarray, length: np.ndarray) -> np.ndarray:
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
    return scaled(array, np.where(off > EXACT, length, 1)) if (off > EXACT).any() else array


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


def check_precision(name: str) -> None:
    """Refuse a precision that no search has."""
    if name not in ("auto", "fp32", "bf16"):
        raise KeyError(f"no precision {name!r}: 'auto', 'fp32' or 'bf16'")


def check_finite(rows: np.ndarray) -> None:
    """Refuse rows of distances (``(N,)`` bool, whether each is all right) that a transit made NaN or infinite."""
    bad = np.flatnonzero(~rows)
    if len(bad):
        raise ValueError(
            f"distances of {len(bad)} rows are NaN or infinite: the transit has to give a number for every pair"
        )


def check_labels(name: str, values: np.ndarray, count: int) -> np.ndarray:
    """A column of integer labels of the given length."""
    array = np.asarray(values)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected ({count},) integers: one per image"
        )
    return array


def normalise(embedding: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length: a new ``(N, D)`` float32 array.

    Raises:
        ValueError: not ``(N, D)`` floating point, NaN, infinity, or a row of zeros (the rows are named), all as
            float32 sees them.
    """
    embedding, length = checked("embedding", embedding)
    zero = np.flatnonzero(length == 0)
    if len(zero):
        rows = ", ".join(map(str, zero[:5]))
        raise ValueError(
            f"{len(zero)} of {len(embedding)} embeddings are zero and have no direction (first rows: {rows}): "
            "leave those images out"
        )
    return scaled(embedding, length)


class Stack:
    """Queries and gallery, say, as one list of ``N`` embeddings.

    Args:
        parts: arrays ``(N_p, D)`` float32 of one width.
    """

    def __init__(self, *parts: np.ndarray):
        self.parts = [part for part in parts if len(part)]
        self.edges = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.edges[-1]), self.parts[0].shape[1])

    def __len__(self) -> int:
        """Number of rows in all parts."""
        return self.shape[0]

    def blocks(self, step: int) -> list[slice]:
        """Consecutive slices of at most ``step`` rows, none of which crosses from one part into the next."""
        return [
            part
            for begin, end in zip(self.edges[:-1], self.edges[1:], strict=True)
            for part in consecutive(int(begin), int(end), step)
        ]

    def rows(self, block: slice) -> np.ndarray:
        """View of a slice that ``blocks`` gave (or of a run of such slices within one part)."""
        part = self.part(block.start)
        return self.parts[part][block.start - self.edges[part] : block.stop - self.edges[part]]

    def part(self, row: int) -> int:
        """Number of the part that holds a row."""
        return int(np.searchsorted(self.edges, row, side="right")) - 1

    def take(self, index: np.ndarray) -> np.ndarray:
        """Copy of single rows, in the order asked for."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][index])
        result = np.empty((len(index), self.shape[1]), dtype=np.float32)
        for part, begin, end in zip(self.parts, self.edges[:-1], self.edges[1:], strict=True):
            here = (index >= begin) & (index < end)
            result[here] = part[index[here] - begin]
        return result


def consecutive(start: int, stop: int, step: int) -> list[slice]:
    """Slices of at most ``step`` numbers that follow each other from ``start`` to ``stop``."""
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def alike(rows: Stack) -> np.ndarray:
    """Which embeddings are equal to the last bit: ``(N,)`` int64, the number of the first of them.

    Rows are compared whose bit patterns, taken as integers, have the same sum, each times a number of its column's: a
    sum of the patterns alone would be the same for another order of them.
    """
    pattern = np.uint64 if rows.shape[1] % 2 == 0 else np.uint32
    views = [part.view(pattern) for part in rows.parts]
    factor = np.random.default_rng(0).integers(1 << 64, size=views[0].shape[1], dtype=np.uint64)
    score: np.ndarray = np.concatenate([np.einsum("nd,d->n", view, factor) for view in views])
    first: np.ndarray = np.arange(len(rows))
    order = np.argsort(score, kind="stable")
    again = np.flatnonzero(np.diff(score[order]) == 0)
    for k in again:
        one, other = int(first[order[k]]), int(order[k + 1])
        if np.array_equal(rows.take(np.array([one]))[0], rows.take(np.array([other]))[0]):
            first[other] = one
    return first


def repeated(copies: np.ndarray) -> np.ndarray:
    """What ``alike`` found, with -1 in place of the number of an embedding that occurs once."""
    return np.where(np.bincount(copies, minlength=len(copies))[copies] > 1, copies, -1)


def write_equals(tile: torch.Tensor, left: np.ndarray, right: np.ndarray) -> None:
    """Write the product of equal embeddings, 1, into a tile: their distance is then 0 and not a rounding error.

    Args:
        tile: ``(R, C)`` inner products.
        left: ``(R,)`` numbers of the rows' embeddings, see ``repeated``.
        right: ``(C,)`` numbers of the columns' embeddings.
    """
    i, j = np.flatnonzero(left >= 0), np.flatnonzero(right >= 0)
    # some rows at a time: the places of thousands of copies would take several times the memory of the tile
    for part in consecutive(0, len(i), max(1, tile.numel() // (8 * max(len(j), 1)))):
        a, b = np.nonzero(left[i[part]][:, None] == right[j])
        if len(a):
            tile[torch.from_numpy(i[part][a]), torch.from_numpy(j[b])] = 1


def tensor(values: np.ndarray) -> torch.Tensor:
    """The array itself as a tensor that nobody writes to, without torch's warning if it is read-only (a memory map)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)


FULL = ("ieee", "none")

_lock = threading.Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 and no bfloat16 in place of float32, no sums in bfloat16 of bfloat16 products, and no autocast.

    But for autocast, torch keeps these choices for the whole process. The first thread that comes in changes them, the
    last one that leaves puts them back.
    """
    global _inside
    with _lock:
        if not _inside:
            _undo.extend(_set())
        _inside += 1
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            while not _inside and _undo:
                _undo.pop()()


def _set() -> Iterator[Callable[[], None]]:
    cuda, mkldnn = torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn)
    for place in (cuda, mkldnn.matmul):
        if place.fp32_precision not in FULL:
            yield _change(place, "fp32_precision", place.fp32_precision, "ieee")
    name = "allow_bf16_reduced_precision_reduction"
    if getattr(cuda, name):
        split = getattr(cuda, f"{name}_split_k", None)
        yield _change(cuda, name, True if split is None else (True, split), False)


def _change(place: object, name: str, old: object, new: object) -> Callable[[], None]:
    setattr(place, name, new)
    return lambda: setattr(place, name, old)
