"""Ending together: on a signal once the step is done and saved, and on an error of one process with its message."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
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


class _StopSignal(KeyboardInterrupt):
    """No ``Exception``: nobody who handles errors may take it for one."""


@contextlib.contextmanager
def stopping_at_once(marker: Path) -> Iterator[None]:
    """Where nothing is to be saved, before the first step and after the last, SIGTERM and SIGINT end the run at once.

    For a process that is alone: ``torchrun`` sends SIGTERM to all when one of them fails, too.

    Args:
        marker: the file to leave, see ``MARKER``.

    Raises:
        StoppedError: a signal came.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _StopSignal(signal.Signals(number).name)

    with _handled_by(leave):
        try:
            yield
        except _StopSignal as received:
            try:
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.write_text("before or after training\n", encoding="utf-8")
            except OSError as error:
                logger.error("%s could not be written: %s", marker, error)
            raise StoppedError(
                f"{received} received before or after training, where nothing is to be saved: go on with the same "
                "command and train.resume auto"
            ) from None


class StopRequest:
    """Remembers a signal that asks for a stop."""

    requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Meanwhile SIGTERM and the first SIGINT (Ctrl-C) ask for a stop; a second SIGINT interrupts as usual."""
        with _handled_by(self._remember):
            try:
                yield
            finally:
                self.requested = False

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
        logger.warning("%s received: finishing this step, then saving", signal.Signals(number).name)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals go to ``handler`` in the main thread; outside of it they cannot be caught, and nothing changes."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in SIGNALS if main}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Where an error in the body ends one process alone, the others raise that error's message.

    They find it in the store through which the processes met; where process 0 keeps it (without ``torchrun``) and is
    the one that failed, it is gone.

    Raises:
        OtherProcessError: the body waited for a process that is gone.
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
