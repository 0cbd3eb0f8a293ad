"""A folder of Parquet files, the list of those that count, and one writer at a time."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from torchreid_dfrst import files
from torchreid_dfrst.checks import check, expected_types
from torchreid_dfrst.files import DAMAGED
from torchreid_dfrst.messages import sample
from torchreid_dfrst.names import plain
from torchreid_dfrst.retrieval import Features, normalise
from torchreid_dfrst.sightings import UNKNOWN, Sightings

FORMAT, VERSION = "torchreid_dfrst gallery", 1
LIST, LOCK = "gallery.json", "writer.lock"
HOUR_S = 3600
UNKNOWN_HOUR = "day=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__"
"""Of images without a time; other engines read it as null."""
DTYPES = ("float32", "float16")
META = ("path", "camera", "time_s", "identity")
"""Columns that are small, and that deletions ask for."""
GONE = (ValueError, FileNotFoundError)
"""What reading a damaged or lost file raises."""
TORN = (OSError, ValueError, RuntimeError, KeyError, OverflowError, EOFError)
"""What Arrow raises on damaged files."""
logger = logging.getLogger(__name__)


def pyarrow() -> Any:
    """The package, an optional extra; a ``ValueError`` where it is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("galleries need pyarrow: pip install 'torchreid_dfrst[parquet]'") from error
    return pyarrow


@dataclass(frozen=True)
class File:
    """One Parquet file of a gallery, sorted by time.

    Args:
        path: below the gallery, such as ``day=2026-05-01/hour=16/0f3a....parquet``.
        rows: images.
        bytes: size of the file.
        first_s: earliest time; None, as ``last_s``, where no image has one.
        last_s: latest time.
        since: number of the list that brought it; later deletions apply to it.
    """

    path: str
    rows: int
    bytes: int
    first_s: float | None
    last_s: float | None
    since: int

    @property
    def partition(self) -> str:
        """Folder of its day and hour."""
        return posixpath.dirname(self.path)

    def meets(self, low_s: float, high_s: float) -> bool:
        """Whether it may hold an image of ``[low_s, high_s]``; images without a time are only in an endless one."""
        if self.first_s is None or self.last_s is None:
            return low_s == -np.inf and high_s == np.inf
        return self.first_s <= high_s and self.last_s >= low_s


@dataclass(frozen=True)
class Deletion:
    """Rows that are gone: those to which all that is said applies. Empty words and None say nothing."""

    number: int
    camera: str = ""
    identity: str = ""
    path: str = ""
    from_s: float | None = None
    until_s: float | None = None

    def covers(self, table: Any) -> np.ndarray:
        """``(N,)`` bool of an Arrow table with the columns of a gallery."""
        import pyarrow.compute as compute

        gone = np.ones(len(table), dtype=bool)
        for name in ("camera", "identity", "path"):
            if getattr(self, name):
                gone &= compute.equal(table[name], getattr(self, name)).to_numpy(zero_copy_only=False)
        for bound, compare in ((self.from_s, np.greater_equal), (self.until_s, np.less)):
            if bound is not None:
                gone &= compare(table["time_s"].to_numpy(), bound)
        return gone


