"""Files that are whole or absent, also after a power cut; reading that ends in time; CSV, JSON and Parquet."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import struct
import time
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Content = bytes | Callable[[IO[bytes]], object]
"""The bytes of a file, or what writes them into it."""

DAMAGED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, RuntimeError, OverflowError, MemoryError,
    OSError, EOFError, struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What NumPy, PyTorch and zipfile raise on damaged files, found by changing one byte at a time."""
ROOM, FOLD = 256 << 20, 50
"""Arrays of one file may fill ``ROOM`` bytes, or ``FOLD`` times the file's own."""
LEFT_OVER_S = 24 * 3600
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_held: set[int] = set()  # descriptors of ``locked``


def write(files: Mapping[Path, Content], check: Callable[[Path], object] | None = None, size: int = 0) -> None:
    """Write files into one folder, which is made if needed: whole and all of them, or none, also in a power cut.

    Of several processes that save the same files at once, one comes last, with all of its files.

    Args:
        files: path to content.
        check: called with each temporary file, raises if it will not do; bytes are read back and compared anyway.
        size: bytes that are going to be written, as far as they are not in ``files``.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier files of these names stay.
    """
    token = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    parts = {path: path.with_name(f"{path.name}.{token}.part") for path in files}
    path = next(iter(files))
    try:
        for path, content in files.items():
            _write_part(parts[path], content)
            if check is not None:
                check(parts[path])
        alone = len(files) == 1
        with contextlib.nullcontext() if alone else locked(path.with_name(f".{path.name}.lock")):
            for path, part in parts.items():
                os.replace(part, path)
                sync_folder(path.parent)
        for path in files:
            _remove_left_overs(path)
    except BaseException as error:
        for part in parts.values():
            # where there is no folder there is nothing to take away, and the first error is the one to tell
            with contextlib.suppress(OSError):
                part.unlink()
        if isinstance(error, OSError):
            size += sum(len(content) for content in files.values() if isinstance(content, bytes))
            raise OSError(f"cannot save {path}: {_disk_error_in_words(error, path.parent, size)}") from error
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


def _remove_left_overs(path: Path) -> None:
    """Take away what processes that were killed while they wrote ``path`` left, if it is a day old."""
    with contextlib.suppress(OSError):  # another process may be faster
        for other in path.parent.iterdir():
            if other.name.startswith(f"{path.name}.") and other.suffix == ".part":
                if time.time() - other.stat().st_mtime > LEFT_OVER_S:
                    other.unlink()


@contextlib.contextmanager
def locked(path: Path, wait: bool = True, keep: bool = False) -> Iterator[int | None]:
    """Hold a lock on a file, which is made for it and taken away afterwards unless ``keep``; a dead process holds none.

    Yields:
        A descriptor of the file, open for reading and writing; None where the file system or Windows has no locks.

    Raises:
        BlockingIOError: another process or thread holds it, and this one is not to ``wait``.
        OSError: the file cannot be made.
    """
    handle = _lock_file(path, wait)
    try:
        yield handle
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                if not keep:
                    os.unlink(path)
            _held.discard(handle)
            os.close(handle)


def _lock_file(path: Path, wait: bool) -> int | None:
    while fcntl is not None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # whoever held it before may have removed this very file
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                _held.add(handle)
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if error.errno in NO_LOCKS:
                return None
            raise
        os.close(handle)
    return None


