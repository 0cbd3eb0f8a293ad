"""Files that are whole or absent, also after a power cut, and what reading a damaged one raises."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

Content = bytes | Callable[[IO[bytes]], object]
"""The bytes of a file, or what writes them into it."""

DAMAGED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, RuntimeError, OverflowError, MemoryError,
    OSError, EOFError, struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What NumPy, PyTorch and zipfile raise on damaged files, found by changing one byte at a time."""


def write(files: Mapping[Path, Content], check: Callable[[Path], object] | None = None, size: int = 0) -> None:
    """Write files side by side: each to a temporary one, synced and checked; then all of them are renamed.

    Args:
        files: path to content; the paths share a folder, which is made if needed.
        check: called with each temporary file, raises if it will not do; bytes are read back and compared anyway.
        size: bytes that are going to be written, as far as they are not in ``files``.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message names the file. Whatever is raised,
            also by ``check`` or what writes, earlier files of these names stay and nothing is left behind.
    """
    parts = {path: path.with_name(path.name + ".part") for path in files}
    path = next(iter(files))
    try:
        for path, content in files.items():
            _write_part(parts[path], content)
            if check is not None:
                check(parts[path])
        for path, part in parts.items():
            os.replace(part, path)
            sync_folder(path.parent)
    except BaseException as error:
        for part in parts.values():
            # where there is no folder there is nothing to take away, and the first error is the one to tell
            with contextlib.suppress(OSError):
                part.unlink()
        if isinstance(error, OSError):
            size += sum(len(content) for content in files.values() if isinstance(content, bytes))
            raise OSError(f"cannot save {path}: {_words(error, path.parent, size)}") from error
        raise


def _write_part(part: Path, content: Content) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
    if isinstance(content, bytes) and part.read_bytes() != content:
        raise OSError(f"{part} does not hold what was written to it")


def _words(error: OSError, folder: Path, size: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    room = [f"{size / 1e6:,.1f} MB are needed"] if size else []
    # what the file system has free is not what a quota leaves
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):  # the folder may be what there was no room for
            room.append(f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free")
    said = f"{error.strerror}: {' and '.join(room)}" if room else error.strerror
    return f"{said}. Make room there, or choose another folder"


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows, and some network file systems, know no such call and need none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def not_the_file(error: BaseException, path: str | Path) -> None:
    """Tell an error of the machine from a damaged file; returns where it may be the file.

    Raises:
        OSError: reading failed (no such file any more, no access, a failing disk or network), or memory ran out over
            no more than the file holds.
    """
    # a damaged directory in a file makes zipfile seek to places that are none
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error
    if not (isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
        return
    wanted = re.search(r"tried to allocate (\d+) bytes", str(error))
    if wanted and int(wanted[1]) > os.path.getsize(path):
        return
    # Python does not say how much was wanted
    raise OSError(
        f"memory ran out while {path} was read: free some, and try again; where there is plenty, the file asks for "
        "more than it holds, and is damaged"
    ) from error
