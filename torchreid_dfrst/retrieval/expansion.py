"""Query expansion: a query takes on what its nearest gallery images look like."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.embeddings import normalise, same_width, unit
from torchreid_dfrst.retrieval.search import Neighbors


def expand(query: np.ndarray, gallery: np.ndarray, near: Neighbors, count: int, alpha: float = 0.0) -> np.ndarray:
    """Queries plus their nearest gallery images, weighted by ``similarity ** alpha`` (Chum 2007; Radenovic 2018).

    Of embeddings ``(Q, D)`` and ``(G, D)``, L2-normalised, the first ``count`` neighbours of each query are added; they
    may be those of the fused distance. The weights are inner products, negative ones count as 0. ``alpha`` is 0 for the
    plain average, 3 is usual for the weighted one. Returned are ``(Q, D)`` float32, L2-normalised.

    Raises:
        ValueError: bad embeddings, lists of another length or too short ones, or an alpha that is negative or infinite.
    """
    query, gallery = unit("query", query), unit("gallery", gallery)
    same_width(query, gallery)
    check("count", count, int)
    check("alpha", alpha, float)
    if len(near) != len(query) or not 1 <= count <= near.index.shape[1] or near.index.max() >= len(gallery):
        raise ValueError(
            f"{count} of {near.index.shape[1]} neighbours for {len(near)} rows, but {len(query)} queries and "
            f"{len(gallery)} gallery images: search these queries in this gallery first"
        )
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha is {alpha}: a finite number, 0 or more, is needed")
    result = query.copy()
    for place in range(count):
        image = gallery[near.index[:, place]]
        similarity = np.einsum("nd,nd->n", query, image).clip(0)
        result += image * (similarity**alpha)[:, None]
    return normalise(result)
