"""Several processes as one: who am I, what did the others say, all end together."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

T = TypeVar("T")
GLOO = re.compile(r"\[(enforce fail at )?[^\]\s]*gloo/[^\]\s]*\.(cc|h):\d+\] ")
"""How gloo's errors begin: with the place in its source, [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534]."""


@dataclass(frozen=True)
class Group:
    """The processes of one run: ``rank`` is this one, from 0; ``local_rank`` on its machine, the GPU it uses."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is process 0, the only one that writes."""
        return self.rank == 0


def start(timeout_minutes: float = 30) -> Group:
    """Join the processes that ``torchrun`` started; alone without it.

    NCCL carries GPU tensors and gloo CPU tensors. Joining twice is joining once.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return current()


def stop() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def current() -> Group:
    """The group this process is in."""
    if not dist.is_initialized():
        return Group()
    return Group(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


def several() -> bool:
    """Whether there are other processes to exchange something with."""
    return dist.is_initialized() and dist.get_world_size() > 1


class OtherProcessError(OSError):
    """Another process of the run cannot go on; the message is its error's."""


def of_all(value: Any) -> list[Any]:
    """What each process gave, by rank; ``[value]`` without a group."""
    if not several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns in process 0, in all; a ValueError, KeyError or OSError that it raises is raised in all."""
    if not several():
        return make()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = make()
        except (ValueError, KeyError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def raise_together(error: Exception | None) -> None:
    """Raise in all processes, or in none: each calls it with what happened to it and waits for all of them.

    The others raise an OtherProcessError.
    """
    messages = of_all(None if error is None else str(error))
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise OtherProcessError(f"process {rank}: {message}")


def mean_over_group(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, the same in each."""
    if not several():
        return values
    dist.all_reduce(values)
    return values / dist.get_world_size()


class _Gather(torch.autograd.Function):
    """Rows of all processes, in rank order; backward adds up what all of them want of this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.share = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()  # autograd's own may not be written into
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.share
        return gradient[first : first + ctx.share]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """``(B, ...)`` of this process to ``(world_size * B, ...)`` of all, with gradients to this process's rows."""
    return _Gather.apply(rows) if several() else rows


@contextlib.contextmanager
def reaching(rank: int | None = None) -> Iterator[None]:
    """Exchange something with other processes (or one, its rank); an OtherProcessError names the one that is gone."""
    try:
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        which = "another process of the run" if rank is None else f"process {rank}"
        killed = "has ended without a message or cannot be reached: it was killed, often because memory ran out"
        raise OtherProcessError(message_left() or f"{which} {killed}") from error


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """An error of this process alone is left for the others, which raise it where they miss this process."""
    try:
        yield
    except OtherProcessError:
        raise
    except Exception as error:
        if several():
            leave_message(error)
        raise


def lost(error: Exception) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, dist.DistBackendError) or (
        isinstance(error, RuntimeError) and bool(GLOO.match(str(error)))
    )


def leave_message(error: Exception) -> None:
    """Leave the message of an error that ends this process alone, in the store through which all of them met."""
    text = f"process {dist.get_rank()}: {' '.join(str(error).split()) or repr(error)}"
    try:
        dist.distributed_c10d._get_default_store().set("failed", text)
    except (RuntimeError, ValueError) as error:
        logger.warning("the other processes could not be told: %s", error)


def message_left() -> str | None:
    """What ``leave_message`` left, in whichever process."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.get("failed").decode() if store.check(["failed"]) else None
    except (RuntimeError, ValueError) as error:
        logger.warning("the message of the other process could not be read: %s", error)
        return None


def shared(value: Any) -> Any:
    """What process 0 has, in all of them."""
    holder: list[Any] = [value]
    with reaching(0 if value is None else None):
        dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def say(value: Any, rank: int) -> None:
    """Send one object."""
    with reaching(rank):
        dist.send_object_list([value], rank, device=torch.device("cpu"))


def heard(rank: int) -> Any:
    """Receive one object."""
    holder = [None]
    with reaching(rank):
        dist.recv_object_list(holder, rank, device=torch.device("cpu"))
    return holder[0]
