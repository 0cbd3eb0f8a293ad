"""Stopping politely: a signal is remembered, the step ends, the state is saved, and then the process leaves."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from torchreid_dfrst.training.distributed import several

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL: try again later)."""


MARKER = "stopped"
"""File that a stopped run leaves in its folder until it is resumed: torchrun passes no exit code on."""


class AskedToStop(Exception):
    """A stop was asked for in the middle of something that can be done again; never leaves a run."""


class StoppedError(RuntimeError):
    """Training was asked to stop; its state is saved and the message says where."""


class _Signal(KeyboardInterrupt):
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
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _Signal(signal.Signals(number).name)

    before = _take_over(leave)
    try:
        yield
    except _Signal as received:
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text("before or after training\n", encoding="utf-8")
        except OSError as error:
            logger.error("%s could not be written: %s", marker, error)
        raise StoppedError(
            f"{received} received before or after training, where nothing is to be saved: go on with the same command "
            "and train.resume auto"
        ) from None
    finally:
        _give_back(before)


class StopRequest:
    """Context in which SIGTERM and the first SIGINT (Ctrl-C) ask for a stop instead of ending the process.

    A second SIGINT raises ``KeyboardInterrupt`` as usual. Outside of the main thread signals cannot be caught, and
    nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        """Take over the signals."""
        self._before = _take_over(self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back; what was asked for has been done, or is too late."""
        self.requested = False
        _give_back(self._before)

    def agree(self, failed: bool = False) -> tuple[bool, bool]:
        """Compare notes with all processes, which wait for each other here.

        Args:
            failed: this process cannot take part in the next step.

        Returns:
            Has any process been asked to stop? Has any failed? The same answers in all processes.
        """
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


def _take_over(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}


def _give_back(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
