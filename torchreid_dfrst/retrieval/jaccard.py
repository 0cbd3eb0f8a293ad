"""Jaccard distance of k-reciprocal encodings (Zhong et al., CVPR 2017), which are sparse matrices.

And by itself, of all images: what clustering methods train on (SpCL; fast-reid's ``compute_jaccard_distance``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy import sparse

from torchreid_dfrst.checks import check, within
from torchreid_dfrst.retrieval.distances import exact
from torchreid_dfrst.retrieval.embeddings import Stack, consecutive, unit
from torchreid_dfrst.retrieval.search import Neighbors, search
from torchreid_dfrst.retrieval.tiles import give_back, threads_within
from torchreid_dfrst.retrieval.transit import Fusion, Transit, check_fusion, mirrored

logger = logging.getLogger(__name__)

STEP, SPAN = 1024, 4096  # rows averaged at once, and most columns multiplied at once
CANDIDATES, MINIMA, BLOCK_BYTES = 1 << 17, 1 << 21, 8 << 20
"""Neighbours of neighbours, minima of two entries and bytes of distances at once where memory does not matter."""
ENTRY_BYTES, MINIMUM_BYTES = 8, 40
"""What an entry of an encoding takes, and a minimum of two entries while it is summed."""

Exponent = Callable[[slice, np.ndarray, np.ndarray], np.ndarray]
"""The exponents of the weights of pairs, from a slice of rows, the row of each pair in it, and its column."""


def check_lengths(k1: int, k2: int) -> None:
    """Refuse lengths of lists that are no whole numbers or out of range."""
    check("k1", k1, int)
    check("k2", k2, int)
    within("k1", k1, lowest=1)
    if not 1 <= k2 <= k1:
        raise ValueError(f"k2 is {k2} with k1 {k1}: between 1 (no query expansion) and k1")


def half_length(k1: int) -> int:
    """Length of the neighbours' own lists; a half rounds to the even number, as in the reference."""
    return round(k1 / 2) + 1


