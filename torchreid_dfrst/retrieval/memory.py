"""How much memory a search and a re-ranking take, and the sizes of tiles and blocks that keep within a limit."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torchreid_dfrst.checks import check

STEP, SPAN = 1024, 4
"""Rows of a block, and blocks of columns multiplied at once, where memory does not matter."""

LADDER = ((STEP, SPAN), (512, 4), (256, 4), (128, 4), (64, 4), (64, 1), (16, 1))

LEAST_COLUMNS = 64
"""Columns in float64 at once where memory is scarce."""

BLOCK_BYTES = 32 << 20
"""Four times the re-ranked distances made at once where memory does not matter."""

ENTRY, EVENT = 8, 40
"""Bytes of an entry of an encoding, and of a product of one entry with one entry (see ``Shared``)."""


def lists(rows: int, count: int) -> int:
    """Bytes of the lists of all rows while they grow (best values, result, candidates, labels) and their encodings."""
    return rows * (count * (4 + 12) + 12 * (2 * count + 16) + 64 + 24 * count)


def rounded(images: int, width: int, rows: int, count: int) -> int:
    """Bytes that bfloat16 takes beside: copies of the embeddings, and the candidates of its wider window."""
    return 2 * width * images + 80 * rows * count


def settling(rows: int, count: int) -> int:
    """Bytes in which the lists of one block of rows are settled from their candidates."""
    return 80 * rows * (2 * count + 16)


def tile(rows: int, columns: int, width: int, fused: bool = False) -> int:
    """Bytes of one tile: its values twice, maxima and candidates of them, and its factors as the routine packs them.

    Transit distances are one tile more, and what they are made from another one.
    """
    return 4 * ((9 if fused else 5) * rows * columns // 2 + width * (rows + columns))


def whole(columns: int, width: int) -> int:
    """Bytes in which one row is measured against everything (see ``whole_rows``)."""
    return _aside(columns, width, LEAST_COLUMNS) + _each(columns, width)


def whole_rows(columns: int, width: int, free: int | None) -> tuple[int, int]:
    """Rows measured against everything at once, and how many columns are in float64 meanwhile; ``free`` bytes do."""
    if free is None:
        return 64, 2048
    part = max(LEAST_COLUMNS, min(2048, free // 4 // (16 * width)))
    return max(1, min(64, (free - _aside(columns, width, part)) // _each(columns, width))), part


def _aside(columns: int, width: int, part: int) -> int:
    """Bytes beside rows that are measured against everything: what one is settled in, and columns in float64."""
    return 80 * columns + 16 * width * part


def _each(columns: int, width: int) -> int:
    """Bytes of one such row: its distances, and its embedding itself, in float64, doubled and squared."""
    return 32 * columns + 28 * width


def most_candidates(rows: int, block: int, count: int, reduced: bool, spare: int | None) -> int:
    """Candidates that one row may have: those that were planned for, and what ``spare`` bytes more can hold."""
    most = 8 * count + 256
    if spare is None:
        return most
    planned = 2 * count + 16 + (80 * count // 12 if reduced else 0)
    # an entry twice, as lists grow by copying, and what settles it
    return min(most, planned + spare // ((2 if reduced else 1) * (24 * rows + 80 * min(block, rows))))


def with_gaps(size: int) -> int:
    """Bytes, and an eighth more for what the C library leaves unused between arrays that come and go."""
    return size * 9 // 8


class SearchPlan(NamedTuple):
    """Rows of a block, blocks of columns multiplied at once, and bytes left for rows with many candidates.

    ``spare`` is None where memory does not matter.
    """

    step: int
    span: int
    spare: int | None


def search_plan(
    rows: int, columns: int, width: int, count: int, memory_limit: int | None, held: int = 0, fused: bool = False
) -> SearchPlan:
    """Sizes of the tiles of a search that keep within a limit of memory.

    Args:
        rows: number of rows.
        columns: number of columns.
        width: dimensions of an embedding.
        count: neighbours per row.
        memory_limit: bytes; None for no limit.
        held: bytes of the embeddings in another form: rounded, or in an index.
        fused: whether transit distances take part.

    Raises:
        ValueError: not even the smallest tiles do.
    """
    check("memory_limit", memory_limit, int | None)
    if memory_limit is None:
        return SearchPlan(STEP, SPAN, None)
    least, always = 0, held + lists(rows, count)
    for step, span in LADDER:
        block = min(step, rows)
        work = max(tile(block, min(step * span, columns), width, fused), whole(columns, width))
        least = with_gaps(always + settling(block, count) + work)
        if least <= memory_limit:
            return SearchPlan(step, span, (memory_limit - least) * 8 // 9)
    copies = f" ({held} of them for other forms of the embeddings)" if held else ""
    raise ValueError(
        f"a memory limit of {memory_limit} bytes is too small for {count} neighbours of {rows} rows among {columns} "
        f"columns: {least} are needed{copies}"
    )


def trim() -> None:
    """Hand freed memory back to the system if the C library can (glibc): else it stays in use."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release is not None:
        release(0)


