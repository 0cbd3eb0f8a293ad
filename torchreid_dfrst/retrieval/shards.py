"""One search on several processes, each with a part of the columns; process 0 leads and has the lists.

Process 0 hands every other one its shard, sends rows in blocks, and merges the candidates that come back. Which of them
belong is decided by process 0 as in a search of one process, so the lists are the same. Where rows are the columns and
distances are the same there and back, each pair of shards is compared once, half of it by either process.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from torchreid_dfrst.processes import Group, heard, of_all, reaching, say, telling
from torchreid_dfrst.retrieval.embeddings import Stack, consecutive
from torchreid_dfrst.retrieval.tiles import Candidates, Products, placed, tensor
from torchreid_dfrst.retrieval.transit import Fusion
from torchreid_dfrst.version import __version__

if TYPE_CHECKING:
    from torchreid_dfrst.retrieval.search import Search


logger = logging.getLogger(__name__)

Sink = Callable[[slice, slice, torch.Tensor], None]
"""Is given every tile that is made: rows, columns, and their float32 inner products, or minus the fused distances."""


def agree(what: str, content: Iterable[Any]) -> None:
    """Refuse, in all processes, that they have not one version and the same content, given as bytes or arrays.

    A ValueError names the first rank that differs; an OtherProcessError says that a process is gone.
    """
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    with reaching():
        said = of_all((__version__, digest.hexdigest()[:16]))
    first, ours = said[0]
    for rank, (version, found) in enumerate(said):
        if version != first:
            raise ValueError(
                f"process {rank} runs version {version} of this package, process 0 {first}: install one everywhere"
            )
        if found != ours:
            raise ValueError(
                f"process {rank} has other {what} than process 0 (hash {found}, {ours}): copy one file everywhere"
            )


@dataclass(frozen=True, eq=False)
class Work:
    """What all processes know of a search."""

    parts: list[int]
    """Where the parts of the rows begin, and their number."""
    columns: list[int]
    """Likewise of the columns."""
    width: int
    cuts: list[int]
    """``columns[cuts[r] : cuts[r + 1]]`` are the shard of process r."""
    copies: np.ndarray
    """``alike`` of all rows and columns."""
    same: bool
    """Rows and columns are one list."""
    symmetric: bool
    """And the distances there are those back."""
    kept: int
    step: int
    span: int
    fusion: Fusion | None
    device: str

    @cached_property
    def blocks(self) -> list[slice]:
        """All blocks of rows; where rows are columns, none crosses from one shard into the next."""
        edges = sorted({*self.parts, *(self.cuts if self.same else ())})
        return [block for a, b in pairwise(edges) for block in consecutive(a, b, self.step)]

    def owner(self, block: slice) -> int | None:
        """The process whose shard holds a block of rows, if they are columns."""
        return int(np.searchsorted(self.cuts, block.start, side="right")) - 1 if self.same else None

    @cached_property
    def middles(self) -> list[int]:
        """The first block edge from the middle of each shard on."""
        starts = np.array([block.start for block in self.blocks])
        halves = [(a + b + 1) // 2 for a, b in pairwise(self.cuts)]
        found = np.append(starts, self.cuts[-1])[np.searchsorted(starts, halves)].tolist()
        return [min(edge, end) for edge, end in zip(found, self.cuts[1:], strict=True)]

    def edges(self, begin: int, end: int) -> list[int]:
        """Where a slice of the columns and the parts in it begin, and its end."""
        return sorted({begin, end, *(edge for edge in self.columns if begin < edge < end)})

    def spans(self, rank: int, block: slice) -> list[slice]:
        """The tiles that a process makes of a block of rows, as slices of all columns."""
        begin, end = self.cuts[rank], self.cuts[rank + 1]
        owner, first = self.owner(block), begin
        if self.symmetric and owner is not None:
            if owner == rank:
                first = block.start
            elif owner < rank:
                first = self.middles[rank]
            elif block.start >= self.middles[owner]:
                return []
        edges = self.edges(first, end)
        if self.symmetric and owner == rank:
            edges = sorted({*edges, block.stop})
        return [span for a, b in pairwise(edges) for span in consecutive(a, b, self.span)]


class Share:
    """The part of a search that one process does with its shard of the columns.

    ``own`` are the candidates of the rows that are its columns; ``sink`` sees every tile.
    """

    def __init__(self, work: Work, rank: int, columns: Stack, own: Candidates | None = None, sink: Sink | None = None):
        self.work, self.rank, self.own, self.sink = work, rank, own, sink
        self.begin, self.place = work.cuts[rank], placed(work.device)
        numbers = (work.copies if work.same else work.copies[work.parts[-1] :])[self.begin : work.cuts[rank + 1]]
        self.products = Products(columns, numbers, work.copies, self.place)
        if own is None and work.symmetric:
            self.own = Candidates(len(columns), work.kept, self.place)

    def take(self, block: slice, rows: np.ndarray) -> list[np.ndarray]:
        """Candidates of a block of rows and their lowest scores; nothing where ``own`` keeps them."""
        work, spans = self.work, self.work.spans(self.rank, block)
        if not spans:
            return []
        found, place = Candidates(len(rows), work.kept, self.place), slice(0, len(rows))
        if self.own is not None and work.owner(block) == self.rank:
            found, place = self.own, self.local(block)
        x = tensor(rows).to(self.place)
        for span in spans:
            self.tile(block, span, x, found, place)
        return [] if found is self.own else [found.best, found.lowest.cpu().numpy()]

    def tile(self, block: slice, span: slice, rows: torch.Tensor, found: Candidates, place: slice) -> None:
        """Make one tile and take the candidates in it, those of its columns too where they are rows."""
        work = self.work
        tile = self.products.tile(rows, work.copies[block], self.local(span))
        if work.same and span.start <= block.start < span.stop:
            tile[:, block.start - span.start :].fill_diagonal_(1)
        if work.fusion is not None:
            work.fusion.scores(tile, block, span)
        if self.sink is not None:
            self.sink(block, span, tile)
        found.take(place, span.start, tile)
        if self.own is not None and span != block:
            for part in consecutive(span.start, span.stop, work.step):
                back = tile[:, part.start - span.start : part.stop - span.start].t()
                self.own.take(self.local(part), block.start, back)

    def local(self, columns: slice) -> slice:
        """A slice of all columns as one of the shard."""
        return slice(columns.start - self.begin, columns.stop - self.begin)

    def kept(self) -> list[np.ndarray]:
        """Candidates that ``take`` kept for the rows that are this process's columns, and their lowest scores."""
        return [] if self.own is None else [self.own.best, self.own.lowest.cpu().numpy()]


