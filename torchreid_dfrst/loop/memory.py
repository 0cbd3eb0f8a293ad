"""Memory of a run: kept between steps on a CPU, and where it runs out, one sentence that says what to lower."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed() -> bool:
    """Let this process keep the memory it frees, for the next step, instead of giving it back to the system.

    By default every large tensor of a step is mapped anew, and the system clears each of its pages again: with
    ``dfrst`` at 256 x 256, batch 16, 5 to 9 GB a step (``docs/scaling.md``). The process then stays as large as it
    ever was.

    Returns:
        Whether it was done; other C libraries than glibc have no such setting and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn every way in which PyTorch and NumPy say that memory ran out into one.

    Raises:
        OSError: memory ran out in the body.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = [line for line in str(error).splitlines() if "allocate" in line]
        if type(error) is not MemoryError and not isinstance(error, torch.OutOfMemoryError):
            # PyTorch's allocator for the CPU, also when quoted by a loading process
            said = [line for line in said if "can't allocate memory" in line]
            if not said:
                raise
        raise OSError(
            f"memory ran out ({said[-1].strip() if said else error!r}): lower data.batch_size_train (or "
            "batch_size_test), the image size, or data.workers, or use train.precision bf16"
        ) from error
