"""Products in the precision of their tensors, whatever the user has allowed torch for everything else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

FULL = ("ieee", "none")

_lock = threading.Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 and no bfloat16 in place of float32, no sums in bfloat16 of bfloat16 products, and no autocast.

    But for autocast, torch keeps these choices for the whole process. The first thread that comes in changes them, the
    last one that leaves puts them back.
    """
    global _inside
    with _lock:
        if not _inside:
            _undo.extend(_set())
        _inside += 1
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            while not _inside and _undo:
                _undo.pop()()


def _set() -> Iterator[Callable[[], None]]:
    cuda, mkldnn = torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn)
    for place in (cuda, mkldnn.matmul):
        if place.fp32_precision not in FULL:
            yield _change(place, "fp32_precision", place.fp32_precision, "ieee")
    name = "allow_bf16_reduced_precision_reduction"
    if getattr(cuda, name):
        split = getattr(cuda, f"{name}_split_k", None)
        yield _change(cuda, name, True if split is None else (True, split), False)


def _change(place: object, name: str, old: object, new: object) -> Callable[[], None]:
    setattr(place, name, new)
    return lambda: setattr(place, name, old)
