"""The Jaccard distance that clustering methods train on (SpCL; fast-reid's ``compute_jaccard_distance``)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from torchreid_dfrst.retrieval import checks, reciprocal
from torchreid_dfrst.retrieval.fused import Fusion
from torchreid_dfrst.retrieval.jaccard import Shared
from torchreid_dfrst.retrieval.memory import STEP
from torchreid_dfrst.retrieval.mirrored import mirrored
from torchreid_dfrst.retrieval.parameters import Parameters
from torchreid_dfrst.retrieval.search import search
from torchreid_dfrst.retrieval.stack import Stack
from torchreid_dfrst.spatiotemporal.transit import Transit


def jaccard_distance(
    embedding: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    k1: int = 20,
    k2: int = 6,
    precision: str = "auto",
    memory_limit: int | None = None,
) -> np.ndarray:
    """Jaccard distances of k-reciprocal encodings, all images against all.

    Not ``rerank`` without its original distance: lists hold k1 images, not k1 + 1 (those of the neighbours'
    neighbours ``round(k1 / 2) + 1``, as there), and weights are ``exp(-D**2)`` without division by a maximum, as
    SpCL has it.

    Args:
        embedding: ``(N, D)``, L2-normalised (see ``normalise``).
        transit: ``(N, N)`` transit distances, of which both directions are averaged; None for appearance alone.
        weight: trade-off omega of Eq. 6, ``>= 0``.
        k1: length of the lists, ``2 <= k1 <= N``.
        k2: images averaged in the local query expansion, ``1 <= k2 <= k1``; 1 for none.
        precision: see ``neighbors``.
        memory_limit: see ``neighbors``; the result itself does not count.

    Returns:
        ``(N, N)`` float32 in [0, 1].

    Raises:
        ValueError: bad embeddings, transit or weight, or k1, k2 out of range.
    """
    count = len(embedding)
    result = np.empty((count, count), dtype=np.float32)
    for rows, block in jaccard_blocks(
        embedding, transit=transit, weight=weight, k1=k1, k2=k2, precision=precision, memory_limit=memory_limit
    ):
        result[rows] = block
    return result


def jaccard_blocks(
    embedding: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    k1: int = 20,
    k2: int = 6,
    precision: str = "auto",
    memory_limit: int | None = None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of ``jaccard_distance`` in blocks as they are made, for data whose ``(N, N)`` would not fit."""
    embedding = checks.unit("embedding", embedding)
    Parameters(k1, k2)
    if len(embedding) < 2:
        raise ValueError("one image has nobody to be like: at least two are needed")
    if not 2 <= k1 <= len(embedding):
        raise ValueError(f"k1 is {k1} with {len(embedding)} images: between 2 and {len(embedding)}")
    fused = checks.fusion(transit, weight, (len(embedding), len(embedding)))
    fusion = Fusion(mirrored(transit, 0), weight) if fused and transit is not None else None
    stack = Stack(embedding)
    near = search(stack, stack, k1, fusion=fusion, precision=precision, memory_limit=memory_limit)
    support = reciprocal.expanded(near.index, k1, round(k1 / 2) + 1)
    distance = reciprocal.support_distances(support, near.index, near.distance, stack, fusion, STEP)
    encoding = reciprocal.averaged(reciprocal.weigh(support, distance**2), near.index[:, :k2])
    shared = Shared(encoding, encoding)
    for rows in shared.blocks(64):
        yield rows, shared.distance(rows)
