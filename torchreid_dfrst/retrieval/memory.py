"""How much memory a search and a re-ranking take, and the sizes of tiles and blocks that keep within a limit."""

from __future__ import annotations

from torchreid_dfrst.values import check

STEP, SPAN = 1024, 4
"""Rows of a block, and blocks of columns multiplied at once, where memory does not matter."""

LADDER = ((STEP, SPAN), (512, 4), (256, 4), (128, 4), (64, 4), (64, 1), (16, 1))

BLOCK_BYTES = 32 << 20
"""Re-ranked distances made at once where memory does not matter."""


def lists(rows: int, count: int) -> int:
    """Bytes of the lists of all rows while they grow (best values, result, candidates, labels) and their encodings."""
    return rows * (count * (4 + 12) + 12 * (2 * count + 16) + 64 + 24 * count)


def rounded(images: int, width: int, rows: int, count: int) -> int:
    """Bytes that bfloat16 takes beside: copies of the embeddings, and the candidates of its wider window."""
    return 2 * width * images + 80 * rows * count


def tile(rows: int, columns: int, width: int) -> int:
    """Bytes of one tile: its values twice, maxima and candidates of them, and its factors as the routine packs them."""
    return 4 * (5 * rows * columns // 2 + width * (rows + columns))


def search_plan(
    rows: int, columns: int, width: int, count: int, memory_limit: int | None, held: int = 0
) -> tuple[int, int]:
    """Rows of a block and blocks of columns multiplied at once that keep within a limit of memory.

    Args:
        rows: number of rows.
        columns: number of columns.
        width: dimensions of an embedding.
        count: neighbours per row.
        memory_limit: bytes; None for no limit.
        held: bytes of the embeddings in another form: rounded, or in an index.

    Raises:
        ValueError: not even the smallest tiles do.
    """
    check("memory_limit", memory_limit, int | None)
    if memory_limit is None:
        return STEP, SPAN
    least, always = 0, held + lists(rows, count)
    for step, span in LADDER:
        least = always + tile(min(step, rows), min(step * span, columns), width)
        if least <= memory_limit:
            return step, span
    copies = f" ({held} of them for other forms of the embeddings)" if held else ""
    raise ValueError(
        f"a memory limit of {memory_limit} bytes is too small for {count} neighbours of {rows} rows among {columns} "
        f"columns: {least} are needed{copies}"
    )


def block_rows(images: int, columns: int, width: int, count: int, memory_limit: int | None) -> int:
    """Rows of re-ranked distances to make at once: a quarter of what lists and encodings leave, at most 256 rows."""
    free = BLOCK_BYTES
    check("memory_limit", memory_limit, int | None)
    if memory_limit is not None:
        free = min(free, (memory_limit - images * 52 * count - tile(16, STEP * SPAN, width)) // 4)
    return max(1, min(256, free // (4 * columns)))
