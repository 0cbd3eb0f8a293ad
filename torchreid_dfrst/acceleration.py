"""One line that gives torchreid's own engines our re-ranking and evaluation."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torchreid

from torchreid_dfrst.names import is_unknown
from torchreid_dfrst.retrieval import evaluate, rerank_distances
from torchreid_dfrst.sightings import UNKNOWN


def accelerate() -> Callable[[], None]:
    """Replace ``torchreid.utils.re_ranking`` and ``torchreid.metrics.evaluate_rank`` wherever torchreid holds them.

    Arguments and results stay those of torchreid (the CUHK03 protocol still runs torchreid's own code); what it raises
    on bad input is a ``ValueError`` that says why. That includes k1 of as many images as there are or more, and
    k2 > k1, with which torchreid's re-ranking goes on. An identity of -1 (or a word for "not known") is nobody's and
    matches no other, where torchreid matches it with itself. Calling it again changes nothing.

    Returns:
        A function that puts torchreid's own back.
    """
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "torchreid"]
    places: list[tuple[ModuleType, str, Any]] = []
    for original, ours in (
        (torchreid.utils.re_ranking, re_ranking),
        (torchreid.metrics.evaluate_rank, _evaluate_rank(torchreid.metrics.evaluate_rank)),
    ):
        if original is re_ranking or hasattr(original, "accelerated"):
            continue
        for module in modules:
            for name in [name for name, value in getattr(module, "__dict__", {}).items() if value is original]:
                places.append((module, name, original))
                setattr(module, name, ours)

    def undo() -> None:
        while places:
            setattr(*places.pop())

    return undo


@contextmanager
def accelerated() -> Iterator[None]:
    """``accelerate`` for the length of a ``with`` block."""
    undo = accelerate()
    try:
        yield
    finally:
        undo()


def re_ranking(
    q_g_dist: np.ndarray,
    q_q_dist: np.ndarray,
    g_g_dist: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """``torchreid.utils.re_ranking`` on sparse neighbours; see ``retrieval.rerank_distances``."""
    return rerank_distances(q_g_dist, q_q_dist, g_g_dist, k1, k2, lambda_value)


def _evaluate_rank(original: Callable[..., Any]) -> Callable[..., Any]:
    """``evaluate_rank`` with ``original`` for the one protocol that is not ours."""

    @functools.wraps(original)
    def evaluate_rank(
        distmat: np.ndarray,
        q_pids: np.ndarray,
        g_pids: np.ndarray,
        q_camids: np.ndarray,
        g_camids: np.ndarray,
        max_rank: int = 50,
        use_metric_cuhk03: bool = False,
        use_cython: bool = True,
    ) -> tuple[np.ndarray, np.floating[Any]]:
        if use_metric_cuhk03:
            return original(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03, use_cython)
        columns = *_labels_as_integers(q_pids, g_pids, UNKNOWN), *_labels_as_integers(q_camids, g_camids)
        found = evaluate(np.asarray(distmat), *columns, max_rank=max_rank)
        return found.cmc.astype(np.float32), np.float64(found.mAP)

    evaluate_rank.accelerated = True  # type: ignore[attr-defined]
    return evaluate_rank


def _labels_as_integers(
    query: np.ndarray, gallery: np.ndarray, unknown: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of queries and gallery as integers; others than integers (text, say) become their place in order.

    Words for "not known" become ``unknown``, if one is given.
    """
    parts = np.asarray(query), np.asarray(gallery)
    if all(np.issubdtype(part.dtype, np.integer) for part in parts):
        return parts
    names, code = np.unique(np.concatenate(parts), return_inverse=True)
    code = code.reshape(-1)
    if unknown is not None:
        code = np.where(np.array([is_unknown(str(name)) for name in names.tolist()], dtype=bool)[code], unknown, code)
    return code[: len(parts[0])], code[len(parts[0]) :]