def lead(job: Search, group: Group) -> None:
    """Run a search in process 0 while the others are in ``follow``.

    A ValueError refuses fewer columns than processes; an OtherProcessError says that another failed or is gone.
    """
    work, columns, others = job.work, len(job.columns), range(1, group.world_size)
    if columns < group.world_size:
        raise ValueError(
            f"{group.world_size} processes for {columns} rows: process {columns} would have none, start {columns} or "
            "fewer"
        )
    logger.info("%d processes share the columns", group.world_size)
    for rank in others:
        say(work, rank)
        for part in job.columns.between(*work.cuts[rank : rank + 2]).parts:
            send(part, rank)
    share = Share(work, 0, job.columns.between(*work.cuts[:2]))
    for block in work.blocks:
        rows = job.rows.rows(block)
        asked = [rank for rank in others if work.spans(rank, block)]
        for rank in asked:
            if rank != work.owner(block):
                send(rows, rank)
        if mine := share.take(block, rows):
            job.found.join(block, *mine)
        for rank in asked:
            if not (work.symmetric and rank == work.owner(block)):
                job.found.join(block, *received_candidates(len(rows), work.kept, rank))
        if not work.symmetric:
            job.settle(block)
    if work.symmetric:
        for rank in range(group.world_size):
            rows_of = slice(*work.cuts[rank : rank + 2])
            found = received_candidates(rows_of.stop - rows_of.start, work.kept, rank) if rank else share.kept()
            job.found.join(rows_of, *found)
        for block in work.blocks:
            job.settle(block)


def follow(group: Group) -> bool:
    """Do this process's part of the next search that process 0 leads; False if it says that there is none."""
    with telling():
        work = heard(0)
        if work is None:
            return False
        width, edges = work.width, work.edges(*work.cuts[group.rank : group.rank + 2])
        shard = Stack(*(received((b - a, width), np.float32, 0) for a, b in pairwise(edges)))
        share = Share(work, group.rank, shard)
        for block in work.blocks:
            if not work.spans(group.rank, block):
                continue
            if work.owner(block) == group.rank:
                rows = shard.rows(share.local(block))
            else:
                rows = received((block.stop - block.start, width), np.float32, 0)
            for array in share.take(block, rows):
                send(array, 0)
        for array in share.kept():
            send(array, 0)
    return True


def dismiss(group: Group) -> None:
    """Tell the others that there is nothing more to search."""
    for rank in range(1, group.world_size):
        say(None, rank)


def send(array: np.ndarray, rank: int) -> None:
    """Send the values of an array."""
    with reaching(rank):
        dist.send(tensor(np.ascontiguousarray(array)), rank)


def received(shape: tuple[int, ...], dtype: Any, rank: int) -> np.ndarray:
    """Receive an array."""
    array = np.empty(shape, dtype=dtype)
    with reaching(rank):
        dist.recv(torch.from_numpy(array), rank)
    return array


def received_candidates(rows: int, kept: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of some rows and their lowest scores, from another process."""
    return received((rows, kept), np.int64, rank), received((rows,), np.float32, rank)