def encodings(
    index: np.ndarray, half: int, k2: int, exponent: Exponent, parts: Sequence[slice], memory_limit: int | None = None
) -> list[sparse.csr_matrix]:
    """Reciprocal sets of neighbours ``(N, k)``, expanded, weighed, and averaged over the ``k2`` nearest (1 for none).

    ``half`` is the length of the neighbours' own lists. Weights are ``exp(-exponent)`` over their sum in each row. Each
    of ``parts``, consecutive slices of all rows, becomes a ``(rows, N)`` CSR matrix whose rows sum to 1, but for an
    image with more equal copies than a list holds: it may be missing from its own list and have an empty row (such
    copies may be 1 apart, as in torchreid).

    Raises:
        ValueError: the encodings do not fit into the limit.
    """
    give_back(memory_limit)
    own, theirs = _reciprocal_pairs(index), _reciprocal_pairs(index[:, :half])
    # 2/3 of the number in float64, as the reference computes it: the comparison is strict
    enough = 2.0 / 3 * np.diff(theirs.indptr)
    made = []
    for part in parts:
        for rows in consecutive(part.start, part.stop, max(1, CANDIDATES // (index.shape[1] * half))):
            give_back(memory_limit)
            support = _expanded_sets(own[rows], theirs, enough)
            row = np.repeat(np.arange(support.shape[0]), np.diff(support.indptr))
            weight = np.exp(-exponent(rows, row, support.indices))
            total = np.bincount(row, weight, minlength=support.shape[0])
            support.data = (weight / total[row]).astype(np.float32)
            made.append(support)
    del own, theirs
    whole = sparse.vstack(made, format="csr")
    del made
    give_back(memory_limit)
    if memory_limit is not None:
        entries = [sum(block.nnz for block in _averaged_encodings(whole, index[:, :k2], part)) for part in parts]
        # two copies before the average; after it also the last part twice, as rows and as columns
        needed = held(index, max(2 * whole.nnz, whole.nnz + sum(entries) + entries[-1])) * 9 // 8
        if needed > memory_limit:
            raise ValueError(
                f"a memory limit of {memory_limit} bytes is too small for the encodings of these {len(index)} images "
                f"with {k2} of {index.shape[1]} neighbours averaged: {needed} are needed"
            )
    return [sparse.vstack(list(_averaged_encodings(whole, index[:, :k2], part)), format="csr") for part in parts]


def _listed_matrix(index: np.ndarray, columns: int, value: float = 1) -> sparse.csr_matrix:
    """``(rows, columns)`` CSR with a value where a row lists a column."""
    data = np.full(index.size, value, dtype=np.float32)
    ends = np.arange(0, index.size + 1, index.shape[1])
    return sparse.csr_matrix((data, index.ravel(), ends), shape=(len(index), columns))


def _reciprocal_pairs(index: np.ndarray) -> sparse.csr_matrix:
    """Pairs that are in each other's lists: binary ``(N, N)`` CSR."""
    listed = _listed_matrix(index, len(index))
    return listed.multiply(listed.T.tocsr())


def _expanded_sets(own: sparse.csr_matrix, theirs: sparse.csr_matrix, enough: np.ndarray) -> sparse.csr_matrix:
    """Sets of some rows with those of the neighbours that share more than 2/3 of theirs; what is stored belongs."""
    # a set of theirs is a row and, being reciprocal, the same column
    shared = own.multiply(own @ theirs).tocoo()
    chosen = shared.data > enough[shared.col]
    ones = np.ones(int(chosen.sum()), dtype=np.float32)
    friends = sparse.csr_matrix((ones, (shared.row[chosen], shared.col[chosen])), shape=own.shape)
    return own + friends @ theirs


def _averaged_encodings(whole: sparse.csr_matrix, near: np.ndarray, part: slice) -> Iterator[sparse.csr_matrix]:
    """Local query expansion: each row becomes the mean of the rows that it lists in ``near``."""
    for rows in consecutive(part.start, part.stop, STEP):
        yield whole[rows] if near.shape[1] == 1 else _listed_matrix(near[rows], len(near), 1 / near.shape[1]) @ whole


def scaled_distances(power: int, scale: np.ndarray, near: Neighbors, images: Stack, fusion: Fusion | None) -> Exponent:
    """Exponents ``distance ** power / scale`` of pairs, by the ``(N,)`` float32 scale of their rows.

    A distance is taken from the lists of neighbours where they hold the pair, else measured in float64.
    """

    def exponent(rows: slice, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        lists = near.index[rows]
        ends = np.arange(0, lists.size + 1, lists.shape[1])
        numbers = sparse.csr_matrix((np.arange(1, lists.size + 1), lists.ravel(), ends), (len(lists), len(near)))
        where = np.asarray(numbers[row, column]).ravel() if len(row) else np.zeros(0, dtype=int)
        distance = np.append(np.float32(0), near.distance[rows])[where]
        missing = np.flatnonzero(where == 0)
        row, column = row + rows.start, column[missing]
        found = exact(images, images, row[missing], column)
        distance[missing] = found if fusion is None else found + fusion.pairs(row[missing], column)
        return distance**power / scale[row]

    return exponent


def held(index: np.ndarray, entries: int) -> int:
    """Bytes of the neighbours and of encodings with so many entries, with what Python has yet to collect."""
    return len(index) * (16 * index.shape[1] + 60) + ENTRY_BYTES * entries


class Jaccard:
    """Jaccard distances of encodings ``(Q, N)`` and ``(G, N)`` CSR whose rows sum to 1, from the entries they share.

    ``most`` minima of two entries are held at once; those of one entry of ``left`` always are.
    """

    def __init__(self, left: sparse.csr_matrix, right: sparse.csr_matrix):
        self.left, self.inverted, self.most = left, right.tocsc(), MINIMA

    def sizes(
        self, index: np.ndarray, memory_limit: int | None, width: int = 0, fused: bool = False
    ) -> tuple[int, int]:
        """Rows of a block of distances, and columns multiplied at once, within a limit of memory; sets ``most``.

        ``index`` are the neighbours, held meanwhile; ``width`` is that of embeddings to be multiplied again, if any;
        ``fused`` says whether transit distances take part. A ValueError says that not even single rows keep within it.
        """
        columns, fullest = self.inverted.shape[0], int(np.diff(self.inverted.indptr).max())
        rows = max(1, min(256, BLOCK_BYTES // (4 * columns)))
        if memory_limit is None:
            return rows, SPAN
        give_back(memory_limit)
        used = held(index, self.left.nnz + self.inverted.nnz)
        # the other half is left to the C library, which does not put a block where the last one was
        free = (memory_limit - used) // 2
        span = min(columns, SPAN, max(16, free // (16 * width + 40)))
        # a block that is made, the one before in the hands of whoever asked for it, and half of one in sums of minima
        row, product = (24 if fused else 12) * columns + 10 * span, 4 * width * (1 + span) + 10 * span
        least = product + row + MINIMUM_BYTES * fullest
        if free < least:
            raise ValueError(
                f"a memory limit of {memory_limit} bytes is too small for the distances of single images to {columns}: "
                f"{used + 2 * least} are needed, {used} of them for neighbours and encodings"
            )
        free -= product
        self.most = max(fullest, min(MINIMA, free // (4 * MINIMUM_BYTES), (free - row) // MINIMUM_BYTES))
        return max(1, min(rows, (free - MINIMUM_BYTES * self.most) // row)), span

    def distance(self, rows: slice, share: float = 1.0) -> np.ndarray:
        """``share`` times the distances of some rows of ``left``, in [0, 1]: ``(rows, G)`` float32."""
        left, inverted = self.left, self.inverted
        total = np.zeros((rows.stop - rows.start, inverted.shape[0]), dtype=np.float32)
        entry = slice(left.indptr[rows.start], left.indptr[rows.stop])
        column, weight = left.indices[entry], left.data[entry]
        # where the entries of the right that share a column with each entry of the left begin, and how many there are
        first = inverted.indptr[column].astype(np.int64)
        size = inverted.indptr[column + 1] - first
        done = np.concatenate([[0], np.cumsum(size)])
        first -= done[:-1]
        line = np.repeat(np.arange(len(total)), np.diff(left.indptr[rows.start : rows.stop + 1])) * total.shape[1]
        start = 0
        while start < len(column):
            stop = max(start + 1, int(np.searchsorted(done, done[start] + self.most, side="right")) - 1)
            owner = np.repeat(np.arange(start, stop), size[start:stop])
            place = np.arange(done[start], done[stop])
            place += first[owner]
            low = np.minimum(weight[owner], inverted.data[place])
            flat = line[owner]
            flat += inverted.indices[place]
            np.add.at(total.reshape(-1), flat, low)
            start = stop
        # encodings that sum to 1 have a sum of maxima of 2 - sum min: 1 - sum min / sum max = 2 - 2 / (2 - sum min)
        torch.from_numpy(total).neg_().add_(2).clamp_(min=1).reciprocal_().mul_(-2 * share).add_(2 * share)
        return total


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
    SpCL has it. Returned are ``(N, N)`` float32 in [0, 1]; ``jaccard_blocks(...).near`` lists near-ties.

    Args:
        embedding: ``(N, D)``, L2-normalised (see ``normalise``).
        transit: ``(N, N)`` transit distances, of which both directions are averaged; None for appearance alone.
        weight: trade-off omega of Eq. 6, ``>= 0``.
        k1: length of the lists, ``2 <= k1 <= N``.
        k2: images averaged in the local query expansion, ``1 <= k2 <= k1``; 1 for none.
        memory_limit: see ``neighbors``; the result itself does not count.

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

    Iterating gives a slice of rows and their distances to all images, ``(rows, N)`` float32. ``near`` are the
    neighbours they rest on, with near-ties, fallbacks and method.
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
        check_lengths(k1, k2)
        if count < 2:
            raise ValueError("one image has nobody to be like: at least two are needed")
        if not 2 <= k1 <= count:
            raise ValueError(f"k1 is {k1} with {count} images: between 2 and {count}")
        fusion = check_fusion(transit, weight, (count, count))
        fusion = fusion and Fusion(mirrored(fusion.transit, 0), weight)
        self._limit = memory_limit
        self.near = near = search(images, images, k1, fusion=fusion, memory_limit=memory_limit)
        logger.info("Jaccard distances by the definition of SpCL, %s: %d near-ties", near.method, len(near.near_ties))
        exponent = scaled_distances(2, np.ones(count, dtype=np.float32), near, images, fusion)
        (every,) = encodings(near.index, half_length(k1), k2, exponent, [slice(0, count)], memory_limit)
        self._jaccard = Jaccard(every, every)
        self._step = min(64, self._jaccard.sizes(near.index, memory_limit)[0])

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Give some rows, and their distances ``(rows, N)`` float32."""
        distance = threads_within(self._limit)(self._jaccard.distance)
        for rows in consecutive(0, len(self.near), self._step):
            yield rows, distance(rows)
