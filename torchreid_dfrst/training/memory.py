"""Memory of a run: kept between steps on a CPU, and where it runs out, one sentence that says what to lower."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator

import torch

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
TRAINING = (
    "lower data.batch_size_train (or batch_size_test), the image size, or data.workers, or use train.precision bf16"
)
EXTRACTION = "lower --batch-size or --workers, or use --precision bf16"
"""What helps where memory runs out."""


def keep_freed() -> bool:
    """Let this process keep the memory it frees, for the next step, instead of giving it back to the system.

    By default every large tensor of a step is mapped anew, and the system clears each of its pages again: with
    ``dfrst`` at 256 x 256, batch 16, 5 to 9 GB a step (``docs/scaling.md``).

    Returns:
        Whether it was done; other C libraries than glibc have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def explained(advice: str = TRAINING) -> Iterator[None]:
    """Turn every way in which PyTorch, NumPy and Python say that memory ran out into one, with advice.

    Raises:
        OSError: memory ran out in the body.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = _line_of_memory_error(error)
        if said is None:
            raise
        raise OSError(f"memory ran out ({said}): {advice}") from error


def _line_of_memory_error(error: Exception) -> str | None:
    """The line that says that memory ran out, the last one of a loading process's report; None: it did not."""
    lines = [line.strip() for line in str(error).splitlines()] or [repr(error)]
    # what a loading process reports may come as another type than it quotes, NumPy's as a RuntimeError
    quoted = re.match(r"Caught \w*MemoryError ", lines[0])
    if not (quoted or isinstance(error, (MemoryError, torch.OutOfMemoryError))):
        # PyTorch's allocator for the CPU, and CUDA itself where another job holds the GPU
        lines = [line for line in lines if "can't allocate memory" in line or "CUDA error: out of memory" in line]
    return next(filter(None, reversed(lines)), None)
