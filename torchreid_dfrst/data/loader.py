"""Image files to batches: seeded one by one, an unreadable file named or replaced, a dead process named."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data._utils import signal_handling

from torchreid_dfrst.data.images import BadImageError, Images

SKIP = "or leave such images out: data.on_bad_image skip in training, --on-bad-image skip in extraction"
"""What else a user can do about an image that cannot be read."""


class Loader(DataLoader):
    """A ``DataLoader`` of ``Images`` that raises what went wrong, in one line, in the main process.

    Args:
        images: what to load.
        skip: leave unreadable images out of a batch (their paths are added to ``skipped``) instead of raising.
        advice: what a user can do instead of mending an unreadable image.
        **options: ``DataLoader``'s own.

    Raises:
        BadImageError: while iterating, an image cannot be read and ``skip`` is not set.
        ChildProcessError: while iterating, a worker process died. PyTorch's handler of SIGCHLD, which would raise this
            anywhere in the main process, in the middle of a step or of a save, is taken out; one of your own stays.
    """

    def __init__(self, images: Images, skip: bool = False, advice: str = SKIP, **options: Any) -> None:
        # with a generator of its own, a pass over the data leaves the global one as it was
        super().__init__(
            images,
            collate_fn=_collate_readable,
            generator=torch.Generator(),
            worker_init_fn=_ignore_interrupts,
            **options,
        )
        self.images, self.skip, self.advice = images, skip, advice
        self.skipped: set[str] = set()
        self.clipped: set[str] = set()

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches as torchreid's loaders give them."""
        batches: Iterator[Any] | None = None
        while True:
            try:
                if batches is None:
                    before = signal.getsignal(signal.SIGCHLD)
                    batches = super().__iter__()
                    if self.num_workers and threading.current_thread() is threading.main_thread():
                        # next() finds the dead by itself
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_pytorchs(before) else before)
                batch, errors = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not (self.num_workers and _is_of_a_dead_worker(error)):
                    raise
                raise ChildProcessError(
                    f"a data loading process died ({error}): often memory ran out; lower data.workers "
                    "(0 loads in the main process) or the batch size"
                ) from error
            for bad in errors:
                if self.images.substitute:
                    raise bad
                if not self.skip:
                    raise BadImageError(bad.path, f"{bad.args[1]}; repair it, {self.advice}")
                self.skipped.add(bad.path)
            if batch is not None:
                self.skipped.update(path for path in batch["bad"] if path)
                self.clipped.update(path for path in batch["clipped"] if path)
                yield batch


def _is_pytorchs(handler: Any) -> bool:
    """Is it PyTorch's handler of SIGCHLD, from an earlier loader, or none of Python's?"""
    return handler is None or getattr(handler, "__module__", None) == signal_handling.__name__


def _is_of_a_dead_worker(error: Exception) -> bool:
    """Does the error say that a loading process is gone, unlike one raised inside of it or beside it?"""
    if isinstance(error, RuntimeError):
        # the words of PyTorch, and of its pinning thread, which ends with its source
        return str(error).startswith(("DataLoader worker", "Pin memory thread exited"))
    # a broken connection; what a loading process reports itself is of the same type, and quotes its traceback
    return not str(error).startswith("Caught ")


def _collate_readable(items: list[Any]) -> tuple[dict[str, Any] | None, list[BadImageError]]:
    good = [item for item in items if isinstance(item, dict)]
    return default_collate(good) if good else None, [item for item in items if isinstance(item, BadImageError)]


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the loading processes too; the main process decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
