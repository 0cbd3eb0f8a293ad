"""Encodings of all images from their lists of neighbours, made in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval import memory, reciprocal
from torchreid_dfrst.retrieval.embeddings import consecutive

PAIRS = 1 << 17
"""Pairs of a neighbour and a neighbour of it that are looked at together."""

Exponent = Callable[[slice, sparse.csr_matrix], np.ndarray]
"""From a block of rows and the pairs that count in it to the exponent of the weight of each pair."""


def step(full: int, half: int) -> int:
    """Rows of one block."""
    return max(1, PAIRS // (full * half))


def encodings(
    index: np.ndarray,
    full: int,
    half: int,
    k2: int,
    blocks: Sequence[slice],
    exponent: Exponent,
    parts: Sequence[slice],
    memory_limit: int | None = None,
) -> list[sparse.csr_matrix]:
    """Reciprocal sets, expanded, weighed, and averaged over neighbours.

    Args:
        index: ``(N, >= full)`` neighbours, nearest first.
        full: see ``reciprocal.Sets``.
        half: see ``reciprocal.Sets``.
        k2: neighbours averaged.
        blocks: slices of at most ``step(full, half)`` rows that follow each other through all of them.
        exponent: weights are ``exp(-exponent)``, over their sum in each row.
        parts: slices of rows, each of which becomes a matrix of its own.
        memory_limit: bytes; None for no limit.

    Returns:
        For each part ``(rows, N)`` CSR. Rows sum to 1, but for an image with more equal copies than a list holds: it
        may be missing from its own list and have an empty row (such copies may be 1 apart, as in torchreid).

    Raises:
        ValueError: the encodings do not fit into the limit.
    """
    memory.give_back(memory_limit)
    sets = reciprocal.Sets(index, full, half)
    made = []
    for rows in blocks:
        memory.give_back(memory_limit)
        support = sets.expanded(rows)
        made.append(reciprocal.weigh(support, exponent(rows, support)))
    del sets
    whole = sparse.vstack(made, format="csr")
    del made
    memory.give_back(memory_limit)
    near = index[:, :k2]
    if memory_limit is not None:
        entries = [sum(block.nnz for block in _averaged(whole, near, part)) for part in parts]
        needed = memory.with_gaps(memory.encodings(len(index), index.shape[1], whole.nnz, entries))
        if needed > memory_limit:
            raise ValueError(
                f"a memory limit of {memory_limit} bytes is too small for the encodings of these {len(index)} images "
                f"with {k2} of {full} neighbours averaged: {needed} are needed"
            )
    return [sparse.vstack(list(_averaged(whole, near, part)), format="csr") for part in parts]


def _averaged(whole: sparse.csr_matrix, near: np.ndarray, part: slice) -> Iterator[sparse.csr_matrix]:
    for rows in consecutive(part.start, part.stop, memory.STEP):
        yield reciprocal.averaged(whole, near, rows)
