"""Exact nearest neighbours from tiles of a matrix that is never held whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.retrieval import memory, pairs
from torchreid_dfrst.retrieval.embeddings import Stack, alike, repeated, write_equals
from torchreid_dfrst.retrieval.memory import SPAN, STEP
from torchreid_dfrst.retrieval.products import Products, float32_error, random_error
from torchreid_dfrst.retrieval.selection import Selection
from torchreid_dfrst.retrieval.settle import blurred, resolution, settle
from torchreid_dfrst.retrieval.transit import Fusion, is_symmetric, transits

CLOSE = 0.05
"""Appearance distance below which a float32 product does not give four digits of it."""
HOPELESS = 0.05
"""Share of rows with too many candidates from which on bfloat16 takes longer than float32."""

Sink = Callable[[slice, slice, torch.Tensor], None]
Progress = Callable[[int], object]
"""Is told how many more rows are done."""


def no_progress(rows: int) -> None:
    """Nobody watches."""


class Search:
    """One search for the ``count`` nearest columns of every row.

    Args:
        rows: embeddings of unit length.
        columns: embeddings of unit length; ``rows`` itself where every image looks for every other, and then only
            half of the matrix is made if the transit is symmetric.
        count: neighbours per row.
        fusion: what to add to the appearance distance; None for nothing.
        precision: see ``Products``.
        step: rows of a block.
        span: blocks of columns multiplied at once.
        spare: see ``memory.SearchPlan``.
        device: where tiles are made.
        wanted: says of a tile (rows, columns) whether ``sink`` is to have it, in float32 precision.
        sink: receives wanted tiles: inner products, or minus the fused distances.
    """

    def __init__(
        self,
        rows: Stack,
        columns: Stack,
        count: int,
        *,
        fusion: Fusion | None = None,
        precision: str = "auto",
        step: int = STEP,
        span: int = SPAN,
        spare: int | None = None,
        device: torch.device,
        wanted: Callable[[slice, slice], bool] = lambda rows, columns: False,
        sink: Sink | None = None,
    ):
        self.rows, self.columns, self.count, self.fusion, self.step = rows, columns, count, fusion, step
        self.span, self.spare = span, spare
        self.wanted, self.sink = wanted, sink
        self._begin(precision, device)
        self.name = self.products.name
        self.rounding = float32_error(rows.shape[1])  # what bfloat16 finds is measured again in float32
        self.copies = alike(rows) if columns is rows else alike(Stack(*rows.parts, *columns.parts))
        self.repeated = repeated(self.copies)
        self.index = np.empty((len(rows), count), dtype=np.int64)
        self.distance = np.empty((len(rows), count), dtype=np.float32)
        self.farthest = np.empty(len(rows), dtype=np.float32)
        self.near_ties: list[np.ndarray] = []
        self.fallbacks = 0

    def _begin(self, precision: str, device: torch.device) -> None:
        """No tile has been seen."""
        rows, columns, count, step = self.rows, self.columns, self.count, self.step
        self.products = Products(rows, columns, precision, device)
        reduced = self.products.reduced
        self.full = Products(rows, columns, "fp32", device) if reduced and self.sink else self.products
        if self.spare is not None:
            memory.trim()
        most = memory.most_candidates(len(rows), step, count, reduced, self.spare)
        self.near = Selection(len(rows), count, lambda level: self._window(-level), step, device, most)
        self.far = Selection(len(rows), 1, self._window, step, device, most) if reduced else None
        self.lowest = torch.full((len(rows),), torch.inf, dtype=torch.float32, device=device)

    def run(self, progress: Progress = no_progress) -> None:
        """Make every tile once and settle each block of rows as soon as its last tile is there.

        Where bfloat16 cannot tell apart the images of the first block, it is left and all is done in float32.
        """
        symmetric = self.columns is self.rows and (self.fusion is None or is_symmetric(self.fusion.transit))
        blocks = self.rows.blocks(self.step)
        for block in blocks:
            for span in self._spans(block.start if symmetric else 0):
                tile = self._tile(block, span)
                self._offer(block, span, tile)
                for start in range(span.start, span.stop, self.step) if symmetric else ():
                    other = slice(start, min(start + self.step, span.stop))
                    if other.start != block.start:
                        here = slice(other.start - span.start, other.stop - span.start)
                        self._offer(other, block, tile[:, here], down=True)
                del tile
            if self.products.reduced and block.start == 0 and self._crowded(block).mean() > HOPELESS:
                self._begin("fp32", self.products.device)
                self.name = f"{self.products.name} (bf16 gave too many candidates)"
                return self.run(progress)
            self._settle(block)
            progress(block.stop - block.start)

    def _spans(self, start: int) -> list[slice]:
        """Runs of blocks of columns from ``start`` on."""
        result: list[slice] = []
        for block in self.columns.blocks(self.step):
            if block.start < start:
                continue
            last = result[-1] if result else None
            whole = last is not None and last.stop == block.start and last.stop - last.start < self.span * self.step
            if whole and last is not None and self.columns.part(last.start) == self.columns.part(block.start):
                result[-1] = slice(last.start, block.stop)
            else:
                result.append(block)
        return result

    def _tile(self, rows: slice, columns: slice) -> torch.Tensor:
        wanted = self.sink is not None and self.wanted(rows, columns)
        tile = (self.full if wanted else self.products).tile(rows, columns)
        self._equals(tile, rows, columns)
        if self.fusion is not None:
            self.fusion.scores(tile, rows, columns)
        if wanted and self.sink is not None:
            self.sink(rows, columns, tile)
        return tile

    def _equals(self, tile: torch.Tensor, rows: slice, columns: slice) -> None:
        """Write the product of equal embeddings; an image is equal to itself."""
        offset = 0 if self.columns is self.rows else len(self.rows)
        if not offset and columns.start <= rows.start < columns.stop:
            tile[:, rows.start - columns.start :].fill_diagonal_(1)
        write_equals(tile, self.repeated[rows], self.repeated[offset:][columns])

    def _offer(self, rows: slice, columns: slice, tile: torch.Tensor, down: bool = False) -> None:
        self.near.offer(rows, columns.start, tile, down)
        if self.far is not None:
            self.far.offer(rows, columns.start, -tile, down)
        else:
            self.lowest[rows] = torch.minimum(self.lowest[rows], tile.amin(0 if down else 1))

    def _window(self, level: torch.Tensor) -> torch.Tensor:
        """How far beyond the score of the last one another one may still belong; ``level`` is a tensor of scores."""
        if self.fusion is None:
            return torch.full_like(level, 2 * self.products.error)
        # The error of sqrt(2 - 2 s) is the error of s over the root, and never more than sqrt(2 error).
        worst = float(np.sqrt(2 * self.products.error))
        least = (level.abs() - worst - self.fusion.high).clamp(min=1e-9)
        return (3 * self.products.error / least).clamp(max=2 * worst)

    def _error(self, distance: np.ndarray) -> np.ndarray:
        """Bound on the error of distances made from float32 products."""
        worst = float(np.sqrt(2 * self.rounding))
        least = np.maximum(distance - (0.0 if self.fusion is None else self.fusion.high), worst)
        # sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b)), and never more than sqrt(a - b)
        return 1.01 * worst**2 / (least + np.sqrt(least**2 - worst**2))

    def _settle(self, block: slice) -> None:
        entry = self.near.finish(block)
        row, column = entry["row"].astype(np.int64), entry["column"].astype(np.int64)
        again = self.products.reduced
        distance = self._again(block, row, column) if again else self._scores(entry["value"])
        self.farthest[block] = self._farthest(block)
        self._conclude(block, row, column, distance, self._crowded(block))

    def _crowded(self, block: slice) -> np.ndarray:
        """Which rows of a block had more candidates than one may have, and may lack some of them."""
        return self.near.crowded(block) | (self.far.crowded(block) if self.far is not None else False)

    def _conclude(
        self, block: slice, row: np.ndarray, column: np.ndarray, distance: np.ndarray, crowded: np.ndarray
    ) -> None:
        """Write the lists of a block from its candidates (in any order) and measure crowded rows whole."""
        lost = np.flatnonzero(crowded)
        if len(lost):
            # they hold their place with anything
            keep = ~crowded[row]
            row = np.concatenate([row[keep], np.repeat(lost, self.count)])
            column = np.concatenate([column[keep], np.tile(np.arange(self.count), len(lost))])
            distance = np.concatenate([distance[keep], np.tile(10.0 * np.arange(self.count), len(lost))])
        if self._measure_close(block, row, column, distance) or len(lost) or self.products.reduced:
            order = np.lexsort((column, distance, row))
            row, column, distance = row[order], column[order], distance[order]

        def judge(local: np.ndarray, other: np.ndarray) -> np.ndarray:
            return self._measure(local + block.start, other)

        def blur(local: np.ndarray, other: np.ndarray, distance: np.ndarray) -> np.ndarray:
            return self._blur(local + block.start, other, distance)

        found = settle(row, column, distance, self._error(distance), self.count, block.stop - block.start, judge, blur)
        self.index[block], self.distance[block] = found[0], found[1]
        self.near_ties.append(found[2] + np.array([block.start, 0, 0]))
        self._whole_rows(lost + block.start)

    def _measure_close(self, block: slice, row: np.ndarray, column: np.ndarray, distance: np.ndarray) -> bool:
        """Measure pairs that look almost alike, in place: next to 0 a product says little about the distance."""
        offset = 0 if self.columns is self.rows else len(self.rows)
        high = 0.0 if self.fusion is None else self.fusion.high
        close = np.flatnonzero(distance < CLOSE + high)
        close = close[self.copies[row[close] + block.start] != self.copies[column[close] + offset]]
        if self.fusion is not None:
            transit = transits(self.fusion.transit, row[close] + block.start, column[close])
            close = close[distance[close] - self.fusion.weight * transit < CLOSE]
        if len(close):
            distance[close] = self._measure(row[close] + block.start, column[close])
        return len(close) > 0

    def _scores(self, tile_score: np.ndarray) -> np.ndarray:
        """Distances of scores (inner products, or minus the fused distance)."""
        score = tile_score.astype(np.float64)
        return -score if self.fusion else np.sqrt(np.maximum(2 - 2 * score, 0))

    def _measure(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """True distances of pairs, each two embeddings compared once however often they occur."""
        offset = 0 if self.columns is self.rows else len(self.rows)
        code = self.copies[row] * len(self.copies) + self.copies[column + offset]
        _, once, back = np.unique(code, return_index=True, return_inverse=True)
        distance = pairs.exact(self.rows, self.columns, row[once], column[once])[back]
        if self.fusion is not None:
            distance += self.fusion.weight * transits(self.fusion.transit, row, column)
        return distance

    def _blur(self, row: np.ndarray, column: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """``settle.resolution`` of pairs, whose true distances come third."""
        if self.fusion is not None:
            distance = distance - self.fusion.weight * transits(self.fusion.transit, row, column)
        return resolution(distance, random_error(self.rows.shape[1]))

    def _again(self, block: slice, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Float32 distances of candidates that bfloat16 found."""
        product = pairs.products(self.rows, self.columns, block, row, column)
        distance = np.sqrt(np.maximum(2 - 2 * product.astype(np.float64), 0))
        offset = 0 if self.columns is self.rows else len(self.rows)
        distance[self.copies[row + block.start] == self.copies[column + offset]] = 0
        if self.fusion is not None:
            distance += self.fusion.weight * transits(self.fusion.transit, row + block.start, column)
        return distance

    def _farthest(self, block: slice) -> np.ndarray:
        if self.far is None:
            return self._scores(self.lowest[block].cpu().numpy())
        entry = self.far.finish(block)
        result = np.zeros(block.stop - block.start)
        np.maximum.at(result, entry["row"], self._again(block, entry["row"].astype(np.int64), entry["column"]))
        return result

    def _whole_rows(self, rows: np.ndarray) -> None:
        """Measure rows with too many candidates against everything, in float64."""
        offset = 0 if self.columns is self.rows else len(self.rows)
        if not len(rows):
            return
        kinds, once, back = np.unique(self.copies[offset:], return_index=True, return_inverse=True)
        at_once, width = memory.whole_rows(len(self.columns), self.rows.shape[1], self._free())
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            x = self.rows.take(batch).astype(np.float64)
            squared = np.empty((len(batch), len(kinds)))
            for begin in range(0, len(kinds), width):
                y = self.columns.take(once[begin : begin + width]).astype(np.float64)
                part = squared[:, begin : begin + width]
                np.matmul(-2 * x, y.T, out=part)
                part += (x * x).sum(1)[:, None] + np.einsum("nd,nd->n", y, y)
            squared[self.copies[batch][:, None] == kinds] = 0
            np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
            distance = squared[:, back]
            if self.fusion is not None:
                for line, i in zip(distance, batch, strict=True):
                    line += self.fusion.weight * self.fusion.transit.block(slice(i, i + 1), slice(0, len(back)))[0]
            self.farthest[batch] = distance.max(1)
            for line, i in zip(distance, batch, strict=True):
                self._settle_whole(line, int(i))
        self.fallbacks += len(rows)

    def _settle_whole(self, distance: np.ndarray, i: int) -> None:
        """Write the list of a row from its distances to everything, whose squares are sums of float64 products."""
        # 29 bits more than float32_error, and four such sums
        square = 8 * self.rounding * 2.0**-29
        high = 0.0 if self.fusion is None else self.fusion.high
        error = square / np.maximum(distance - high, np.sqrt(square))
        most = min(self.count + 1, len(distance))
        column = np.flatnonzero(distance - error <= np.partition(distance + error, most - 1)[most - 1])
        column = column[np.lexsort((column, distance[column]))]
        row = np.zeros(len(column), dtype=np.int64)

        def judge(row: np.ndarray, other: np.ndarray) -> np.ndarray:
            return self._measure(row + i, other)

        def blur(row: np.ndarray, other: np.ndarray, far: np.ndarray) -> np.ndarray:
            return self._blur(row + i, other, far)

        order, line, _ = settle(row, column, distance[column], error[column], most, 1, judge, blur)
        self.index[i], self.distance[i] = order[0, : self.count], line[0, : self.count]
        close = np.flatnonzero(blurred(line[0], blur(row[:most], order[0], line[0])))
        self.near_ties.append(np.stack([np.full(len(close), i), order[0, close], order[0, close + 1]], axis=1))

    def _free(self) -> int | None:
        """Bytes that are free when no tile is held; None where memory does not matter."""
        if self.spare is None:
            return None
        size = min(self.step, len(self.rows)), min(self.step * self.span, len(self.columns))
        width = self.rows.shape[1]
        return max(memory.tile(*size, width), memory.whole(len(self.columns), width))
