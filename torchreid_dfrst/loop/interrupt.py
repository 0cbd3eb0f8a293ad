"""Stopping politely: a signal is remembered, the step ends, the state is saved, and then the process leaves."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL: try again later)."""


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
        self._pending: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> StopRequest:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """Start to compare notes with the other processes; the exchange runs beside the step."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            flag = torch.tensor(float(self.requested))
            self._pending = (dist.all_reduce(flag, async_op=True), flag)

    def agreed(self) -> bool:
        """Has any process been asked to stop? The same answer in all processes at the same step."""
        if self._pending is None:
            return self.requested
        (work, flag), self._pending = self._pending, None
        work.wait()
        return bool(flag.item())

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("%s received: finishing this step, then saving", signal.Signals(number).name)
