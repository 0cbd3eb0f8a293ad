"""Ending together: on a signal once the step is done and saved, and on an error of one process with its message."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from torchreid_dfrst.processes import OtherProcessError, leave_message, lost, message_left, several

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL: try again later)."""
MARKER = "stopped"
"""File that a stopped run leaves in its folder until it is resumed: torchrun passes no exit code on."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class AskedToStop(Exception):
    """A stop was asked for in the middle of something that can be done again; never leaves a run."""


class StoppedError(RuntimeError):
    """Training was asked to stop; its state is saved and the message says where."""


class StopRequest:
    """Remembers a signal that asks for a stop."""

    requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Meanwhile SIGTERM and the first SIGINT (Ctrl-C) ask for a stop; a second SIGINT interrupts as usual.

        Outside of the main thread signals cannot be caught, and nothing changes.
        """
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._remember) for number in SIGNALS if main}
        try:
            yield
        finally:
            self.requested = False
            for number, earlier in before.items():
                signal.signal(number, earlier)

    def agree(self, failed: bool = False) -> tuple[bool, bool]:
        """Has any process been asked to stop? Has any ``failed``? Asked and answered in all processes together."""
        if not several():
            return self.requested, failed
        flags = torch.tensor([float(self.requested), float(failed)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        asked, any_failed = (flags > 0).tolist()
        return asked, any_failed

    def check(self) -> None:
        """Raise ``AskedToStop`` if this process has been asked to."""
        if self.requested:
            raise AskedToStop

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("%s received: finishing what is under way, then saving", signal.Signals(number).name)


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Where an error in the body ends one process alone, the others raise its message as an ``OtherProcessError``.

    They find it in the store of the processes, which without ``torchrun`` is gone where process 0 failed.
    """
    try:
        yield
    except (OtherProcessError, StoppedError):
        # all of them know, or leave alike
        raise
    except Exception as error:
        if not several():
            raise
        if not lost(error):
            leave_message(error)
            raise
        message = message_left()
        if message is None and isinstance(error, dist.DistBackendError):
            raise  # NCCL's own words, which may be about this process
        raise OtherProcessError(
            message
            or "another process of the run has ended or cannot be reached; its last message says why. Without one it "
            "was killed, often because memory ran out"
        ) from error
