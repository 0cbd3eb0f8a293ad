"""Rows of several arrays addressed as one, never copied into one."""

from __future__ import annotations

import warnings

import numpy as np
import torch


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
