"""Exact k nearest neighbours by appearance or by the fused distance of Eq. 6, in tiles that are never held together.

Float32 finds candidates, a few more than asked for; float64 measures those that float32 cannot order, and compares a
row with every column where its candidates do not suffice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from torchreid_dfrst.processes import Group, shared, telling
from torchreid_dfrst.retrieval import tiles
from torchreid_dfrst.retrieval.distances import exact, resolution, squares
from torchreid_dfrst.retrieval.embeddings import Stack, alike, check_count, consecutive, same_width, unit
from torchreid_dfrst.retrieval.shards import Share, Sink, Work, agree, follow, lead
from torchreid_dfrst.retrieval.transit import Fusion, Transit, check_finite, check_fusion, is_symmetric

logger = logging.getLogger(__name__)

CLOSE = 0.05  # appearance distance below which a float32 product does not give four digits of it
FAISS_MOST, FAISS_SPARE = 2048, 8
"""Neighbours that FAISS gives at most on a GPU, and how many more than asked for it is asked for."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest columns of each row, nearest first.

    Args:
        index: ``(N, k)`` int64 column numbers; equal distances are ordered by column number.
        distance: ``(N, k)`` float32 distances, not squared.
        farthest: ``(N,)`` float32 distance of the farthest column of all, not squared.
        near_ties: ``(T, 3)`` int64: a row and two columns that follow each other in its list (or the last one and the
            first that was left out) though their distances are closer than ``distances.resolution``: float32 code may
            order them differently.
        fallbacks: number of rows that had to be compared with every column in float64.
        method: what found the candidates, for a report.
    """

    index: np.ndarray
    distance: np.ndarray
    farthest: np.ndarray
    near_ties: np.ndarray = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))
    fallbacks: int = 0
    method: str = ""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)


def neighbors(
    rows: np.ndarray,
    columns: np.ndarray,
    count: int,
    *,
    transit: Transit | None = None,
    weight: float = 0.0,
    memory_limit: int | None = None,
    device: str = "auto",
    method: str = "auto",
    group: Group | None = None,
) -> Neighbors:
    """The ``count`` nearest columns of each row by ``Da + weight * transit`` (Eq. 6), exact.

    Nothing is left out: a column that is the same image as the row is its own neighbour at distance 0. Distances that
    float32 cannot tell apart are measured in float64, and equal ones go by column number, so every path and every
    machine gives the same lists. (Blocks of ``likelihood`` with relays differ by some 1e-7 with their shape: distances
    closer than that may change places.) Passing one array as ``rows`` and ``columns`` saves half of the work.

    Args:
        rows: ``(N, D)`` embeddings, L2-normalised (see ``normalise``).
        columns: ``(M, D)`` embeddings, L2-normalised.
        count: neighbours per row, 1 to M.
        transit: ``(N, M)`` transit distances; None for appearance alone.
        weight: trade-off omega, ``>= 0``.
        memory_limit: bytes of working memory beside inputs, result and loaded code, where each thread takes 16 MiB;
            None for 40 to 80 MB a thread, of which there are eight at most, and what the lists take.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``, a GPU if there is one.
        method: ``"product"``: blocks of the matrix product; ``"faiss"``: a flat index for appearance alone, sharded
            over all GPUs if there are any; ``"auto"``: FAISS on a GPU where it can, else products.
        group: the processes of ``processes.start()``, which all call this with the same arrays: each multiplies with
            its share of the columns, process 0 merges, and all have the lists. None: this process alone.

    Raises:
        ValueError: bad embeddings, ``count`` out of range, a transit of another shape or with NaN, a negative weight, a
            memory limit too small to work in, ``"cuda"`` where there is no GPU, or what FAISS cannot do (a transit,
            more than 2,040 neighbours on a GPU, several processes); arrays or versions that differ between processes,
            or fewer columns than processes.
        KeyError: an unknown method or device.
        OtherProcessError: another process failed or was killed; the message says which.
    """
    with telling() if group is not None else nullcontext():
        left = Stack(unit("rows", rows))
        right = left if rows is columns else Stack(unit("columns", columns))
        same_width(left.parts[0], right.parts[0])
        check_count(count, len(right))
        fusion = check_fusion(transit, weight, (len(left), len(right)))
    if group is None or group.world_size == 1:
        return search(left, right, count, fusion=fusion, memory_limit=memory_limit, device=device, method=method)
    agree("rows and columns", [*left.parts, *(right.parts if right is not left else ())])
    if not group.main:
        follow(group)
        return shared(None)
    return shared(search(left, right, count, fusion, memory_limit, device, method, group=group))


def search(
    rows: Stack,
    columns: Stack,
    count: int,
    fusion: Fusion | None = None,
    memory_limit: int | None = None,
    device: str = "auto",
    method: str = "auto",
    *,
    sink: Sink | None = None,
    group: Group | None = None,
) -> Neighbors:
    """``neighbors`` of embeddings that are checked already; ``columns is rows`` saves half of the work.

    ``sink`` receives every tile that is made: rows, columns, and their float32 inner products, or minus the fused
    distances; it takes one process. With a ``group``, this is process 0 and the others are in ``shards.follow``.
    """
    if method not in ("auto", "faiss", "product"):
        raise KeyError(f"no method {method!r}: 'auto', 'faiss' or 'product'")
    place, gpus = tiles.placed(device), faiss_gpus(device)
    kept = min(count + FAISS_SPARE, len(columns))
    able = fusion is None and sink is None and group is None and (kept <= FAISS_MOST or not gpus)
    if method == "faiss" and not able:
        raise ValueError(
            f"method 'faiss' cannot find these {count} neighbours: it knows no transit, searches in one process, and "
            f"gives at most {FAISS_MOST - FAISS_SPARE} on a GPU; take 'product' or 'auto'"
        )
    flat = able and (method == "faiss" or (method == "auto" and gpus > 0))
    held = 4 * len(columns) * columns.shape[1] if flat else 0
    step, span = tiles.tile_sizes(len(rows), len(columns), rows.shape[1], count, memory_limit, fusion is not None, held)
    tiles.give_back(memory_limit)
    kept = kept if flat else tiles.candidates(count, len(columns))
    processes = 1 if group is None else group.world_size
    same = columns is rows
    work = Work(
        parts=rows.edges.tolist(),
        columns=columns.edges.tolist(),
        width=columns.shape[1],
        cuts=[rank * len(columns) // processes for rank in range(processes + 1)],
        copies=alike(rows if same else Stack(*rows.parts, *columns.parts)),
        same=same,
        symmetric=same and (fusion is None or is_symmetric(fusion.transit)),
        kept=kept,
        step=step,
        span=span,
        fusion=fusion,
        device=device,
    )
    job = Search(rows, columns, count, work, torch.device("cpu") if group else place)
    with tiles.threads_within(memory_limit):
        if group is not None:
            lead(job, group)
        elif flat:
            search_faiss(job, gpus)
        else:
            # a GPU works by itself while one thread goes on
            job.run(tiles.workers(memory_limit) if place.type == "cpu" else 1, sink)
    name = f"faiss on {f'{gpus} GPUs' if gpus else 'cpu'}" if flat else f"torch on {place}"
    ties = np.concatenate(job.near_ties)
    ties, fallbacks = ties[np.argsort(ties[:, 0], kind="stable")], sum(job.compared)
    logger.info(
        "%d neighbours of %d rows (%s): %d near-ties, %d rows compared with every column in float64",
        *(count, len(rows), name, len(ties), fallbacks),
    )
    return Neighbors(job.index, job.distance, job.farthest, ties, fallbacks, name)


class Search:
    """The lists of one search, and the candidates that they are written from."""

    def __init__(self, rows: Stack, columns: Stack, count: int, work: Work, device: torch.device):
        self.rows, self.columns, self.count, self.work, self.fusion = rows, columns, count, work, work.fusion
        self.left, self.right = work.copies[: len(rows)], work.copies[0 if work.same else len(rows) :]
        self.high = 0.0 if self.fusion is None else self.fusion.high
        self.rounding = tiles.float32_error(work.width)
        self.found = tiles.Candidates(len(rows), work.kept, device)
        self.index = np.empty((len(rows), count), dtype=np.int64)
        self.distance = np.empty((len(rows), count), dtype=np.float32)
        self.farthest = np.empty(len(rows), dtype=np.float32)
        self.near_ties: list[np.ndarray] = []
        self.compared: list[int] = []
        # or two threads would take candidates of rows of which they have only some in common
        assert work.span % work.step == 0

    def run(self, threads: int, sink: Sink | None) -> None:
        """Make every tile once, then write the lists."""
        work = self.work
        share = Share(work, 0, self.columns, self.found if work.symmetric else None, sink)

        def places() -> Iterator[tuple[slice, slice, torch.Tensor]]:
            for block in work.blocks:
                rows = tiles.tensor(self.rows.rows(block)).to(share.place)
                for span in work.spans(0, block):
                    yield block, span, rows

        tiles.each(places(), lambda place: share.tile(*place, self.found, place[0]), threads)
        tiles.each(work.blocks, self.settle, threads)

    def settle(self, block: slice) -> None:
        """Write the lists of a block of rows, all of whose candidates are found."""
        score, column = self.found.ordered(block)
        distance = self._distance(score)
        self.farthest[block] = self._distance(self.found.lowest[block].cpu().numpy())
        beyond = distance[:, -1] - self.error(distance[:, -1]) if self.found.kept < len(self.columns) else np.inf
        self.write(block, column, distance, beyond)

    def _distance(self, score: np.ndarray) -> np.ndarray:
        """Distances of scores (inner products, or minus the fused distance)."""
        score = score.astype(np.float64)
        return -score if self.fusion else np.sqrt(np.maximum(2 - 2 * score, 0))

    def write(self, block: slice, column: np.ndarray, distance: np.ndarray, beyond: np.ndarray | float) -> None:
        """Write the lists of a block of rows from candidates ``(R, K)``, nearest first, equal distances by column.

        Candidates whose intervals ``distance +- error`` overlap, directly or through others, are measured in float64 if
        they may be in the list, and so are those next to 0, where a product says little about the distance. Rows go to
        ``_compare`` if a column that is no candidate, all of which are farther than ``beyond`` ``(R,)``, may belong, or
        if even the farthest column is next to 0.
        """
        check_finite(np.isfinite(distance).all(axis=1) & np.isfinite(self.farthest[block]))
        row = np.broadcast_to(np.arange(block.start, block.stop)[:, None], column.shape)
        unsure = (distance < CLOSE + self.high) & (self.left[row] != self.right[column])
        unsure[unsure] = distance[unsure] - self._transits(row[unsure], column[unsure]) < CLOSE
        error, last = self.error(distance), self.count - 1
        latest = np.maximum.accumulate(distance + error, axis=1)
        earliest = np.minimum.accumulate((distance - error)[:, ::-1], axis=1)[:, ::-1]
        complete = (beyond > latest[:, last]) & ((self.farthest[block] == 0) | (self.farthest[block] >= CLOSE))
        overlap = latest[:, :-1] >= earliest[:, 1:]
        overlap[:, last:] = np.logical_and.accumulate(overlap[:, last:], axis=1)
        unsure[:, 1:] |= overlap
        unsure[:, :-1] |= overlap
        unsure &= complete[:, None]
        distance[unsure] = self._measure(row[unsure], column[unsure])
        again = np.flatnonzero(unsure.any(axis=1))
        order = np.lexsort((column[again], distance[again]), axis=1)
        for values in (column, distance):
            values[again] = np.take_along_axis(values[again], order, axis=1)
        self._write(row[complete, 0], column[complete], distance[complete], overlap[complete, : self.count])
        self._compare(row[~complete, 0])

    def error(self, distance: np.ndarray) -> np.ndarray:
        """Bound on the error of distances made from float32 products."""
        worst = float(np.sqrt(2 * self.rounding))
        least = np.maximum(distance - self.high, worst)
        # sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b)), and never more than sqrt(a - b)
        return 1.01 * worst**2 / (least + np.sqrt(least**2 - worst**2))

    def _transits(self, row: np.ndarray, column: np.ndarray) -> np.ndarray | float:
        return 0.0 if self.fusion is None else self.fusion.pairs(row, column)

    def _measure(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """True distances of pairs, each two embeddings compared once however often they occur."""
        code = self.left[row] * (len(self.left) + len(self.right)) + self.right[column]
        _, once, back = np.unique(code, return_index=True, return_inverse=True)
        return exact(self.rows, self.columns, row[once], column[once])[back] + self._transits(row, column)

    def _write(self, rows: np.ndarray, column: np.ndarray, distance: np.ndarray, overlap: np.ndarray) -> None:
        """Write sorted lists, and which of the pairs that follow each other and ``overlap`` are near-ties."""
        self.index[rows], self.distance[rows] = column[:, : self.count], distance[:, : self.count]
        i, j = np.nonzero(overlap)
        one, other = (
            resolution(distance[i, k] - self._transits(rows[i], column[i, k]), tiles.random_error(self.work.width))
            for k in (j, j + 1)
        )
        close = distance[i, j + 1] - distance[i, j] < np.maximum(one, other)
        self.near_ties.append(np.stack([rows[i], column[i, j], column[i, j + 1]], axis=1)[close])

    def _compare(self, rows: np.ndarray) -> None:
        """Write the lists of rows by comparing them with every column, in float64."""
        if not len(rows):
            return
        self.compared.append(len(rows))
        kinds, once, back = np.unique(self.right, return_index=True, return_inverse=True)
        some, part = tiles.at_once(self.work.step, len(self.columns))
        for batch in np.split(rows, range(some, len(rows), some)):
            x = self.rows.take(batch).astype(np.float64)
            distance = np.empty((len(batch), len(kinds)))
            for which in consecutive(0, len(kinds), part):
                distance[:, which] = squares(x, self.columns.take(once[which]).astype(np.float64))
            distance[self.left[batch][:, None] == kinds] = 0
            distance = np.sqrt(distance, out=distance)[:, back]
            for i, line in zip(batch.tolist(), distance, strict=True):
                self._compare_one(i, line)

    def _compare_one(self, i: int, distance: np.ndarray) -> None:
        """Write the list of a row from its appearance distances to all columns, made from float64 products."""
        if self.fusion is not None:
            distance += self.fusion.weight * self.fusion.transit.block(slice(i, i + 1), slice(0, len(distance)))[0]
        check_finite(np.isfinite(distance).all(keepdims=True))
        self.farthest[i] = distance.max()
        # 29 bits more than float32_error, and four such sums
        square = 8 * self.rounding * 2.0**-29
        error = square / np.maximum(distance - self.high, np.sqrt(square))
        most = min(self.count + 1, len(distance))
        column = np.flatnonzero(distance - error <= np.partition(distance + error, most - 1)[most - 1])
        true = self._measure(np.full(len(column), i), column)
        order = np.lexsort((column, true))[:most]
        self._write(np.array([i]), column[None, order], true[None, order], np.ones((1, most - 1), dtype=bool))


def search_faiss(job: Search, gpus: int) -> None:
    """Run a search by appearance alone whose candidates come from a flat FAISS index."""
    flat = flat_index(job.columns, gpus)
    for block in job.work.blocks:
        rows = job.rows.rows(block)
        score, column = flat.search(rows, job.found.kept)
        score[job.left[block][:, None] == job.right[column]] = 1
        job.found.best[block] = tiles.packed(score, column)
        job.found.lowest[block] = -torch.from_numpy(flat.search(-rows, 1)[0][:, 0])
        job.settle(block)


def faiss_gpus(device: str) -> int:
    """Number of GPUs that FAISS may use: all it sees, none if the processor is asked for."""
    if device == "cpu":
        return 0
    import faiss

    return getattr(faiss, "get_num_gpus", int)()


def flat_index(columns: Stack, gpus: int) -> Any:
    """An index of inner products that holds the columns as they are, spread over the GPUs if there are any."""
    import faiss

    index: Any = faiss.IndexFlatIP(columns.shape[1])
    for part in columns.parts:
        index.add(part)
    if gpus:
        # filled before it is spread: an index in shards numbers what it is given in one call only
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(index, options, gpus)
    return index
