"""Running out of memory ends in one sentence that says what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
