"""The folder of a run's checkpoints: which are written, which stay, which one to go on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchreid_dfrst.training import checkpoint
from torchreid_dfrst.training.snapshot import RESULT

logger = logging.getLogger(__name__)


class Keeper:
    """Writes checkpoints and deletes those no longer wanted; the last two always stay.

    A run that goes on from an earlier checkpoint than the newest replaces what came after it: with its first own one
    those are deleted.

    Args:
        folder: where they go, made if needed.
        rank: this process; all of them read, only rank 0 writes.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.active = folder, rank == 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable-{rank}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OSError(f"train.save_dir {folder.parent} cannot be written ({error}): choose another one") from error

    def save(self, step: int, state: Mapping[str, Any], keep_each: int = 0, final: bool = False) -> Path | None:
        """Write the checkpoint after ``step`` optimiser steps.

        A disk that is full is said aloud and does not end training, unless nothing could be saved at the end.

        Args:
            step: optimiser steps taken.
            state: see ``checkpoint.save``.
            keep_each: checkpoints whose step is a multiple of this stay for good; 0 for none.
            final: training ends with this one.

        Returns:
            The file, or None where nothing was written.

        Raises:
            OSError: a ``final`` one could not be written.
            UnreadableError: see ``checkpoint.save``.
        """
        if not self.active:
            return None
        path = checkpoint.step_path(self.folder, step)
        try:
            checkpoint.save(path, state)
        except OSError as error:
            # that may be an earlier one of this very step
            before = bool(checkpoint.all_steps(self.folder))
            stays = "the checkpoint before it stays" if before else "there is no checkpoint before it"
            if final:
                raise OSError(f"{error}; {stays}") from error
            logger.error("%s; %s, training goes on and tries again at the next one", error, stays)
            return None
        checkpoint.discard_after(self.folder, step)
        checkpoint.prune(self.folder, set(range(0, step + 1, keep_each)) if keep_each else set())
        return path

    def newest(self) -> Path | None:
        """The newest whole checkpoint, see ``checkpoint.newest``."""
        return checkpoint.newest(self.folder)

    def find(self, resume: str | None) -> Path | None:
        """The checkpoint to go on from, or None to start anew.

        Args:
            resume: a file, ``auto`` for the newest whole one of the folder, or None.

        Raises:
            ValueError: ``resume`` is None or a file elsewhere and an earlier run's checkpoints are in the way, or
                ``auto`` and none of those there are is whole.
            OSError: one could not be read.
        """
        if resume == "auto":
            found = self.newest()
            if found is None and checkpoint.all_steps(self.folder):
                raise ValueError(
                    f"{self.folder} holds checkpoints and none that is whole: to start from the beginning delete them, "
                    "or choose another train.save_dir"
                )
            if found is None:
                logger.info("%s holds no checkpoint: starting from the beginning", self.folder)
            return found
        elsewhere = resume and Path(resume).resolve().parent != self.folder.resolve()
        if elsewhere and (checkpoint.all_steps(self.folder) or (self.folder.parent / RESULT).is_file()):
            raise ValueError(
                f"{resume} does not lie in {self.folder}, and {self.folder.parent} holds an earlier run: go on with "
                "that one (train.resume auto), or choose another train.save_dir"
            )
        if resume:
            return Path(resume)
        if checkpoint.all_steps(self.folder):
            raise ValueError(
                f"{self.folder} holds the checkpoints of an earlier run: go on with it (train.resume auto), or "
                "choose another train.save_dir"
            )
        return None
