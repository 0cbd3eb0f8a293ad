"""The Jaccard distance that clustering methods train on (SpCL; fast-reid's ``compute_jaccard_distance``)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval.embeddings import Stack, consecutive, tile_sizes, unit
from torchreid_dfrst.retrieval.encoding import encodings, step
from torchreid_dfrst.retrieval.jaccard import Shared
from torchreid_dfrst.retrieval.parameters import Parameters
from torchreid_dfrst.retrieval.reciprocal import support_distances
from torchreid_dfrst.retrieval.search import Neighbors, search
from torchreid_dfrst.retrieval.transit import Fusion, Transit, check_fusion, mirrored

logger = logging.getLogger(__name__)


def jaccard_distance(
    embedding: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    k1: int = 20,
    k2: int = 6,
    memory_limit: int | None = None,
) -> np.ndarray:
    """Jaccard distances of k-reciprocal encodings, all images against all: the definition "SpCL".

    Not ``rerank`` without its original distance: lists hold k1 images, not k1 + 1 (those of the neighbours'
    neighbours ``round(k1 / 2) + 1``, as there), and weights are ``exp(-D**2)`` without division by a maximum, as
    SpCL has it.

    Args:
        embedding: ``(N, D)``, L2-normalised (see ``normalise``).
        transit: ``(N, N)`` transit distances, of which both directions are averaged; None for appearance alone.
        weight: trade-off omega of Eq. 6, ``>= 0``.
        k1: length of the lists, ``2 <= k1 <= N``.
        k2: images averaged in the local query expansion, ``1 <= k2 <= k1``; 1 for none.
        memory_limit: see ``neighbors``; the result itself does not count.

    Returns:
        ``(N, N)`` float32 in [0, 1]. How many near-ties there were is logged; ``jaccard_blocks(...).near`` lists them.

    Raises:
        ValueError: bad embeddings, transit or weight, k1, k2 out of range, or a memory limit too small to work in; what
            the encodings take is known only when the neighbours are found.
    """
    blocks = jaccard_blocks(embedding, transit=transit, weight=weight, k1=k1, k2=k2, memory_limit=memory_limit)
    result = np.empty((len(embedding), len(embedding)), dtype=np.float32)
    for rows, block in blocks:
        result[rows] = block
    return result


def jaccard_blocks(
    embedding: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    k1: int = 20,
    k2: int = 6,
    memory_limit: int | None = None,
) -> JaccardBlocks:
    """The rows of ``jaccard_distance`` in blocks as they are made, for data whose ``(N, N)`` would not fit.

    Arguments are checked at once, the search starts with the first block. From then on ``near`` of what is returned
    holds the neighbours, with their near-ties.
    """
    embedding = unit("embedding", embedding)
    Parameters(k1, k2)
    if len(embedding) < 2:
        raise ValueError("one image has nobody to be like: at least two are needed")
    if not 2 <= k1 <= len(embedding):
        raise ValueError(f"k1 is {k1} with {len(embedding)} images: between 2 and {len(embedding)}")
    fused = check_fusion(transit, weight, (len(embedding), len(embedding)))
    fusion = Fusion(mirrored(transit, 0), weight) if fused and transit is not None else None
    images = Stack(embedding)
    tile_sizes(len(images), len(images), images.shape[1], k1, memory_limit, fusion is not None)
    return JaccardBlocks(images, fusion, k1, k2, memory_limit)


class JaccardBlocks(Iterator[tuple[slice, np.ndarray]]):
    """Rows and their Jaccard distances to all images, made as they are asked for; see ``jaccard_blocks``.

    Attributes:
        near: the neighbours they rest on, with near-ties, fallbacks and method; None before the first block.
    """

    def __init__(self, images: Stack, fusion: Fusion | None, k1: int, k2: int, memory_limit: int | None):
        self.near: Neighbors | None = None
        self._made = self._blocks(images, fusion, k1, k2, memory_limit)

    def __next__(self) -> tuple[slice, np.ndarray]:
        """The next rows, and their distances ``(rows, N)`` float32."""
        return next(self._made)

    def _blocks(
        self, images: Stack, fusion: Fusion | None, k1: int, k2: int, memory_limit: int | None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        count, half = len(images), round(k1 / 2) + 1
        near = search(images, images, k1, fusion=fusion, memory_limit=memory_limit)
        self.near = near
        logger.info("Jaccard distances by the definition of SpCL, %s: %d near-ties", near.method, len(near.near_ties))

        def exponent(rows: slice, support: sparse.csr_matrix) -> np.ndarray:
            return np.asarray(support_distances(support, rows, near, images, fusion) ** 2)

        blocks = images.blocks(step(k1, half))
        (every,) = encodings(near.index, k1, half, k2, blocks, exponent, [slice(0, count)], memory_limit)
        shared = Shared(every, every)
        plan = shared.plan(k1, 0, memory_limit)
        for rows in consecutive(0, count, min(64, plan.rows)):
            yield rows, shared.distance(rows)
