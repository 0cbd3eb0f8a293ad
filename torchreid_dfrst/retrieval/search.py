"""One search: how, where, and in how much memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.retrieval import faiss_search
from torchreid_dfrst.retrieval.embeddings import Stack, check_finite, check_precision
from torchreid_dfrst.retrieval.lists import Neighbors
from torchreid_dfrst.retrieval.memory import SearchPlan, rounded, search_plan
from torchreid_dfrst.retrieval.products import choose
from torchreid_dfrst.retrieval.tiles import Progress, Search, Sink, no_progress
from torchreid_dfrst.retrieval.transit import Fusion

logger = logging.getLogger(__name__)


def placed(device: str) -> torch.device:
    """Where products are made: ``"cpu"``, or a GPU if there is one."""
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def planned(
    rows: Stack,
    columns: Stack,
    count: int,
    precision: str,
    place: torch.device,
    memory_limit: int | None,
    fused: bool,
    flat: bool = False,
) -> tuple[str, SearchPlan]:
    """The precision of a search (``auto`` gives bfloat16 up where its copies do not fit) and its tiles.

    Raises:
        ValueError: the memory limit is too small to work in.
    """
    embeddings = len(rows) + (len(columns) if columns is not rows else 0)
    size = len(rows), len(columns), rows.shape[1], count, memory_limit
    if flat:
        return precision, search_plan(*size, 4 * columns.shape[1] * len(columns), fused)
    if choose(rows, columns, precision, place)[2]:
        try:
            return precision, search_plan(*size, rounded(embeddings, rows.shape[1], len(rows), count), fused)
        except ValueError:
            if precision != "auto":
                raise
        precision = "fp32"
    return precision, search_plan(*size, fused=fused)


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

    ``method="auto"`` takes FAISS where it finds a GPU and can do the whole job: float32, appearance alone, and nobody
    wants the tiles. Products elsewhere: on a processor they are faster, they make half of a symmetric matrix only, and
    for the fused distance FAISS leaves most rows uncertain.

    Raises:
        KeyError: an unknown precision, method or device.
        ValueError: the memory limit is too small to work in, there is no GPU though one is asked for, FAISS is asked
            for what it cannot do, or the transit gives NaN or infinity.
    """
    check_precision(precision)
    if method not in ("auto", "faiss", "product"):
        raise KeyError(f"no method {method!r}: 'auto', 'faiss' or 'product'")
    if device not in ("auto", "cpu", "cuda"):
        raise KeyError(f"no device {device!r}: 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU: take 'auto' or 'cpu'")
    place = placed(device)
    gpus = faiss_search.gpus(device)
    room = faiss_search.has_room(count, len(columns), gpus)
    if method == "faiss" and precision == "bf16":
        raise ValueError("FAISS searches in float32: take method 'product' for precision 'bf16'")
    if method == "faiss" and not room:
        raise ValueError(
            f"{count} neighbours: FAISS gives at most {faiss_search.MOST - faiss_search.SPARE} on a GPU, take method "
            "'product' or device 'cpu'"
        )
    able = room and fusion is None and sink is None and precision != "bf16"
    flat = method == "faiss" or (method == "auto" and gpus > 0 and able)
    precision, plan = planned(rows, columns, count, precision, place, memory_limit, fusion is not None, flat)
    job: Search
    if flat:
        job = faiss_search.FaissSearch(rows, columns, count, fusion=fusion, step=plan.step, gpus=gpus, spare=plan.spare)
    else:
        job = Search(
            rows,
            columns,
            count,
            fusion=fusion,
            precision=precision,
            step=plan.step,
            span=plan.span,
            spare=plan.spare,
            device=place,
            wanted=wanted,
            sink=sink,
        )
    job.run(progress)
    check_finite(np.isfinite(job.farthest) & np.isfinite(job.distance).all(axis=1))
    ties = np.concatenate(job.near_ties)
    logger.info(
        "%d neighbours of %d rows (%s): %d near-ties, %d rows measured whole for too many candidates",
        count,
        len(rows),
        job.name,
        len(ties),
        job.fallbacks,
    )
    return Neighbors(job.index, job.distance, job.farthest, ties, job.fallbacks, job.name)
