"""One search: how, where, and in how much memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.retrieval import faiss_search
from torchreid_dfrst.retrieval.lists import Neighbors
from torchreid_dfrst.retrieval.stack import Stack
from torchreid_dfrst.retrieval.tiles import SPAN, STEP, Fusion, Search, Sink

logger = logging.getLogger(__name__)


def search(
    rows: Stack,
    columns: Stack,
    count: int,
    *,
    fusion: Fusion | None = None,
    precision: str = "auto",
    memory_limit: int | None = None,
    device: str = "auto",
    method: str = "auto",
    wanted: Callable[[slice, slice], bool] = lambda rows, columns: False,
    sink: Sink | None = None,
) -> Neighbors:
    """Run one ``Search`` within a limit of memory, by matrix products or by FAISS.

    ``method="auto"`` takes FAISS where it finds a GPU, unless somebody wants the tiles, and products elsewhere: on a
    processor they are faster, and they make half of a symmetric matrix only.

    Raises:
        KeyError: an unknown precision or method.
        ValueError: the memory limit is too small to work in.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise KeyError(f"no precision {precision!r}: 'auto', 'fp32' or 'bf16'")
    if method not in ("auto", "faiss", "product"):
        raise KeyError(f"no method {method!r}: 'auto', 'faiss' or 'product'")
    place = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    step, span = plan(len(rows), len(columns), count, memory_limit)
    gpus = faiss_search.gpus(device)
    job: Search
    if method == "faiss" or (method == "auto" and gpus and sink is None):
        job = faiss_search.FaissSearch(rows, columns, count, fusion=fusion, step=step, gpus=gpus)
    else:
        job = Search(
            rows,
            columns,
            count,
            fusion=fusion,
            precision=precision,
            step=step,
            span=span,
            device=place,
            wanted=wanted,
            sink=sink,
        )
    job.run()
    if job.fallbacks:
        logger.info("%d of %d rows had too many candidates and were measured whole", job.fallbacks, len(rows))
    ties = np.concatenate(job.near_ties)
    return Neighbors(job.index, job.distance, job.farthest, ties, job.fallbacks, job.name)


def plan(rows: int, columns: int, count: int, memory_limit: int | None) -> tuple[int, int]:
    """Rows of a block and blocks of columns multiplied at once that keep within a limit of memory.

    Raises:
        ValueError: not even the smallest tiles do.
    """
    # the best values so far and three times as many candidates, 12 bytes each; a tile exists up to three times
    lists = rows * count * (4 + 3 * 12)
    least = 0
    for step, span in ((STEP, SPAN), (512, 4), (256, 4), (128, 4), (128, 1)):
        least = lists + 3 * 4 * min(step, rows) * min(step * span, columns)
        if memory_limit is None or least <= memory_limit:
            return step, span
    raise ValueError(
        f"a memory limit of {memory_limit} bytes is too small for {count} neighbours of {rows} rows among {columns} "
        f"columns: {least} are needed"
    )
