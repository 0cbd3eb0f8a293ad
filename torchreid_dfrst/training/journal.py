"""What a run shows while it goes: metrics.jsonl and TensorBoard, rewound when a run resumes, and the progress line."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from torchreid_dfrst import files
from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.messages import duration
from torchreid_dfrst.processes import mean_over_group
from torchreid_dfrst.training.step import StepResult

logger = logging.getLogger(__name__)

NAME = "metrics.jsonl"


class Journal:
    """Scalars and pictures of one run, by optimiser step; a full disk is logged and does not end training.

    Args:
        folder: of ``metrics.jsonl`` and the TensorBoard files; None writes nothing, in all processes but one.
        step: from which the run goes on; later lines of an earlier attempt are taken out.
        repeats: the run begins with the evaluation of this very step, whose earlier lines are taken out.
    """

    def __init__(self, folder: str | Path | None, step: int = 0, repeats: bool = False) -> None:
        self.writer: SummaryWriter | None = None
        self._file = None
        if folder is None:
            return
        path = Path(folder) / NAME
        if path.is_file():
            _rewind_lines(path, step, repeats)
        self._file = open(path, "a", encoding="utf-8")
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=step + (not repeats))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``, with null for what is not finite, and its numbers to TensorBoard."""
        if self._file is None:
            return
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = {"kind": kind, "step": step, **finite, "time": round(time.time(), 3)}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            # what could not be written waits in the file object for the next line
            logger.error("%s cannot be written (%s): training goes on", self._file.name, error)
        for name, value in values.items():
            if isinstance(value, (int, float)) and self.writer is not None:
                with self._without_tensorboard_if_it_fails():
                    self.writer.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, path: Path) -> None:
        """Show a picture file in TensorBoard."""
        if self.writer is not None:
            with self._without_tensorboard_if_it_fails():
                self.writer.add_image(name, np.asarray(read_image(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                logger.error("the last lines of %s could not be written (%s)", self._file.name, error)
        if self.writer is not None:
            with self._without_tensorboard_if_it_fails():
                self.writer.close()

    @contextlib.contextmanager
    def _without_tensorboard_if_it_fails(self) -> Iterator[None]:
        """Once its thread has failed to write, every further call would fail: do without it."""
        try:
            yield
        except OSError as error:
            self.writer = None
            logger.error("TensorBoard's file cannot be written (%s): the rest is in %s alone", error, NAME)


def _rewind_lines(path: Path, step: int, repeats: bool) -> None:
    """Keep the lines that the resumed state has already behind it; a torn last line goes."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            behind = entry["step"] < step or (entry["step"] == step and (entry["kind"] == "train" or not repeats))
        except (ValueError, TypeError, KeyError):  # torn, or none of ours
            continue
        if behind:
            kept.append(line)
    files.write({path: "".join(line + "\n" for line in kept).encode()})


class ProgressLine:
    """Loss, rate and time left of one epoch, from ``done`` steps on, as a bar (``tqdm.tqdm``) or lines in the log."""

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
        """Read the numbers of the last steps from the device, all at once, and pass their means over processes on.

        ``step`` and ``images_left`` are of the whole run.
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
