"""Files that are whole or absent, also after a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path


def write(files: Mapping[Path, bytes]) -> None:
    """Write files side by side: each to a temporary one, synced and read back; then all of them are renamed.

    Args:
        files: path to content; the paths share a folder, which is made if needed.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier files of these names stay, nothing is left
            behind.
    """
    parts = {path.with_name(path.name + ".part"): content for path, content in files.items()}
    try:
        for part, content in parts.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if part.read_bytes() != content:
                raise OSError(f"{part} does not hold what was written to it")
        for path, part in zip(files, parts, strict=True):
            os.replace(part, path)
            sync_folder(path.parent)
    except OSError:
        for part in parts:
            part.unlink(missing_ok=True)
        raise


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
