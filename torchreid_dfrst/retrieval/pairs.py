"""Distances of single pairs: the ones that decide near-ties, and those that no list holds."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from torchreid_dfrst.retrieval.full_precision import full_precision
from torchreid_dfrst.retrieval.stack import Stack, consecutive, tensor
from torchreid_dfrst.spatiotemporal.transit import Transit

CHUNK = 1 << 16
"""Numbers of embeddings that are copied at once."""
CELLS = 1 << 18
"""Transit distances of one block that is made for some pairs in it."""


def exact(rows: Stack, columns: Stack, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Euclidean distance (not squared) of each pair, from float64 differences: the judge of near-ties.

    Equal embeddings give exactly 0, and a pair gives the same number whichever way it was found.
    """
    result = np.empty(len(row))
    for part in consecutive(0, len(row), max(1, CHUNK // rows.shape[1])):
        difference = rows.take(row[part]).astype(np.float64) - columns.take(column[part])
        result[part] = np.einsum("nd,nd->n", difference, difference)
    return np.sqrt(result)


def products(rows: Stack, columns: Stack, block: slice, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Float32 inner products of pairs whose rows lie in one block: a sampled dense-dense product, no copy of rows.

    Args:
        rows: embeddings.
        columns: embeddings.
        block: the block of rows (see ``Stack.blocks``).
        row: ``(P,)`` rows, counted from the start of the block, sorted.
        column: ``(P,)`` columns.
    """
    result = np.empty(len(row), dtype=np.float32)
    left = tensor(rows.rows(block))
    for part, begin, end in zip(columns.parts, columns.edges[:-1], columns.edges[1:], strict=True):
        here = np.flatnonzero((column >= begin) & (column < end))
        if not len(here):
            continue
        start = np.searchsorted(row[here], np.arange(len(left) + 1))
        with warnings.catch_warnings():
            # torch announces once that sparse CSR is in beta
            warnings.simplefilter("ignore", UserWarning)
            pattern = torch.sparse_csr_tensor(
                torch.from_numpy(start),
                torch.from_numpy(column[here].astype(np.int64) - begin),
                torch.zeros(len(here), dtype=torch.float32),
                size=(len(left), len(part)),
                check_invariants=False,
            )
            with full_precision():
                found = torch.sparse.sampled_addmm(pattern, left, tensor(part).t(), beta=0.0)
        result[here] = found.values().numpy()
    return result


def transits(transit: Transit, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Transit distance of each pair; by ``transit.pairs`` where there is one, else taken from its blocks."""
    whole = getattr(transit, "pairs", None)
    if whole is not None:
        return np.asarray(whole(row, column), dtype=np.float32)
    result = np.empty(len(row), dtype=np.float32)
    if not len(row):
        return result
    order = np.argsort(row, kind="stable")
    seen = row[order]
    edge = np.flatnonzero(np.diff(seen, prepend=-1, append=-1))
    first, last = int(column.min()), int(column.max()) + 1
    step = max(1, CELLS // (last - first))
    while len(edge) > 1:
        # as many rows as a block may have: those without a pair in between are made for nothing, and there are few
        stop = int(np.searchsorted(seen[edge[:-1]], seen[edge[0]] + step))
        part = order[edge[0] : edge[stop]]
        block = transit.block(slice(int(row[part[0]]), int(row[part[-1]]) + 1), slice(first, last))
        result[part] = block[row[part] - row[part[0]], column[part] - first]
        edge = edge[stop:]
    return result
