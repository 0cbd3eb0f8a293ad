"""Products of embeddings in tiles and the best scores of each row: where, how exact, within which limit of memory.

Tiles are handed out one by one to threads that compute alone (``each``), so a thread whose processor is taken away
delays one tile, where threads that share a product would all wait for it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.embeddings import Stack, consecutive

T = TypeVar("T")
UNIT = 2.0**-24

LARGE = 1 << 28  # multiplications from which on oneDNN is the faster one
STEP = 1024
FEW = 64  # rows of a search below which its tiles do not grow wider
LADDER = ((STEP, 2 * STEP), (512, 2048), (256, 1024), (128, 512), (64, 256), (64, 64), (16, 16))
"""Rows and columns of a tile: the first where memory does not matter, else the first that fits."""
GROUP = 8  # most columns of a tile that are compared by their maximum first
WORKERS = 8  # threads that tiles are handed out to, at most; where there are more processors, each computes on several
THREAD_BYTES = 1 << 24  # of a limit of memory, for each thread that computes: it keeps some 3 MB of its own
_lock = threading.Lock()
_inside = 0
_undo: list[tuple[Any, str]] = []


class Products:
    """Tiles of ``rows @ columns.T`` in float32, of unit vectors; equal embeddings have a product of exactly 1.

    ``numbers`` ``(M,)`` are equal for equal columns (see ``alike``), ``among`` are those of all that will be compared.
    """

    def __init__(self, columns: Stack, numbers: np.ndarray, among: np.ndarray, device: torch.device):
        self.columns, self.numbers, self.device = columns, numbers, device
        self._often = np.bincount(among) > 1
        self._y = [tensor(part).to(device) for part in columns.parts]

    def tile(self, rows: torch.Tensor, numbers: np.ndarray, columns: slice) -> torch.Tensor:
        """Products ``(R, C)`` of any rows and their numbers with a block of columns (see ``Stack.blocks``)."""
        part, place = self.columns.within(columns)
        with full_precision():
            tile = _multiply(rows, self._y[part][place])
        others = self.numbers[columns]
        row, column = np.flatnonzero(self._often[numbers]), np.flatnonzero(self._often[others])
        # some rows at a time: the places of thousands of copies would take several times the memory of the tile
        for some in consecutive(0, len(row), max(1, tile.numel() // (8 * max(len(column), 1)))):
            a, b = np.nonzero(numbers[row[some], None] == others[column])
            tile[torch.from_numpy(row[some][a]), torch.from_numpy(column[b])] = 1
        return tile


class Candidates:
    """The ``kept`` best scores of N rows, and the lowest one of each.

    ``best`` are ``(N, kept)`` int64 scores with their columns, ``packed``, in no order; ``lowest`` is ``(N,)`` float32.
    """

    def __init__(self, rows: int, kept: int, device: torch.device):
        self.kept, self.device = kept, device
        self.best = np.full((rows, kept), packed(np.full(1, -np.inf, np.float32), np.zeros(1, int)))
        self.worst = torch.full((rows,), -torch.inf, dtype=torch.float32, device=device)
        self.lowest = -self.worst
        self._locks: dict[int, threading.Lock] = {}

    def take(self, rows: slice, first: int, tile: torch.Tensor) -> None:
        """Take what is among the best so far of scores ``(R, C)`` of some rows and the columns from ``first`` on.

        Only groups of columns are searched whose maximum beats the worst score that the row keeps. The tile may be
        transposed. Threads may call this at once if any two calls have the same rows or none in common.
        """
        width = max(1, min(GROUP, tile.shape[1] // (4 * self.kept)))
        groups = tile.shape[1] // width
        if groups * width < tile.shape[1]:
            self.take(rows, first + groups * width, tile[:, groups * width :])
        whole = tile[:, : groups * width]  # group g holds the columns g, g + groups, g + 2 groups ...
        if whole.stride(1) == 1:
            highest, lowest = whole.unflatten(1, (width, groups)).amax(1), whole.amin(1)
        else:  # the same, read as it lies in memory
            grouped = whole.t().unflatten(0, (width, groups))
            highest, lowest = grouped.amax(0).t().contiguous(), grouped.amin(0).amin(0)
        # another thread may raise it meanwhile: what is found is then more than is needed
        worst = self.worst[rows].clone()
        better = highest > worst[:, None]
        many = better.sum(1) > self.kept
        if many.any():  # as many groups as scores are kept hold them all
            top, which = highest[many].topk(self.kept, 1, sorted=False)
            better[many] = torch.zeros_like(better[many]).scatter_(1, which, True)
            worst[many] = torch.nextafter(top.amin(1), torch.full_like(worst[many], -torch.inf))
        row, group = better.nonzero(as_tuple=True)
        column = group[:, None] + groups * torch.arange(width, device=tile.device)
        score = tile[row[:, None], column]
        keep = score > worst[row, None]
        found = row[:, None].expand_as(column)[keep], column[keep] + first, score[keep]
        arrays = [part.cpu().numpy() for part in found]
        with self._locks.setdefault(rows.start, threading.Lock()):
            self.lowest[rows] = torch.minimum(self.lowest[rows], lowest)
            self._merge(rows, *arrays)

    def _merge(self, rows: slice, row: np.ndarray, column: np.ndarray, score: np.ndarray) -> None:
        """Merge scores, sorted by row (counted from the first of ``rows``), into the best of the rows."""
        size = np.bincount(row, minlength=rows.stop - rows.start)
        wide = np.pad(self.best[rows], ((0, 0), (int(size.max()), 0)), constant_values=np.iinfo(np.int64).min)
        wide[row, np.arange(len(row)) - (np.cumsum(size) - size)[row]] = packed(score, column)
        self._keep_best(rows, wide)
        self.worst[rows] = torch.from_numpy(unpacked(self.best[rows, 0])[0]).to(self.device)

    def join(self, rows: slice, best: np.ndarray, lowest: np.ndarray) -> None:
        """Add what was found for the rows among other columns."""
        self._keep_best(rows, np.concatenate([self.best[rows], best], axis=1))
        self.lowest[rows] = torch.minimum(self.lowest[rows], torch.from_numpy(lowest).to(self.device))

    def _keep_best(self, rows: slice, entries: np.ndarray) -> None:
        """Of entries ``(R, kept or more)`` keep the best, the worst of them first; orders the entries."""
        more = entries.shape[1] - self.kept
        entries.partition(more, axis=1)
        self.best[rows] = entries[:, more:]

    def ordered(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the rows and their columns, ``(R, kept)``, best first."""
        return unpacked(np.sort(self.best[rows], axis=1)[:, ::-1])


