"""Distances of all pairs in blocks, and of single pairs: right also between images that are almost the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.embeddings import Stack, alike, consecutive, same_width, unit
from torchreid_dfrst.retrieval.tiles import LADDER, STEP, Products, give_back, tensor, tile_bytes
from torchreid_dfrst.retrieval.transit import Transit, check_finite, check_fusion

CLOSE = 0.1
"""Distance below which pairs are measured again in float64: there the root makes ten times its error of a product's."""
RESOLUTION = 2.0**-20
"""Distances closer than this (four float32 roundings of a squared distance) may be ordered differently elsewhere."""
FEW = 256  # pairs are measured one by one up to one in so many of a tile; more of them as a product in float64
CHUNK = 1 << 16  # numbers of embeddings that are copied at once
BLOCK_BYTES, RANKED = 64 << 20, 32
"""Most bytes of a block, and those of one distance in it: itself, its transit term in the making, a copy for tracks."""


def distance(
    rows: np.ndarray, columns: np.ndarray, *, transit: Transit | None = None, weight: float = 0.0
) -> np.ndarray:
    """All ``(N, M)`` float32 distances ``Da + weight * transit`` (Eq. 6), Da Euclidean and not squared, in [0, 2].

    Equal embeddings are at appearance distance 0, equal columns at the same one of a row, those below ``CLOSE`` are
    rounded from float64, and others are off by at most ``float32_error(D) / Da`` (a tenth of that as a rule).

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.

    Raises:
        ValueError: bad embeddings, a transit of another shape or with NaN, or a negative weight.
    """
    every = Distances(rows, columns, transit, weight)
    result = np.empty(every.shape, dtype=np.float32)
    for part in consecutive(0, every.shape[0], STEP):
        every.fill(part, result[part], LADDER[0][1])
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

    Arguments are those of ``distance``, checked at once. ``memory_limit`` are bytes for a block, the one who makes it
    and the one who ranks it; None for some 200 MB.

    Raises:
        ValueError: as ``distance``, or a memory limit too small for single rows.
    """
    every = Distances(rows, columns, transit, weight)
    step, span = _block(every.shape[1], every.rows.shape[1], memory_limit)

    def made() -> Iterator[np.ndarray]:
        for part in consecutive(0, every.shape[0], step):
            block = np.empty((part.stop - part.start, every.shape[1]), dtype=np.float32)
            every.fill(part, block, span)
            yield block
            del block  # or there would be two while the next one is made
            give_back(memory_limit)

    return made()


def _block(images: int, width: int, memory_limit: int | None) -> tuple[int, int]:
    """Rows of a block of distances, and columns multiplied at once, within a limit of memory."""
    most = max(1, min(STEP, BLOCK_BYTES // (4 * images)))
    check("memory_limit", memory_limit, int | None)
    if memory_limit is None:
        return most, LADDER[0][1]
    # the other half is left to the C library and to the threads of the ranking
    free = memory_limit // 2
    fitting = (span for _, span in LADDER if tile_bytes(1, min(span, images), width) <= free // 4)
    span = min(next(fitting, LADDER[-1][1]), images)
    single, fixed = RANKED * images + 10 * span + 4 * width, tile_bytes(1, span, width)
    if free < fixed + single:
        raise ValueError(
            f"a memory limit of {memory_limit} bytes is too small for the distances of single images to {images}: "
            f"{2 * (fixed + single)} are needed"
        )
    return min(most, (free - fixed) // single), span


class Distances:
    """Writes the distances of some rows to all columns where they belong; see ``distance``."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, transit: Transit | None = None, weight: float = 0.0):
        rows, columns = unit("rows", rows), unit("columns", columns)
        same_width(rows, columns)
        self.shape = len(rows), len(columns)
        self.fusion = check_fusion(transit, weight, self.shape)
        self.rows, self.columns = Stack(rows), Stack(columns)
        numbers = alike(Stack(rows, columns))
        self.left, self.right = numbers[: len(rows)], numbers[len(rows) :]
        self.products = Products(self.columns, self.right, numbers, torch.device("cpu"))
        _, index, inverse = np.unique(self.right, return_index=True, return_inverse=True)
        self._first = index[inverse]

    def fill(self, part: slice, out: np.ndarray, span: int) -> None:
        """Write the distances of a slice of rows, multiplied with ``span`` columns at once."""
        rows, left = tensor(self.rows.rows(part)), self.left[part]
        for columns in consecutive(0, self.shape[1], span):
            tile = self.products.tile(rows, left, columns)
            i, j = (tile > 1 - CLOSE**2 / 2).numpy().nonzero()
            tile.mul_(-2).add_(2).clamp_(min=0).sqrt_()
            other = left[i] != self.right[columns][j]
            i, j = i[other], j[other]
            if len(i):
                tile.numpy()[i, j] = self._measure(part, columns, i, j)
            torch.from_numpy(out[:, columns]).copy_(tile)
        again = np.flatnonzero(self._first != np.arange(len(self._first)))
        out[:, again] = out[:, self._first[again]]
        if self.fusion is not None:
            # all columns at once: a transit may have something to work out for each row
            out += np.float32(self.fusion.weight) * self.fusion.transit.block(part, slice(0, self.shape[1]))
            check_finite(np.isfinite(out).all(axis=1))

    def _measure(self, part: slice, columns: slice, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """True distances of pairs of a tile, rising in i."""
        if FEW * len(i) <= (part.stop - part.start) * (columns.stop - columns.start):
            return exact(self.rows, self.columns, i + part.start, j + columns.start)
        result = np.empty(len(i))
        x = self.rows.rows(part).astype(np.float64)
        for some in consecutive(columns.start, columns.stop, FEW):
            here = np.flatnonzero((j >= some.start - columns.start) & (j < some.stop - columns.start))
            y = self.columns.rows(some).astype(np.float64)
            result[here] = squares(x, y)[i[here], j[here] - (some.start - columns.start)]
        return np.sqrt(result)


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances ``(R, C)`` of float64 rows, from their products, by as many threads as torch has."""
    result = torch.mm(torch.from_numpy(x), torch.from_numpy(y).t()).mul_(-2).numpy()
    result += np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("nd,nd->n", y, y)
    return np.maximum(result, 0, out=result)


def exact(rows: Stack, columns: Stack, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Euclidean distance (not squared) of each pair, from float64 differences: the judge of near-ties.

    Equal embeddings give exactly 0, and a pair gives the same number whichever way it was found.
    """
    result = np.empty(len(row))
    for part in consecutive(0, len(row), max(1, CHUNK // rows.shape[1])):
        difference = rows.take(row[part]).astype(np.float64) - columns.take(column[part])
        result[part] = np.einsum("nd,nd->n", difference, difference)
    return np.sqrt(result)


def resolution(appearance: np.ndarray, rounding: float) -> np.ndarray:
    """How much farther an image may be than one at this appearance distance and still come first in float32 code.

    Such code orders squared distances ``2 - 2 s``, and a product s is off by some ``rounding``: two squares that
    differ by less than ``4 rounding`` may change places. The smaller the distance, the larger a gap that is.
    """
    least = np.maximum(appearance, 0)
    return np.maximum(RESOLUTION, np.sqrt(least**2 + 4 * rounding) - least)
