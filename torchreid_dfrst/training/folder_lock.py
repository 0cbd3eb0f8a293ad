"""One training per folder, on whichever machine: a lock where there are any, and a sign of life across machines."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from torchreid_dfrst import files
from torchreid_dfrst.processes import from_main

logger = logging.getLogger(__name__)

RUNNING = "running"
"""File that a run keeps in its folder while it goes on, and that says who runs."""
BEAT_S, DEAD_S, SETTLE_S = 15.0, 180.0, 1.0
"""Seconds between two signs of life; without one until a run on another machine is taken for dead; and until one
without locks sees whether another one has started."""
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
        from_main(lambda: stack.enter_context(_locked_folder(folder)))
        yield


@contextlib.contextmanager
def _locked_folder(folder: str | Path) -> Iterator[None]:
    place = Path(folder).resolve()
    if place in _mine:
        yield
        return
    path = place / RUNNING
    with contextlib.ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(files.locked(path, wait=False, keep=True))
            age = _seconds_since_touched(path)
        except BlockingIOError:
            raise OSError(f"{_who(path)}: wait for it, or choose another train.save_dir") from None
        except OSError as error:
            raise OSError(f"train.save_dir {folder} cannot be written ({error}): choose another one") from error
        me = f"process {os.getpid()} on {_name_of_machine()}\n"
        there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        # under a lock, what a process of this machine left is a dead one's
        lives = there and (handle is None or not there.endswith(f" on {_name_of_machine()}\n"))
        if lives and age < DEAD_S:
            raise OSError(
                f"{_who(path)}, which gave a sign of life {age:.0f} s ago: choose another train.save_dir, or, if it is "
                f"dead, try again in {DEAD_S - age:.0f} s"
            )
        path.write_text(me, encoding="utf-8")
        if handle is None:  # of several that start in the same moment the last to write goes on
            time.sleep(SETTLE_S)
            if path.read_text(encoding="utf-8", errors="replace") != me:
                raise OSError(f"{_who(path)}, which started in the same moment: choose another train.save_dir")
        ended = threading.Event()
        threading.Thread(target=_touch_regularly, args=(path, ended), daemon=True).start()
        _mine.add(place)
        try:
            yield
        finally:
            ended.set()
            _mine.discard(place)
            with contextlib.suppress(OSError):
                path.unlink()


def _touch_regularly(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        try:
            os.utime(path)
        except OSError as error:
            logger.warning("%s cannot be touched (%s): another machine may take this run for dead", path, error)


def _seconds_since_touched(path: Path) -> float:
    """By the clock of the file system, which machines that share it need not agree with."""
    now = path.with_name(f".{uuid.uuid4().hex}.now")
    try:
        now.write_bytes(b"")
        return now.stat().st_mtime - path.stat().st_mtime if path.exists() else 0.0
    finally:
        now.unlink(missing_ok=True)


def _who(path: Path) -> str:
    with contextlib.suppress(OSError):
        if said := path.read_text(encoding="utf-8", errors="replace").split("(")[0].strip():
            return f"{path.parent} is being trained into by {said}"
    return f"{path.parent} is being trained into by another process"


def _name_of_machine() -> str:
    """Name of this machine, and what tells it from another one of that name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    return f"{socket.gethostname()} ({boot})"
