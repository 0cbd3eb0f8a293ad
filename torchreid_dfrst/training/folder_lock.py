"""One training per folder, on whichever machine: a lock where there are any, and a sign of life across machines."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from torchreid_dfrst import files
from torchreid_dfrst.processes import from_main

logger = logging.getLogger(__name__)

RUNNING = "running"
"""File that a run keeps in its folder while it goes on, and that says who runs."""
BEAT_S, DEAD_S = 15.0, 180.0
"""Seconds between two signs of life, and without one until a run on another machine is taken for dead."""
_mine: set[Path] = set()


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Let no other run train into a folder meanwhile; called by all processes of a run, which may ask again.

    A process of the same machine that died holds nothing. One of another machine is taken for dead once its file has
    not been touched for ``DEAD_S``, by the clock of the file system.

    Raises:
        OSError: another run trains there, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        from_main(lambda: stack.enter_context(_locked_folder(Path(folder).resolve())))
        yield


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    if folder in _mine:
        yield
        return
    path, machine = folder / RUNNING, socket.gethostname()
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(files.locked(path, wait=False, keep=True))
            there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            with tempfile.TemporaryFile(dir=folder) as now:  # by the clock of the file system
                age = os.fstat(now.fileno()).st_mtime - path.stat().st_mtime if there else DEAD_S
        except BlockingIOError:
            raise OSError(f"{_who(path)}: wait for it, or choose another train.save_dir") from None
        except OSError as error:
            raise OSError(f"train.save_dir {folder} cannot be written ({error}): choose another one") from error
        # under a lock, what a process of this machine left is a dead one's
        if age < DEAD_S and (handle is None or not there.endswith(f" on {machine}\n")):
            raise OSError(
                f"{_who(path)}, which gave a sign of life {age:.0f} s ago: choose another train.save_dir, or, if it is "
                f"dead, try again in {DEAD_S - age:.0f} s"
            )
        path.write_text(f"process {os.getpid()} on {machine}\n", encoding="utf-8")
        ended = threading.Event()
        threading.Thread(target=_touch_regularly, args=(path, ended), daemon=True).start()
        _mine.add(folder)
        try:
            yield
        finally:
            ended.set()
            _mine.discard(folder)
            with contextlib.suppress(OSError):
                path.unlink()


def _touch_regularly(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        try:
            os.utime(path)
        except OSError as error:
            logger.warning("%s cannot be touched (%s): another machine may take this run for dead", path, error)


def _who(path: Path) -> str:
    with contextlib.suppress(OSError):
        if said := path.read_text(encoding="utf-8", errors="replace").strip():
            return f"{path.parent} is being trained into by {said}"
    return f"{path.parent} is being trained into by another process"
