"""Distances of single pairs: the ones that decide near-ties, and those that no list holds."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from torchreid_dfrst.retrieval.embeddings import Stack, consecutive, full_precision, tensor

CHUNK = 1 << 16
"""Numbers of embeddings that are copied at once."""


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