def packed(score: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Float32 scores and their columns as int64 that order by score and, where scores are equal, by falling column."""
    bits = score.view(np.int32)
    rank = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (rank.astype(np.int64) << 32) | (0xFFFFFFFF - column)


def unpacked(entry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was ``packed``."""
    rank = (entry >> 32).astype(np.int32)
    return (rank ^ ((rank >> 31) & np.int32(0x7FFFFFFF))).view(np.float32), 0xFFFFFFFF - (entry & 0xFFFFFFFF)


def candidates(count: int, columns: int) -> int:
    """Candidates that a search keeps for each row: float32 may have mixed up the last ones."""
    return min(2 * count + 16, columns)


def workers(memory_limit: int | None) -> int:
    """How many threads make tiles at once on a processor; one where memory is limited, for each takes its own."""
    return 1 if memory_limit is not None else min(torch.get_num_threads(), WORKERS)


@contextmanager
def threads_within(memory_limit: int | None) -> Iterator[None]:
    """No more of torch's threads than a limit of memory has room for."""
    cores = torch.get_num_threads()
    if memory_limit is not None:
        torch.set_num_threads(max(1, min(cores, memory_limit // THREAD_BYTES)))
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def each(items: Iterable[T], do: Callable[[T], object], threads: int) -> None:
    """Do all items, each by the next thread that is free; in it torch computes on that thread's share of processors.

    The first error ends all. A single thread is the calling one.
    """
    if threads == 1:
        for item in items:
            do(item)
        return
    cores, left, lock, ended = torch.get_num_threads(), iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        torch.set_num_threads(cores // threads)
        try:
            while not ended.is_set():
                with lock:
                    item = next(left, left)
                if item is left:
                    return
                do(cast(T, item))
        finally:
            ended.set()

    with ThreadPoolExecutor(threads) as pool:
        try:
            for working in [pool.submit(work) for _ in range(threads)]:
                working.result()
        finally:
            ended.set()
            # OpenMP has a number for each thread, but torch gives the last one that was set to those that come later
            torch.set_num_threads(cores)


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

    torch keeps the former for the whole process: the first thread that comes in changes it, the last one puts it back.
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
    """Bytes of one tile: its values, what selects among them, and its packed factors; fused, two tiles more."""
    return 4 * ((6 if fused else 4) * rows * columns + width * (rows + columns))


def tile_sizes(
    rows: int, columns: int, width: int, count: int, memory_limit: int | None, fused: bool = False, held: int = 0
) -> tuple[int, int]:
    """Rows and columns of the tiles of a search within a limit of memory, of which ``held`` bytes go to an index.

    A ValueError says that the limit is no whole number, or that not even the smallest tiles keep within it.
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
    lengths off by up to ``EXACT = 4 u``. Below 64 dimensions it is ``random_error``: it covers what is a near-tie.
    """
    return max((width / 2 + 8) * UNIT, random_error(width))


def random_error(width: int) -> float:
    """Error of one float32 product that random roundings hardly ever exceed, seven deviations: it defines near-ties."""
    return float((4 * np.sqrt(width) + 8) * UNIT)
