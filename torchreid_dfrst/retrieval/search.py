"""One search: how, where, and in how much memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.retrieval import faiss_search
from torchreid_dfrst.retrieval.fused import Fusion
from torchreid_dfrst.retrieval.lists import Neighbors
from torchreid_dfrst.retrieval.memory import rounded, search_plan
from torchreid_dfrst.retrieval.products import choose
from torchreid_dfrst.retrieval.stack import Stack
from torchreid_dfrst.retrieval.tiles import Progress, Search, Sink, no_progress

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
    progress: Progress = no_progress,
) -> Neighbors:
    """Run one ``Search`` within a limit of memory, by matrix products or by FAISS.

    ``method="auto"`` takes FAISS where it finds a GPU, unless somebody wants the tiles, and products elsewhere: on a
    processor they are faster, and they make half of a symmetric matrix only.

    Raises:
        KeyError: an unknown precision, method or device.
        ValueError: the memory limit is too small to work in, or there is no GPU though one is asked for.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise KeyError(f"no precision {precision!r}: 'auto', 'fp32' or 'bf16'")
    if method not in ("auto", "faiss", "product"):
        raise KeyError(f"no method {method!r}: 'auto', 'faiss' or 'product'")
    if device not in ("auto", "cpu", "cuda"):
        raise KeyError(f"no device {device!r}: 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU: take 'auto' or 'cpu'")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    gpus = faiss_search.gpus(device)
    flat = method == "faiss" or (method == "auto" and gpus > 0 and sink is None)
    reduced = not flat and choose(rows, columns, precision, place)[2]
    embeddings = len(rows) + (len(columns) if columns is not rows else 0)
    held = 4 * columns.shape[1] * len(columns) if flat else 0
    if reduced:
        held = rounded(embeddings, rows.shape[1], len(rows), count)
    size = len(rows), len(columns), rows.shape[1], count, memory_limit
    try:
        step, span = search_plan(*size, held)
    except ValueError:
        if precision != "auto" or not reduced:
            raise
        precision = "fp32"
        step, span = search_plan(*size)
    job: Search
    if flat:
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
    job.run(progress)
    if job.fallbacks:
        logger.info("%d of %d rows had too many candidates and were measured whole", job.fallbacks, len(rows))
    ties = np.concatenate(job.near_ties)
    return Neighbors(job.index, job.distance, job.farthest, ties, job.fallbacks, job.name)
