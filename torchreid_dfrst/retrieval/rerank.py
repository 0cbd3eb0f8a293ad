"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) on the nearest neighbours only, as sparse matrices."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval import checks
from torchreid_dfrst.retrieval.neighbors import Neighbors, blocks, distance, neighbors
from torchreid_dfrst.spatiotemporal.transit import Transit

POWER = {"torchreid": 4, "transreid": 2}
"""Exponent of the Euclidean distance in the original distance of each definition."""


def rerank(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    definition: str = "torchreid",
    on: str = "fused",
) -> np.ndarray:
    """Re-ranked distances ``(1 - lambda) Jaccard + lambda original``.

    The original distance of a pair is ``D**p / max D**p`` with ``D = Da + weight * transit`` (Eq. 6) and the maximum
    over all images. ``definition="torchreid"`` takes p = 4, which for appearance alone is what torchreid's users get:
    ``torchreid.utils.re_ranking`` squares the squared Euclidean distances it is fed. ``"transreid"`` takes p = 2
    (TransReID, reid-strong-baseline).

    Images that are query and gallery at once (VeRi-776) are two entries, as in torchreid.

    Args:
        query: ``(Q, D)`` embeddings, L2-normalised (see ``normalise``).
        gallery: ``(G, D)`` embeddings, L2-normalised.
        transit: ``(Q + G, Q + G)`` symmetric transit distances of queries, then gallery; None for appearance alone.
        weight: trade-off omega, ``>= 0``.
        k1: neighbours that may be reciprocal, ``1 <= k1 < Q + G``.
        k2: neighbours averaged in the local query expansion, ``1 <= k2 <= k1``; 1 for none.
        lambda_value: share of the original distance, in [0, 1].
        definition: ``"torchreid"`` or ``"transreid"``.
        on: ``"fused"``: the original distance of every pair is the fused one (our reading, docs/paper.md).
            ``"appearance"``: appearance alone is re-ranked and ``weight * transit`` added at the end.

    Returns:
        ``(Q, G)`` float32; a distance of rank only, in [0, 1] (plus ``weight * transit`` for ``on="appearance"``).

    Raises:
        ValueError: bad embeddings, transit or weight, or k1, k2, lambda_value out of range.
        KeyError: an unknown ``definition`` or ``on``.
    """
    if definition not in POWER:
        raise KeyError(f"no definition {definition!r} of re-ranking: {', '.join(map(repr, POWER))}")
    if on not in ("fused", "appearance"):
        raise KeyError(f"re-ranking on {on!r}: 'fused' or 'appearance'")
    query, gallery = checks.embeddings("query", query), checks.embeddings("gallery", gallery)
    checks.same_width(query, gallery)
    both = np.concatenate([query, gallery])
    fused = checks.fusion(transit, weight, (len(both), len(both)))
    check_parameters(len(both), k1, k2, lambda_value)
    inside, omega = (transit, weight) if fused and on == "fused" else (None, 0.0)
    near = neighbors(both, both, k1 + 1, transit=inside, weight=omega)
    encoding = encode(both, near, inside, omega, k1, k2, POWER[definition])
    result = jaccard(encoding[: len(query)], encoding[len(query) :])
    result *= 1 - lambda_value
    for part in blocks(len(query), len(both)):
        left = distance(query[part], gallery)
        if inside is not None:
            left += np.float32(omega) * inside.block(part, slice(len(query), len(both)))
        result[part] += lambda_value * scaled(left, near.farthest[part, None], POWER[definition])
        if fused and on == "appearance" and transit is not None:
            result[part] += np.float32(weight) * transit.block(part, slice(len(query), len(both)))
    return result


def check_parameters(images: int, k1: int, k2: int, lambda_value: float) -> None:
    """Refuse what re-ranking cannot mean.

    Raises:
        ValueError: k1, k2 or lambda_value is out of range.
    """
    if not 1 <= k1 < images:
        raise ValueError(f"k1 is {k1} with {images} images (queries and gallery): between 1 and {images - 1}")
    if not 1 <= k2 <= k1:
        raise ValueError(f"k2 is {k2} with k1 {k1}: between 1 (no query expansion) and k1")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}: between 0 (Jaccard alone) and 1 (original distance alone)")


