"""Re-ranking for code that already holds the three distance matrices, as torchreid's engines do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse

from torchreid_dfrst.retrieval import encoding, reciprocal
from torchreid_dfrst.retrieval.distances import RESOLUTION
from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.retrieval.jaccard import Shared, jaccard
from torchreid_dfrst.retrieval.parameters import Parameters
from torchreid_dfrst.retrieval.selection import Selection

logger = logging.getLogger(__name__)

STEP = 512


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
    count = queries + images
    parameters.fit(count)
    chosen = Selection(count, k1 + 1, lambda level: RESOLUTION * level.abs(), STEP, torch.device("cpu"), most=count)
    index, value = np.empty((count, k1 + 1), dtype=np.int64), np.empty((count, k1 + 1), dtype=np.float32)
    top = np.empty(count, dtype=np.float32)
    unsure: list[int] = []
    for block, original in _originals(*matrices):
        if not np.isfinite(original).all():
            image = block.start + int(np.argwhere(~np.isfinite(original))[0][0])
            raise ValueError(
                f"a distance of image {image} is NaN or infinite, or its square is in float32 (queries come first)"
            )
        top[block] = original.max(axis=1)
        original /= np.where(top[block] > 0, top[block], 1)[:, None]
        chosen.offer(block, 0, -torch.from_numpy(original))
        entry = chosen.finish(block)
        place = np.searchsorted(entry["row"], np.arange(len(original)))[:, None] + np.arange(k1 + 1)
        index[block], value[block] = entry["column"][place], -entry["value"][place]
        ends = np.unique([parameters.k2, parameters.half, k1 + 1])
        # the first that is left out, if it was kept
        after = np.append(entry, np.array([(-1, 0, 0)], entry.dtype))[place[:, -1] + 1]
        beyond = np.where(after["row"] == entry["row"][place[:, 0]], -after["value"], np.inf)[:, None]
        unsure += (block.start + np.flatnonzero(_undecided(np.hstack([value[block], beyond]), ends))).tolist()
    _warn(unsure, count)
    top[top == 0] = 1

    def exponent(rows: slice, support: sparse.csr_matrix) -> np.ndarray:
        found, missing = reciprocal.looked_up(support, index[rows], value[rows])
        row = np.searchsorted(support.indptr, missing, side="right") - 1 + rows.start
        found[missing] = _lookup(*matrices, row, support.indices[missing]) / top[row]
        return found

    blocks = consecutive(0, count, encoding.step(k1 + 1, parameters.half))
    parts = [slice(0, queries), slice(queries, count)]
    shared = Shared(*encoding.encodings(index, k1 + 1, parameters.half, k2, blocks, exponent, parts))
    result = np.empty((queries, images), dtype=np.float32)
    for part in consecutive(0, queries, 64):
        np.power(matrices[0][part], 2, out=result[part], casting="same_kind")
        result[part] *= (np.float32(lambda_value) / top[part])[:, None]
        total = np.zeros_like(result[part])
        shared.add(part, total)
        result[part] += jaccard(total, 1 - lambda_value)
    return result


def _undecided(value: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which rows have a list that ends, after ``ends`` images, where float32 cannot tell the next image from its last.

    Args:
        value: ``(R, K)`` distances, rising.
        ends: lengths of lists, less than K.
    """
    last = value[:, ends - 1]
    return np.asarray((value[:, ends] - last <= RESOLUTION * last).any(axis=1))


def _warn(images: list[int], count: int) -> None:
    """Say which images have lists whose end a rounding decides."""
    if images:
        logger.warning(
            "%d of %d images (first: %s; queries come first) have a list of neighbours whose end float32 cannot tell "
            "from the next image: equal distances go by position, torchreid's own code may decide otherwise; "
            "retrieval.Reranking(query, gallery).cuts lists each of them",
            len(images),
            count,
            ", ".join(map(str, images[:5])),
        )


def _originals(
    query_gallery: np.ndarray, query_query: np.ndarray, gallery_gallery: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of all images to blocks of them: the *columns* of the whole matrix, as the reference takes."""
    queries, images = query_gallery.shape
    for first, size, upper, lower in (
        (0, queries, query_query, query_gallery.T),
        (queries, images, query_gallery, gallery_gallery),
    ):
        for start in range(0, size, STEP):
            part = slice(start, min(start + STEP, size))
            block = np.concatenate([upper[:, part].T, lower[:, part].T], axis=1)
            with np.errstate(over="ignore"):  # an infinite square is refused by whoever takes the block
                square = np.power(block, 2).astype(np.float32)
            yield slice(first + part.start, first + part.stop), square


def _lookup(
    query_gallery: np.ndarray, query_query: np.ndarray, gallery_gallery: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Squared distances of single pairs; an image's distances are a column of the whole matrix."""
    queries = len(query_gallery)
    result = np.empty(len(row), dtype=np.float32)
    left, right = row < queries, column < queries
    for mask, values in (
        (left & right, lambda r, c: query_query[c, r]),
        (left & ~right, lambda r, c: query_gallery[r, c - queries]),
        (~left & right, lambda r, c: query_gallery[c, r - queries]),
        (~left & ~right, lambda r, c: gallery_gallery[c - queries, r - queries]),
    ):
        result[mask] = np.power(values(row[mask], column[mask]), 2)
    return result