def _release_locks_in_child() -> None:
    """A child that was forked, such as a loading process, keeps no lock of its parent's."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_locks_in_child)


def _disk_error_in_words(error: OSError, folder: Path, size: int) -> str:
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


def require_file(path: str | Path, missing: str) -> None:
    """Refuse what no reader should open: a folder, or what never ends, such as a pipe.

    Raises:
        FileNotFoundError: nothing is there; with the words ``missing``.
        ValueError: it is no regular file.
    """
    kind = what_is(path)
    if kind is None:
        raise FileNotFoundError(missing)
    if kind:
        raise ValueError(f"{path} is {kind}, where a file is expected")


def require_writable(path: str | Path) -> None:
    """Refuse, before hours of work, a file that could not be written after them; nothing is left behind.

    Raises:
        OSError: the folder, or the nearest above it that is there, cannot be written.
        ValueError: the path is something else than a file.
    """
    path = Path(path)
    if kind := what_is(path):
        raise ValueError(f"{path} is {kind}, where a file is to be written")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        probe = folder / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"{path} could not be written ({error}): choose another place") from error


def what_is(path: str | Path) -> str | None:
    """Empty for a regular file, None where nothing is, else what is there instead, in words."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to nothing" if os.path.islink(path) else None
    except ValueError:
        return "no name of a file (it holds a NUL)"
    except OSError as error:
        return "a link that leads back to itself" if error.errno == errno.ELOOP else f"unreadable ({error.strerror})"
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def not_the_file(error: BaseException, path: str | Path) -> None:
    """Raise an ``OSError`` where reading failed by no fault of the file: the disk, the network, too little memory."""
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


def read_json(path: str | Path, what: str, again: str) -> dict[str, Any]:
    """The object in a JSON file; messages say ``what`` it should be, and where to get it ``again``.

    Raises:
        OSError: it could not be read.
        ValueError: it is no JSON, or something else than an object.
    """
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no {what}: it is not text (byte {error.start} is none of UTF-8); {again}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no whole {what}: it stops being JSON in line {error.lineno}, column {error.colno} "
            f"({error.msg}); {again}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists without end
        raise ValueError(f"{path} is no {what} ({error}); {again}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no {what}: it holds {type(content).__name__} where names and values are; {again}")
    return content


def read_arrays(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file whose names are ``wanted``; the others are not unpacked, pickles are refused.

    Raises:
        ValueError: they hold too much, see ``require_room``.
        DAMAGED: the file is torn, or none of arrays.
    """
    with np.load(path, allow_pickle=False) as file:
        if isinstance(file, np.ndarray):
            raise ValueError("it holds a single array without a name")
        names = [name for name in file.files if wanted(name)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"the array {twice[0]!r} stands there twice")
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
        require_room(sum(sizes[name] for name in names), os.path.getsize(path))
        return {name: file[name] for name in names}


def require_room(size: int, own: int) -> None:
    """Raise a ``ValueError`` if arrays of ``size`` bytes are more than a file of ``own`` bytes may be unpacked to."""
    if size > max(ROOM, FOLD * own):
        raise ValueError(
            f"its arrays would fill {size / 1e6:,.0f} MB, more than {FOLD} times the file's {own / 1e6:,.1f} MB: save "
            "them uncompressed"
        )


def without_folders(value: Any) -> Any:
    """JSON types with every absolute path cut to its last part: what is shared says nothing of its maker's machine."""
    if isinstance(value, str):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or value if _ABSOLUTE.match(value) else value
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, list | tuple) else value


_ABSOLUTE = re.compile(r"(file://)?(/|\\\\|~[^/\\\s]*[/\\]|[A-Za-z]:[/\\])")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """The bytes of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def written_as(path: Path, columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Columns as the file's ending says: CSV, JSON (a list of objects) or Parquet.

    Raises:
        ValueError: another ending; pyarrow is not there.
    """
    if path.suffix == ".csv":
        return as_csv([list(columns), *zip(*columns.values(), strict=True)])
    if path.suffix == ".json":
        lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
        return (json.dumps(lines, indent=1, ensure_ascii=False) + "\n").encode()
    if path.suffix != ".parquet":
        raise ValueError(f"{path} ends in {path.suffix!r}: .csv, .json or .parquet can be written")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow: pip install 'torchreid_dfrst[parquet]', or write .csv") from error
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), sink)
    return sink.getvalue()
