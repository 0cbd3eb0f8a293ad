"""The Jaccard distance that clustering methods train on (SpCL; fast-reid's ``compute_jaccard_distance``)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from torchreid_dfrst.retrieval.embeddings import Stack, consecutive, unit
from torchreid_dfrst.retrieval.jaccard import Jaccard, encodings, scaled_distances
from torchreid_dfrst.retrieval.rerank import Parameters
from torchreid_dfrst.retrieval.search import search
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


class jaccard_blocks:
    """The rows of ``jaccard_distance`` in blocks as they are made, for data whose ``(N, N)`` would not fit.

    Iterating gives a slice of rows and their distances to all images, ``(rows, N)`` float32.

    Attributes:
        near: the neighbours they rest on, with near-ties, fallbacks and method.
    """

    def __init__(
        self,
        embedding: np.ndarray,
        *,
        transit: Transit | None = None,
        weight: float = 0.0,
        k1: int = 20,
        k2: int = 6,
        memory_limit: int | None = None,
    ):
        images, count = Stack(unit("embedding", embedding)), len(embedding)
        half = Parameters(k1, k2).half
        if count < 2:
            raise ValueError("one image has nobody to be like: at least two are needed")
        if not 2 <= k1 <= count:
            raise ValueError(f"k1 is {k1} with {count} images: between 2 and {count}")
        fusion = check_fusion(transit, weight, (count, count))
        fusion = fusion and Fusion(mirrored(fusion.transit, 0), weight)
        self.near = near = search(images, images, k1, fusion=fusion, memory_limit=memory_limit)
        logger.info("Jaccard distances by the definition of SpCL, %s: %d near-ties", near.method, len(near.near_ties))
        exponent = scaled_distances(2, np.ones(count, dtype=np.float32), near, images, fusion)
        (every,) = encodings(near.index, half, k2, exponent, [slice(0, count)], memory_limit)
        self._jaccard = Jaccard(every, every)
        self._step = min(64, self._jaccard.sizes(near.index, memory_limit)[0])

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Give some rows, and their distances ``(rows, N)`` float32."""
        for rows in consecutive(0, len(self.near), self._step):
            yield rows, self._jaccard.distance(rows)