def scaled(value: np.ndarray, farthest: np.ndarray, power: int) -> np.ndarray:
    """Distances (not squared) to the given power, over the farthest to that power; 0 where all distances are 0."""
    top = farthest.astype(np.float32) ** power
    return value**power / np.where(top > 0, top, 1)


def encode(
    embedding: np.ndarray, near: Neighbors, transit: Transit | None, weight: float, k1: int, k2: int, power: int
) -> sparse.csr_matrix:
    """The k-reciprocal encoding of every image: ``(N, N)`` CSR, rows sum to 1."""
    support = expanded(near.index, k1)
    row, column = support.nonzero()
    value = pair_distance(embedding, row, column, transit, weight)
    weights = np.exp(-scaled(value, near.farthest[row], power))
    total = np.bincount(row, weights, minlength=len(near)).astype(np.float32)
    encoding = sparse.csr_matrix((weights / total[row], (row, column)), shape=support.shape, dtype=np.float32)
    if k2 > 1:
        encoding = (_binary(near.index[:, :k2]) @ encoding) * np.float32(1 / k2)
    return encoding


def expanded(index: np.ndarray, k1: int) -> sparse.csr_matrix:
    """Reciprocal neighbours of every image, and those of its neighbours that share more than 2/3 of theirs."""
    full = reciprocal(index[:, : k1 + 1])
    # round half to even, as the reference does
    half = reciprocal(index[:, : round(k1 / 2) + 1])
    size = np.diff(half.indptr)
    shared = full.multiply(full @ half.T).tocoo()
    enough = shared.data > 2.0 / 3 * size[shared.col]
    good = sparse.csr_matrix(
        (np.ones(enough.sum(), np.float32), (shared.row[enough], shared.col[enough])), shape=full.shape
    )
    result = (full + good @ half).tocsr()
    result.sort_indices()
    return result


def reciprocal(index: np.ndarray) -> sparse.csr_matrix:
    """Pairs that are in each other's lists: binary ``(N, N)`` CSR."""
    listed = _binary(index)
    return listed.multiply(listed.T).tocsr()


def pair_distance(
    embedding: np.ndarray, row: np.ndarray, column: np.ndarray, transit: Transit | None, weight: float
) -> np.ndarray:
    """Distances (Eq. 6, not squared) of single pairs; ``row`` is sorted."""
    result = np.empty(len(row), dtype=np.float32)
    step = max(1, (16 << 20) // embedding.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        result[part] = np.einsum("nd,nd->n", embedding[row[part]], embedding[column[part]])
    result = np.sqrt(np.maximum(2 - 2 * result, 0))
    if transit is not None and weight:
        edges = np.searchsorted(row, np.arange(len(embedding) + 1))
        for i in np.flatnonzero(np.diff(edges)):
            part = slice(edges[i], edges[i + 1])
            result[part] += (
                np.float32(weight) * transit.block(slice(i, i + 1), slice(0, len(embedding)))[0, column[part]]
            )
    return result


def jaccard(query: sparse.csr_matrix, gallery: sparse.csr_matrix) -> np.ndarray:
    """Jaccard distance ``1 - sum min / sum max`` of rows that sum to 1: ``(Q, G)`` float32 in [0, 1]."""
    inverted = gallery.tocsc()
    shared = np.zeros((query.shape[0], gallery.shape[0]), dtype=np.float32)
    for i in range(query.shape[0]):
        line = shared[i]
        for p in range(query.indptr[i], query.indptr[i + 1]):
            holders = slice(inverted.indptr[query.indices[p]], inverted.indptr[query.indices[p] + 1])
            line[inverted.indices[holders]] += np.minimum(inverted.data[holders], query.data[p])
    return 1 - shared / (2 - shared)


def _binary(index: np.ndarray) -> sparse.csr_matrix:
    count, width = index.shape
    ones = np.ones(index.size, dtype=np.float32)
    return sparse.csr_matrix((ones, index.ravel(), np.arange(0, index.size + 1, width)), shape=(count, count))
