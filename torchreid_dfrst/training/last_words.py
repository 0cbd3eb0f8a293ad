"""Where an error ends one process alone, the others say which and why."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist

from torchreid_dfrst.training.distributed import OtherProcessError, several
from torchreid_dfrst.training.interrupt import StoppedError

logger = logging.getLogger(__name__)

# what gloo says begins with the place in its source: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] ...
GLOO = re.compile(r"\[(enforce fail at )?[^\]\s]*gloo/[^\]\s]*\.(cc|h):\d+\] ")


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Where an error in the body ends one process alone, the others say so, instead of that a connection was closed.

    Under ``torchrun``, whose store outlives its processes, they say which and why.

    Raises:
        OtherProcessError: the body waited for a process that is gone.
    """
    try:
        yield
    except (OtherProcessError, StoppedError):
        # all of them have been told, or leave alike
        raise
    except Exception as error:
        if not several():
            raise
        if not _lost_connection(error):
            _leave_word(f"process {dist.get_rank()}: {' '.join(str(error).split()) or repr(error)}")
            raise
        word = _word_left()
        if word is None and isinstance(error, dist.DistBackendError):
            raise  # NCCL's own words, which may be about this process
        raise OtherProcessError(
            word
            or "another process of the run has ended or cannot be reached: what it said last says why; one "
            "that said nothing was killed, often because memory ran out"
        ) from error


def _lost_connection(error: Exception) -> bool:
    """Did a process that this one exchanges numbers with go away? gloo says so in a ``RuntimeError``."""
    said_by_gloo = isinstance(error, RuntimeError) and GLOO.match(str(error)) is not None
    return said_by_gloo or isinstance(error, dist.DistBackendError)


def _board() -> dist.Store | None:
    """Where processes leave word for each other; None without torchrun, where it would go with process 0."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
    return dist.PrefixStore(f"torchreid_dfrst/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _leave_word(text: str) -> None:
    try:
        board = _board()
        if board is not None:
            board.set("failed", text)
    except RuntimeError as error:
        logger.warning("the other processes could not be told: %s", error)


def _word_left() -> str | None:
    try:
        board = _board()
        return board.get("failed").decode() if board is not None and board.check(["failed"]) else None
    except RuntimeError as error:
        logger.warning("what the other process said could not be read: %s", error)
        return None
