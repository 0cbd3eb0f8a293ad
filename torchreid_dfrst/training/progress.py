"""The line a person watches while an epoch trains, and the numbers behind it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from torchreid_dfrst.training.distributed import mean_over_group
from torchreid_dfrst.training.journal import Journal
from torchreid_dfrst.training.step import StepResult

logger = logging.getLogger(__name__)


class Progress:
    """Loss, rate and time left of one epoch: a bar, or lines in the log without one.

    Args:
        journal: where the numbers go as well.
        label: the epoch, such as ``epoch 3/135``.
        total: steps of the epoch.
        done: of them taken before.
        bar: such as ``tqdm.tqdm``; None logs lines.
        active: show anything; False in all processes but the first.
    """

    def __init__(
        self, journal: Journal, label: str, total: int, done: int, bar: Callable[..., Any] | None, active: bool
    ) -> None:
        self.journal, self.label, self.active = journal, label, active
        self.bar = bar(total=total, initial=done, desc=label, unit="step", leave=False) if bar and active else None
        self.began, self.images = time.perf_counter(), 0

    def step(self, images: int) -> None:
        """One step of so many images is done."""
        self.images += images
        if self.bar is not None:
            self.bar.update()

    def note(self, results: list[StepResult], step: int, rate: float, epoch: int, images_left: int) -> None:
        """Read the numbers of the last steps from the device, all at once, and pass their means on.

        Called in all processes: the means are over the rows of all of them.

        Args:
            results: of the steps since the last note, or since the run was resumed; the journal says how many.
            step: optimiser steps taken so far in the run.
            rate: learning rate of the last step.
            epoch: number of the epoch, from 1.
            images_left: of the whole run, for the time left.
        """
        images_per_s = self.images / (time.perf_counter() - self.began)
        means = mean_over_group(torch.stack([torch.stack(result) for result in results]).mean(0)).tolist()
        values = dict(zip(StepResult._fields, means, strict=True))
        pace = {"lr": rate, "images_per_s": round(images_per_s, 2), "epoch": epoch, "steps": len(results)}
        self.journal.write("train", step, {**values, **pace})
        line = f"loss {values['loss']:.3f} acc {values['accuracy']:.0%} {images_per_s:.0f} images/s"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{line}, {duration(images_left / images_per_s)} left in all")
        elif self.active:
            logger.info("%s, step %d of the run: %s", self.label, step, line)
        self.began, self.images = time.perf_counter(), 0

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """``2 h 05 min`` or ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