@dataclass(frozen=True, eq=False)
class Content:
    """What ``gallery.json`` says: the whole state of a gallery, replaced as one.

    Args:
        number: rises by one with each change.
        network: what made the embeddings, see ``features.network_of``.
        width: of an embedding.
        dtype: of embeddings on disk, one of ``DTYPES``.
        files: those that count; any other in the folder is left from a writer that was stopped.
        deletions: what is to be left out of files that are older.
        spacetime: ``gallery.spacetime.Trips.content``; None for appearance alone.
        calibration: ``Calibration.content``; None without.
    """

    number: int
    network: dict[str, Any]
    width: int
    dtype: str
    files: tuple[File, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    spacetime: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None

    def deleted_from(self, file: File) -> tuple[Deletion, ...]:
        """The deletions that apply to a file."""
        return tuple(one for one in self.deletions if one.number > file.since)

    def encode(self) -> bytes:
        """The bytes of ``gallery.json``."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}).encode()

    @classmethod
    def decode(cls, text: bytes, where: str) -> Content:
        """Read what ``encode`` wrote; a ``ValueError`` for anything else, or another version."""
        try:
            held = json.loads(text.decode())
            kind, version = held.pop("format"), held.pop("version")
        except DAMAGED as error:
            raise ValueError(
                f"{where} is not the list of a gallery ({error!r}): it is damaged, or no gallery"
            ) from error
        if kind != FORMAT or version != VERSION:
            raise ValueError(f"{where} is {kind!r} version {version}, this package reads {FORMAT!r} version {VERSION}")
        try:
            held["files"] = tuple(File(**one) for one in held["files"])
            held["deletions"] = tuple(Deletion(**one) for one in held["deletions"])
            found = cls(**held)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is damaged: it lacks something, or holds too much ({error!r})") from error
        for name, kind in expected_types(cls).items():
            check(f"{where}: {name}", getattr(found, name), kind)
        return found


class Store:
    """The place of a gallery: a folder of this machine, or any address that fsspec knows (``s3://``, ``gs://``, ...).

    A change is a new ``gallery.json``, written aside, synced and renamed (elsewhere than on a disk: stored as one
    object), after the files that it lists are whole in the same way. Readers hold one list and never lock.
    """

    def __init__(self, address: str | Path):
        from fsspec.core import url_to_fs

        self.address = str(address)
        try:
            self.fs, root = url_to_fs(self.address)
        except ImportError as error:
            raise ValueError(f"{self.address} needs a package of its own: {error}") from None
        self.root = str(root)
        self.folder = Path(self.root) if "file" in self.fs.protocol else None

    def require_free(self) -> None:
        """Refuse with a ``ValueError`` a place for a new gallery where something is."""
        if self.fs.exists(self.root) and (not self.fs.isdir(self.root) or self.fs.ls(self.root)):
            raise ValueError(f"{self.address} is there and no gallery: name a new folder, or an empty one")

    def at(self, name: str) -> str:
        """A name below the gallery as the file system has it."""
        return posixpath.join(self.root, name)

    def read(self) -> Content:
        """The list as it is now; a ``FileNotFoundError`` where there is no gallery, else as ``Content.decode``."""
        try:
            text = self.fs.cat_file(self.at(LIST))
        except (FileNotFoundError, NotADirectoryError) as error:
            held = "is no gallery" if self.fs.exists(self.root) else "does not exist"
            raise FileNotFoundError(
                f"{self.address} {held}: make one with `dfrst gallery add {self.address}`"
            ) from error
        return Content.decode(text, self.at(LIST))

    def stamp(self) -> Any:
        """Changes when the list does."""
        if self.folder is None:
            return self.fs.cat_file(self.at(LIST))
        about = (self.folder / LIST).stat()
        return about.st_mtime_ns, about.st_ino, about.st_size

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Hold the gallery for writing; a ``ValueError`` if somebody else does."""
        held = f"another program is writing to {self.address}: wait for it to end, and try again"
        if self.folder is None:
            try:
                self.fs.pipe_file(self.at(LOCK), b"", mode="create")
            except FileExistsError as error:
                raise ValueError(f"{held}, or, where none is alive, remove {self.at(LOCK)}") from error
            try:
                yield
            finally:
                self.fs.rm_file(self.at(LOCK))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                yield
        except Timeout as error:
            raise ValueError(held) from error

    def publish(self, content: Content) -> None:
        """Make a list the one that counts."""
        self._write(LIST, content.encode())

    def save(self, table: Any, number: int) -> list[File]:
        """Write rows to a new file in the folder of each of their hours; they count once a list names them."""
        times = np.nan_to_num(table["time_s"].to_numpy(), nan=np.inf)
        order = np.argsort(times, kind="stable")
        hours = np.floor(times[order] / HOUR_S)
        groups = np.split(order, np.flatnonzero(hours[1:] != hours[:-1]) + 1)
        return [self._save(table.take(rows), number) for rows in groups if len(rows)]

    def _save(self, table: Any, number: int) -> File:
        parquet = pyarrow().parquet
        times = table["time_s"].to_numpy()
        first, last = (None, None) if np.isnan(times[0]) else (float(times[0]), float(times[-1]))
        name = f"{UNKNOWN_HOUR if first is None else partition_of(first)}/{uuid.uuid4().hex}.parquet"

        def write(file: Any) -> None:
            # embeddings do not shrink, and a reader takes them as they lie; a checksum tells a damaged page
            options = {"compression": "NONE", "use_dictionary": ["camera"], "write_page_checksum": True}
            parquet.write_table(table, file, row_group_size=len(table), write_statistics=["time_s"], **options)

        size = self._write(name, write)
        return File(name, len(table), size, first, last, number)

    def _write(self, name: str, content: Any) -> int:
        if self.folder is not None:
            path = self.folder / name
            self._make(path.parent)
            files.write({path: content})
            return path.stat().st_size
        if callable(content):
            sink = pyarrow().BufferOutputStream()
            content(sink)
            content = sink.getvalue().to_pybytes()
        self.fs.pipe_file(self.at(name), content)
        return len(content)

    def _make(self, folder: Path) -> None:
        """Make a folder that survives a power cut."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            files.sync_folder(folder.parent)

    def load(self, file: File, columns: Sequence[str] | None = None, deletions: Sequence[Deletion] = ()) -> Any:
        """What is not deleted of a file, as an Arrow table.

        Raises:
            FileNotFoundError: it is gone.
            ValueError: it is damaged.
        """
        try:
            table = pyarrow().parquet.read_table(
                self.at(file.path), columns=columns and list(columns), filesystem=self.fs, partitioning=None,
                page_checksum_verification=True, use_threads=False,
            )  # fmt: skip
            if len(table) != file.rows:
                raise ValueError(f"{len(table)} rows in place of {file.rows}")
            for one in deletions:
                table = table.filter(~one.covers(table))
            return table
        except FileNotFoundError:
            raise
        except TORN as error:
            files.not_the_file(error, self.at(file.path))
            said = (str(error).splitlines() or [repr(error)])[0]
            raise ValueError(f"{self.at(file.path)} is damaged ({said})") from error

    def remove(self, names: Sequence[str]) -> None:
        """Take files away, and folders that are empty then."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.at(name))
        if self.folder is not None:
            parents = {parent for name in names for parent in list(Path(name).parents)[:-1]}
            for folder in sorted(parents, key=lambda parent: -len(parent.parts)):
                with contextlib.suppress(OSError):
                    (self.folder / folder).rmdir()

    def leftovers(self, content: Content) -> list[str]:
        """Files in the folder that a stopped writer has left: no list names them."""
        listed = {file.path for file in content.files}
        inside = len(self.root.rstrip("/")) + 1
        found = [name[inside:] for name in self.fs.find(self.root)]
        return [name for name in found if name.startswith("day=") and name not in listed]


FARTHEST_S = 6e10  # to the year 3871; dates before year 1 cannot be written


def partition_of(time_s: float) -> str:
    """Folder of the hour of a time, seconds since 1970 in UTC or since a start of the gallery's own."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(hours=float(time_s // HOUR_S))
    return f"day={moment:%Y-%m-%d}/hour={moment:%H}"


@functools.cache
def schema(width: int, dtype: str) -> Any:
    """Columns of a file."""
    arrow = pyarrow()
    number = arrow.float32() if dtype == "float32" else arrow.float16()
    columns = [
        ("path", arrow.string()), ("camera", arrow.string()), ("time_s", arrow.float64()),
        ("identity", arrow.string()), ("track", arrow.int64()), ("embedding", arrow.list_(number, width)),
        ("thumbnail", arrow.binary()),
    ]  # fmt: skip
    return arrow.schema(columns, metadata={"format": FORMAT, "version": str(VERSION)})


def table_of(
    features: Features, content: Content, number: int, thumbnails: Sequence[bytes | None] | None = None
) -> Any:
    """Rows as a gallery keeps them: embeddings of unit length, names of cameras and vehicles.

    Trackers start their numbers anew, so the tracks of each addition, ``number``, are numbers of their own.
    """
    arrow, seen = pyarrow(), features.sightings
    far = np.flatnonzero(abs(seen.time_s) > FARTHEST_S)
    if len(far):
        raise ValueError(
            f"{sample(seen.path[far].tolist())}: the time {seen.time_s[far[0]]:g} s is no time since 1970, or of any "
            "clock: give seconds, not milliseconds"
        )
    tracks = np.unique(seen.track, return_inverse=True)[1] + (number << 32)
    values = normalise(features.embedding).astype(content.dtype, copy=False).reshape(-1)
    vehicles = zip(seen.vehicle_name.tolist(), seen.identity.tolist(), strict=True)
    columns = [
        arrow.array(seen.path.tolist(), arrow.string()),
        arrow.array(cameras_of(seen), arrow.string()),
        arrow.array(seen.time_s),
        arrow.array(["" if label == UNKNOWN else word or str(label) for word, label in vehicles], arrow.string()),
        arrow.array(tracks, mask=seen.track == UNKNOWN),
        arrow.FixedSizeListArray.from_arrays(arrow.array(values), content.width),
        arrow.array(thumbnails or [None] * len(seen), arrow.binary()),
    ]
    return arrow.Table.from_arrays(columns, schema=schema(content.width, content.dtype))


def cameras_of(seen: Sightings) -> list[str]:
    """Name of each row's camera, as names are compared; its label where it has none."""
    named = zip(seen.camera_name.tolist(), seen.camera.tolist(), strict=True)
    return [plain(word) or str(label) for word, label in named]


def without(content: Content, gone: Sequence[str], more: Sequence[File] = (), **change: Any) -> Content:
    """The next list: without some files, with others."""
    kept = tuple(file for file in content.files if file.path not in set(gone))
    return replace(content, number=content.number + 1, files=(*kept, *more), **change)


def batches(content: Content, partition: str, most: int) -> list[list[File]]:
    """Files of a partition that are worth putting together, as many at once as memory allows."""
    inside = [file for file in content.files if file.partition == partition]
    deleted = {file.path for file in inside if content.deleted_from(file)}
    found: list[list[File]] = [[]]
    for file in sorted(inside, key=lambda file: file.first_s or 0.0):
        if found[-1] and sum(one.bytes for one in found[-1]) + file.bytes > most:
            found.append([])
        found[-1].append(file)
    return [batch for batch in found if len(batch) > 1 or any(file.path in deleted for file in batch)]


def described(network: Mapping[str, Any]) -> str:
    """A network in words, for messages."""
    name = network.get("network")
    name = name.get("name") if isinstance(name, Mapping) else name
    digest, size = network.get("weights_sha256"), network.get("input")
    parts = [str(name or "a network without a name")]
    parts += [f"weights {digest[:8]}"] if digest else []
    return ", ".join([*parts, f"images of {size[0]} x {size[1]}"] if size else parts)
