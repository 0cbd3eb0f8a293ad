"""Re-ranking for code that already holds the three distance matrices, as torchreid's engines do."""

from __future__ import annotations

import logging

import numpy as np
from scipy import sparse

from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.retrieval.jaccard import Jaccard, encodings
from torchreid_dfrst.retrieval.metrics import lowest
from torchreid_dfrst.retrieval.rerank import Parameters

logger = logging.getLogger(__name__)

STEP = 128
"""Images whose distances to all others are looked at together."""
RESOLUTION = 2.0**-20
"""Share of a squared distance below which float32 code cannot tell it from the next."""


def rerank_distances(
    query_gallery: np.ndarray,
    query_query: np.ndarray,
    gallery_gallery: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """What ``torchreid.utils.re_ranking`` computes, from the same arguments, without any N x N matrix of its own.

    The original distance is the square of what is given over its largest value for the image; torchreid's engines give
    squared Euclidean distances. Equal distances go by position, where the reference leaves it to its sort; a warning
    says how many images have such a list, or one whose end is as good as equal to what follows. ``Reranking(query,
    gallery, Parameters(k1, k2, lambda_value)).cuts`` lists them from the embeddings.

    Args:
        query_gallery: ``(Q, G)`` distances.
        query_query: ``(Q, Q)`` distances.
        gallery_gallery: ``(G, G)`` distances.
        k1: neighbours that may be reciprocal, ``1 <= k1 < Q + G``.
        k2: neighbours averaged in the local query expansion, ``1 <= k2 <= k1``; 1 for none.
        lambda_value: share of the original distance, in [0, 1].

    Returns:
        ``(Q, G)`` float32.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite distances, or k1, k2, lambda_value out of range.
    """
    parameters = Parameters(k1, k2, lambda_value)
    query_gallery, query_query, gallery_gallery = map(np.asarray, (query_gallery, query_query, gallery_gallery))
    matrices = (query_gallery, query_query, gallery_gallery)
    queries, images = matrices[0].shape if matrices[0].ndim == 2 else (0, 0)
    if not queries or not images or [m.shape for m in matrices[1:]] != [(queries, queries), (images, images)]:
        raise ValueError(
            f"distances have shapes {', '.join(str(m.shape) for m in matrices)}, expected (Q, G), (Q, Q), (G, G) with "
            "at least one query and one gallery image"
        )
    parameters.fit(queries + images)
    index, top = _lists(matrices, parameters)

    def exponent(rows: slice, support: sparse.csr_matrix) -> np.ndarray:
        row, column = np.repeat(np.arange(rows.stop - rows.start), np.diff(support.indptr)), support.indices
        upper, lower = _halves(matrices, rows)
        value = np.empty(len(row), dtype=np.result_type(upper, lower))
        query = column < queries
        value[query] = upper[column[query], row[query]]
        value[~query] = lower[column[~query] - queries, row[~query]]
        return np.asarray(_square(value) / top[rows][row])

    parts = [slice(0, queries), slice(queries, queries + images)]
    shared = Jaccard(*encodings(index, parameters.half, k2, exponent, parts))
    result = np.empty((queries, images), dtype=np.float32)
    for part in consecutive(0, queries, 64):
        result[part] = _square(query_gallery[part])
        result[part] *= (np.float32(lambda_value) / top[part])[:, None]
        result[part] += shared.distance(part, 1 - lambda_value)
    return result


def _lists(matrices: tuple[np.ndarray, ...], parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of all images, and their largest squared distances (1 for 0); warns of ends that rounding decides."""
    queries, images = matrices[0].shape
    count, full = queries + images, parameters.k1 + 1
    index, top = np.empty((count, full), dtype=np.int64), np.empty(count, dtype=np.float32)
    unsure, ends = np.zeros(count, dtype=bool), [k for k in (parameters.k2, parameters.half, full) if k < count]
    for rows in [*consecutive(0, queries, STEP), *consecutive(queries, count, STEP)]:
        original = _square(np.concatenate([half.T for half in _halves(matrices, rows)], axis=1))
        bad = np.flatnonzero(~np.isfinite(original).all(axis=1))
        if len(bad):
            raise ValueError(
                f"a distance of image {rows.start + bad[0]} is NaN or infinite, or its square is in float32 (queries "
                "come first)"
            )
        top[rows] = original.max(axis=1)
        top[rows][top[rows] == 0] = 1
        original /= top[rows, None]
        # one more than a list holds, to see whether its end is clear
        near = np.stack([lowest(line, full + 1) for line in original])
        index[rows], value = near[:, :full], np.take_along_axis(original, near, axis=1)
        for k in ends:
            unsure[rows] |= value[:, k] - value[:, k - 1] <= RESOLUTION * value[:, k - 1]
    if unsure.any():
        logger.warning(
            "%d of %d images (first: %s; queries come first) have a list of neighbours whose end float32 cannot tell "
            "from the next image: equal distances go by position, torchreid's own code may decide otherwise; "
            "retrieval.Reranking(query, gallery).cuts lists each of them",
            *(unsure.sum(), count, ", ".join(map(str, np.flatnonzero(unsure)[:5]))),
        )
    return index, top


def _halves(matrices: tuple[np.ndarray, ...], rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all queries and of all gallery images to some queries or some gallery images: two views.

    They are *columns* of the whole matrix, as the reference takes them.
    """
    query_gallery, query_query, gallery_gallery = matrices
    if rows.start < len(query_query):
        return query_query[:, rows], query_gallery[rows].T
    part = slice(rows.start - len(query_query), rows.stop - len(query_query))
    return query_gallery[:, part], gallery_gallery[:, part]


def _square(values: np.ndarray) -> np.ndarray:
    """Squares as float32; an infinite one is for others to refuse."""
    with np.errstate(over="ignore"):
        return np.power(values, 2).astype(np.float32, copy=False)
