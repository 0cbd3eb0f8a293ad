"""One training per folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from torchreid_dfrst import files
from torchreid_dfrst.processes import from_main

logger = logging.getLogger(__name__)

RUNNING = "running"
"""File that a run locks in its folder while it goes on, and that says who runs."""
_mine: set[Path] = set()


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Let no other run train into a folder meanwhile; called by all processes of a run, which may ask again.

    A process that died holds nothing. Other machines are kept out where the file system's locks reach them.

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
    path = folder / RUNNING
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(files.locked(path, wait=False)) is not None:
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            else:
                logger.warning("%s lies where files cannot be locked: see that no other run trains into it", folder)
        except BlockingIOError:
            who = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise OSError(
                f"{folder} is being trained into by {who}: wait for it, or choose another train.save_dir"
            ) from None
        except OSError as error:
            raise OSError(f"train.save_dir {folder} cannot be written ({error}): choose another one") from error
        _mine.add(folder)
        try:
            yield
        finally:
            _mine.discard(folder)
