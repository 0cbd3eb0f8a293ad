"""Stopping politely: a signal is remembered, the step ends, the state is saved, and then the process leaves."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from torchreid_dfrst.loop.distributed import several

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL: try again later)."""


MARKER = "stopped"
"""File that a stopped run leaves in its folder until it is resumed: torchrun passes no exit code on."""


class AskedToStop(Exception):
    """A stop was asked for in the middle of something that can be done again; never leaves a run."""


class StoppedError(RuntimeError):
    """Training was asked to stop; its state is saved and the message says where."""


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
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back; what was asked for has been done, or is too late."""
        self.requested = False
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
