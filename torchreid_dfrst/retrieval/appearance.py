"""Appearance distances of all pairs, right where float32 products are not: between images that are almost the same."""

from __future__ import annotations

import numpy as np
import torch

from torchreid_dfrst.retrieval import pairs
from torchreid_dfrst.retrieval.embeddings import Stack, alike, consecutive, repeated, write_equals
from torchreid_dfrst.retrieval.products import Products

CLOSE = 0.1
"""Distance below which pairs are measured again in float64: there the root makes ten times its error of a product's."""
FEW = 256
"""Pairs are measured one by one up to one in so many of a tile; more of them as a product in float64."""


class Appearance:
    """Euclidean distances of embeddings of unit length.

    Equal embeddings are at distance 0, equal columns at the same distance of a row, distances below ``CLOSE`` are those
    of float64, and others are off by at most ``products.float32_error(D) / distance`` (a tenth of that as a rule).

    Args:
        rows: ``(N, D)`` float32.
        columns: ``(M, D)`` float32.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray):
        self.rows, self.columns = Stack(rows), Stack(columns)
        self.products = Products(self.rows, self.columns, "fp32", torch.device("cpu"))
        copies = alike(Stack(rows, columns))
        again = repeated(copies)
        self._left, self._right = again[: len(rows)], again[len(rows) :]
        _, index, inverse = np.unique(copies[len(rows) :], return_index=True, return_inverse=True)
        self._first = index[inverse]

    def fill(self, part: slice, out: np.ndarray, span: int) -> None:
        """Write the distances of a slice of rows to all columns, of which ``span`` are multiplied at once."""
        for columns in consecutive(0, len(self.columns), span):
            tile = self.products.tile(part, columns)
            write_equals(tile, self._left[part], self._right[columns])
            i, j = (tile > 1 - CLOSE**2 / 2).numpy().nonzero()
            tile.mul_(-2).add_(2).clamp_(min=0).sqrt_()
            left, right = self._left[part][i], self._right[columns][j]
            other = (left != right) | (left < 0)
            i, j = i[other], j[other]
            if len(i):
                tile.numpy()[i, j] = self._measure(part, columns, i, j)
            torch.from_numpy(out[:, columns]).copy_(tile)
        again = np.flatnonzero(self._first != np.arange(len(self._first)))
        out[:, again] = out[:, self._first[again]]

    def _measure(self, part: slice, columns: slice, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """True distances of pairs of a tile, rising in i."""
        if FEW * len(i) <= (part.stop - part.start) * (columns.stop - columns.start):
            return pairs.exact(self.rows, self.columns, i + part.start, j + columns.start)
        result = np.empty(len(i))
        x = self.rows.rows(part).astype(np.float64)
        for some in consecutive(columns.start, columns.stop, FEW):
            here = np.flatnonzero((j >= some.start - columns.start) & (j < some.stop - columns.start))
            y = self.columns.rows(some).astype(np.float64)
            square = -2 * x @ y.T + np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("nd,nd->n", y, y)
            result[here] = square[i[here], j[here] - (some.start - columns.start)]
        return np.sqrt(np.maximum(result, 0))