def give_back(memory_limit: int | None) -> None:
    """``trim`` if there is a limit."""
    if memory_limit is not None:
        trim()


def found(rows: int, count: int) -> int:
    """Bytes of the result of a search, and of what it leaves behind until Python collects cycles."""
    return rows * (16 * count + 48)


def encodings(rows: int, count: int, support: int, entries: Sequence[int]) -> int:
    """Bytes that are held at most while encodings are made and one of them is inverted, with the neighbours.

    Args:
        rows: number of images.
        count: neighbours per image.
        support: entries before the local query expansion.
        entries: entries of each matrix after it, the last of which is inverted.
    """
    return found(rows, count) + ENTRY * max(2 * support, support + sum(entries) + entries[-1]) + 12 * rows


def encoded(rows: int, count: int, entries: Sequence[int]) -> int:
    """Bytes that are held afterwards."""
    return found(rows, count) + ENTRY * sum(entries) + 8 * rows


@dataclass(frozen=True)
class BlockPlan:
    """How re-ranked distances are made: rows at once, columns multiplied at once, and ``Shared.events``."""

    rows: int
    columns: int
    events: int


def block_plan(
    held: int, columns: int, width: int, crowd: int, most: int, memory_limit: int | None, fused: bool = False
) -> BlockPlan:
    """Blocks of re-ranked distances that keep within a limit of memory.

    Args:
        held: bytes that are held meanwhile.
        columns: width of a block.
        width: dimensions of an embedding; 0 where nothing is multiplied.
        crowd: see ``Shared``.
        most: events where memory does not matter.
        memory_limit: bytes; None for no limit.
        fused: whether transit distances take part.

    Raises:
        ValueError: not even single rows do.
    """
    rows = max(1, min(256, BLOCK_BYTES // (16 * columns)))
    if memory_limit is None:
        return BlockPlan(rows, STEP * SPAN, most)
    # the other half is left to the C library, which does not put a block where the last one was
    free, span = (memory_limit - held) // 2, STEP * SPAN
    for step, blocks in LADDER:
        span = min(step * blocks, columns)
        if tile(1, span, width) <= free // 4:
            break
    # a block that is made, the one before in the hands of whoever asked for it, and half of one in sums of minima
    single, fixed = (24 if fused else 12) * columns + 10 * span, tile(1, span, width)
    least = fixed + single + EVENT * crowd
    if free < least:
        raise ValueError(
            f"a memory limit of {memory_limit} bytes is too small for the distances of single images to {columns}: "
            f"{held + 2 * least} are needed, {held} of them for neighbours and encodings"
        )
    free -= fixed
    events = max(crowd, min(most, free // (4 * EVENT), (free - single) // EVENT))
    return BlockPlan(max(1, min(rows, (free - EVENT * events) // single)), span, events)
