"""Exact k nearest neighbours by appearance or by the fused distance of Eq. 6, in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval import memory
from torchreid_dfrst.retrieval.appearance import Appearance
from torchreid_dfrst.retrieval.embeddings import Stack, check_count, check_finite, consecutive, same_width, unit
from torchreid_dfrst.retrieval.lists import Neighbors
from torchreid_dfrst.retrieval.memory import LADDER, SPAN, STEP
from torchreid_dfrst.retrieval.search import search
from torchreid_dfrst.retrieval.transit import Fusion, Transit, check_fusion

BLOCK_BYTES = 64 << 20

DISTANCE = 32
"""Bytes that one distance of a block takes: itself, its transit term in the making, a copy where tracks are ranked."""


def neighbors(
    rows: np.ndarray,
    columns: np.ndarray,
    count: int,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    precision: str = "auto",
    memory_limit: int | None = None,
    device: str = "auto",
    method: str = "auto",
) -> Neighbors:
    """The ``count`` nearest columns of each row by ``Da + weight * transit`` (Eq. 6), exact.

    Nothing is left out: a column that is the same image as the row is its own neighbour at distance 0. Distances that
    float32 cannot tell apart are measured in float64, and equal ones go by column number, so every path and every
    machine gives the same lists. (Blocks of ``likelihood`` with relays differ by some 1e-7 with their shape: distances
    closer than that may change places.) Passing one array as ``rows`` and ``columns`` saves half of the work.

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        count: neighbours per row, 1 to M.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.
        precision: of the products that find candidates: ``"fp32"``; ``"bf16"``; ``"auto"``, bfloat16 where this
            processor is measured to be clearly faster with it. The result is exact with each.
        memory_limit: bytes of working memory beside inputs and result (code that is loaded when first used is not
            counted); None for some 100 MB and what the lists take.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``, a GPU if there is one.
        method: ``"product"``: blocks of the matrix product; ``"faiss"``: a flat index, sharded over all GPUs if there
            are any, appearance in float32; ``"auto"``: FAISS on a GPU for appearance alone, else products, which are
            faster there.

    Raises:
        ValueError: bad embeddings, ``count`` out of range, a transit of another shape or with NaN, a negative weight, a
            memory limit too small to work in, ``"cuda"`` where there is no GPU, or FAISS with bfloat16 or with more
            neighbours than it gives on a GPU.
        KeyError: an unknown precision, method or device.
    """
    same = rows is columns
    rows = unit("rows", rows)
    columns = rows if same else unit("columns", columns)
    same_width(rows, columns)
    check_count(count, len(columns))
    fused = check_fusion(transit, weight, (len(rows), len(columns)))
    left = Stack(rows)
    return search(
        left,
        left if same else Stack(columns),
        count,
        fusion=Fusion(transit, weight) if fused and transit is not None else None,
        precision=precision,
        memory_limit=memory_limit,
        device=device,
        method=method,
    )


def distance(
    rows: np.ndarray, columns: np.ndarray, *, transit: Transit | None = None, weight: float = 0.0
) -> np.ndarray:
    """All ``(N, M)`` float32 distances ``Da + weight * transit`` (Eq. 6), Da Euclidean and not squared, in [0, 2].

    How exact they are: see ``appearance.Appearance``.

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.

    Raises:
        ValueError: bad embeddings, a transit of another shape or with NaN, or a negative weight.
    """
    fill = _Fill(rows, columns, transit, weight)
    result = np.empty(fill.shape, dtype=np.float32)
    for part in consecutive(0, fill.shape[0], STEP):
        fill(part, result[part], SPAN * STEP)
    return result


def distance_blocks(
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    memory_limit: int | None = None,
) -> Iterator[np.ndarray]:
    """What ``distance`` gives, as blocks of consecutive rows ``(rows, M)`` that are made when they are asked for.

    Arguments are checked at once.

    Args:
        rows: see ``distance``.
        columns: see ``distance``.
        transit: see ``distance``.
        weight: see ``distance``.
        memory_limit: bytes for a block, the one who makes it and the one who ranks it; None for some 200 MB.

    Raises:
        ValueError: as ``distance``, or a memory limit too small for single rows.
    """
    fill = _Fill(rows, columns, transit, weight)
    step, span = _block(fill.shape[1], fill.width, memory_limit)

    def made() -> Iterator[np.ndarray]:
        for part in consecutive(0, fill.shape[0], step):
            block = np.empty((part.stop - part.start, fill.shape[1]), dtype=np.float32)
            fill(part, block, span)
            yield block
            del block  # or there would be two while the next one is made
            memory.give_back(memory_limit)

    return made()


class _Fill:
    """Writes the distances of some rows where they belong."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, transit: Transit | None, weight: float):
        rows, columns = unit("rows", rows), unit("columns", columns)
        same_width(rows, columns)
        self.shape, self.width = (len(rows), len(columns)), rows.shape[1]
        self.transit = transit if check_fusion(transit, weight, self.shape) else None
        self.weight = np.float32(weight)
        self.appearance = Appearance(rows, columns)

    def __call__(self, part: slice, out: np.ndarray, span: int) -> None:
        self.appearance.fill(part, out, span)
        if self.transit is not None:
            # all columns at once: a transit may have something to work out for each row
            out += self.weight * self.transit.block(part, slice(0, self.shape[1]))
            check_finite(np.isfinite(out).all(axis=1))


def _block(images: int, width: int, memory_limit: int | None) -> tuple[int, int]:
    """Rows of a block of distances, and columns multiplied at once, that keep within a limit of memory."""
    most = max(1, min(STEP, BLOCK_BYTES // (4 * images)))
    check("memory_limit", memory_limit, int | None)
    if memory_limit is None:
        return most, SPAN * STEP
    # the other half is left to the C library and to the threads of the ranking
    free, span = memory_limit // 2, images
    for step, together in LADDER:
        span = min(step * together, images)
        if memory.tile(1, span, width) <= free // 4:
            break
    single, fixed = DISTANCE * images + 10 * span + 4 * width, memory.tile(1, span, width)
    if free < fixed + single:
        raise ValueError(
            f"a memory limit of {memory_limit} bytes is too small for the distances of single images to {images}: "
            f"{2 * (fixed + single)} are needed"
        )
    return min(most, (free - fixed) // single), span


def blocks(count: int, width: int) -> list[slice]:
    """Consecutive slices of ``count`` rows of which one, ``width`` float32 values wide, takes at most 64 MB."""
    step = max(1, BLOCK_BYTES // (4 * width))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
