"""Products of embeddings in tiles: on which device, how exact, how large within a limit of memory."""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.candidates import candidates
from torchreid_dfrst.retrieval.embeddings import Stack, alike, consecutive

UNIT = 2.0**-24

LARGE = 1 << 28
"""Multiplications from which on oneDNN is the faster one."""
STEP = 1024
FEW = 64
"""Rows of a search below which its tiles do not grow wider."""
LADDER = ((STEP, 4 * STEP), (512, 2048), (256, 1024), (128, 512), (64, 256), (64, 64), (16, 16))
"""Rows and columns of a tile: the first where memory does not matter, else the first that fits."""
_lock = threading.Lock()
_inside = 0
_undo: list[tuple[Any, str]] = []


class Products:
    """Tiles of ``rows @ columns.T`` in float32, of unit vectors; equal embeddings have a product of exactly 1.

    ``copies`` are the numbers of equal embeddings where they are known (see ``alike``), and ``among`` those of all that
    will be compared.

    Attributes:
        left: ``(N,)`` int64, equal for equal embeddings of rows and columns (see ``alike``).
        right: ``(M,)`` likewise.
    """

    def __init__(
        self,
        rows: Stack,
        columns: Stack,
        device: torch.device,
        copies: np.ndarray | None = None,
        among: np.ndarray | None = None,
    ):
        self.rows, self.columns, self.same = rows, columns, columns is rows
        if copies is None:
            copies = alike(rows if self.same else rows + columns)
        self.copies = copies
        self.left, self.right = copies[: len(rows)], copies if self.same else copies[len(rows) :]
        self._often = np.bincount(copies if among is None else among) > 1
        self._x = [tensor(part).to(device) for part in rows.parts]
        self._y = self._x if self.same else [tensor(part).to(device) for part in columns.parts]

    def tile(self, rows: slice, columns: slice) -> torch.Tensor:
        """Products of a block of rows and a block of columns (see ``Stack.blocks``): a new tensor."""
        i, left = self.rows.within(rows)
        tile = self.against(self._x[i][left], self.left[rows], columns)
        if self.same and columns.start <= rows.start < columns.stop:
            tile[:, rows.start - columns.start :].fill_diagonal_(1)
        return tile

    def against(self, x: torch.Tensor, copies: np.ndarray, columns: slice) -> torch.Tensor:
        """Products ``(R, C)`` of any rows, whose numbers among equal ones are ``copies``, and a block of columns."""
        j, right = self.columns.within(columns)
        with full_precision():
            tile = _multiply(x, self._y[j][right])
        both = copies, self.right[columns]
        row, column = (np.flatnonzero(self._often[part]) for part in both)
        # some rows at a time: the places of thousands of copies would take several times the memory of the tile
        for part in consecutive(0, len(row), max(1, tile.numel() // (8 * max(len(column), 1)))):
            a, b = np.nonzero(both[0][row[part], None] == both[1][column])
            tile[torch.from_numpy(row[part][a]), torch.from_numpy(column[b])] = 1
        return tile


def placed(device: str) -> torch.device:
    """Where products are made; a KeyError for an unknown device, a ValueError where there is no GPU to take."""
    if device not in ("auto", "cpu", "cuda"):
        raise KeyError(f"no device {device!r}: 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU: take 'auto' or 'cpu'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b.T``; oneDNN takes 0.7 to 0.9 of the time of ``torch.mm``, and only by this name makes no copies."""
    if a.device.type == "cpu" and a.numel() * len(b) >= LARGE and torch.backends.mkldnn.is_available():
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return torch.mm(a, b.t())


def tensor(values: np.ndarray) -> torch.Tensor:
    """The array itself as a tensor that nobody writes to, without torch's warning if it is read-only (a memory map)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 in place of float32, and no autocast.

    But for autocast, torch keeps these choices for the whole process. The first thread that comes in changes them, the
    last one that leaves puts them back.
    """
    global _inside
    with _lock:
        for place in (torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul) if not _inside else ():
            if place.fp32_precision not in ("ieee", "none"):
                _undo.append((place, place.fp32_precision))
                place.fp32_precision = "ieee"
        _inside += 1
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            while not _inside and _undo:
                place, old = _undo.pop()
                place.fp32_precision = old


def tile_bytes(rows: int, columns: int, width: int, fused: bool = False) -> int:
    """Bytes of one tile: its values, what selects among them, and its factors as the routine packs them.

    Transit distances are one tile more, and what they are made from another one.
    """
    return 4 * ((6 if fused else 4) * rows * columns + width * (rows + columns))


def tile_sizes(
    rows: int, columns: int, width: int, count: int, memory_limit: int | None, fused: bool = False, held: int = 0
) -> tuple[int, int]:
    """Rows and columns of the tiles of a search that keeps within a limit of memory; ``held`` bytes go to an index.

    Raises:
        ValueError: the limit is no whole number, or not even the smallest tiles keep within it.
    """
    check("memory_limit", memory_limit, int | None)
    need, kept = 0, candidates(count, columns)
    for step, span in LADDER:
        block, wide = min(step, rows), min(span, columns)
        making = tile_bytes(block, wide, width, fused) + 100 * kept * block
        some, part = at_once(step, columns)
        comparing = 80 * columns + 16 * width * part + some * (32 * columns + 28 * width)
        need = held + rows * (8 * kept + 12 * count + 96) + max(making, 120 * kept * block + comparing)
        need = need * 5 // 4  # the C library leaves gaps between arrays that come and go
        if memory_limit is None:  # of few rows as many columns as make a tile of the same size
            return step, span * max(1, step // max(rows, FEW))
        if need <= memory_limit:
            return step, span
    index = f", {held} of them for FAISS's copy of the columns" if held else ""
    raise ValueError(
        f"a memory limit of {memory_limit} bytes is too small for {count} neighbours of {rows} rows among {columns} "
        f"columns: {need} are needed{index}"
    )


def at_once(step: int, columns: int) -> tuple[int, int]:
    """Rows that a search compares with every column together, and how many columns are in float64 meanwhile."""
    return max(1, min(step // 16, (1 << 22) // columns)), min(2 * step, columns)


def give_back(memory_limit: int | None) -> None:
    """Hand freed memory back to the system if there is a limit and the C library can (glibc): else it stays in use."""
    if memory_limit is not None and sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


def float32_error(width: int) -> float:
    """Bound on the error of one float32 product of unit vectors, whatever the order it is summed in.

    No partial sum is above 1, so each of the D additions rounds by at most ``u / 2``, u = 2**-24; ``8 u`` are for
    lengths off by up to ``EXACT = 4 u``. Non-negative features and a routine that adds term after term (oneDNN's) reach
    a quarter of it: their roundings do not cancel. Below 64 dimensions it is ``random_error``, so that the bound covers
    whatever counts as a near-tie.
    """
    return max((width / 2 + 8) * UNIT, random_error(width))


def random_error(width: int) -> float:
    """Error of one float32 product that roundings at random hardly ever exceed: seven standard deviations.

    Near-ties are defined by it: which images other float32 code may put in another order.
    """
    return float((4 * np.sqrt(width) + 8) * UNIT)
