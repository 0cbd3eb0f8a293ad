"""A gallery that lives: images come in, expire and are deleted, while others search it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.checks import within
from torchreid_dfrst.features import Features, network_of
from torchreid_dfrst.gallery.hits import Hits, Query, remarks
from torchreid_dfrst.gallery.lookups import new_rows, newest, shares_numbers
from torchreid_dfrst.gallery.searching import HELD, find, key_of
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import (
    DTYPES,
    GONE,
    HOUR_S,
    META,
    Content,
    Deletion,
    File,
    Store,
    batches,
    cameras_of,
    described,
    pyarrow,
    table_of,
    without,
)
from torchreid_dfrst.messages import nearest, sample, short
from torchreid_dfrst.names import plain
from torchreid_dfrst.retrieval import normalise
from torchreid_dfrst.sightings import as_seconds
from torchreid_dfrst.spatiotemporal import GapModel

COMPACTED = 1 << 30
"""Bytes of memory within which files are put together where nothing else is said."""
COPIES = 4
"""Times that rows lie in memory while they are put together: read, joined, sorted, written."""
logger = logging.getLogger(__name__)


class Gallery:
    """Embeddings of one network with camera, time, and optionally track, identity and thumbnail.

    On disk: a Parquet data set partitioned by day and hour, which other engines read too, and ``gallery.json``, the
    list of the files that count. What ``add`` has returned from is there after any crash; a reader sees all of an add
    or nothing of it. See ``open`` and ``create``.
    """

    def __init__(self, address: str | Path, memory_limit: int | None = None):
        self.store, self.memory_limit = Store(address), memory_limit
        self.content, self._stamp = self.store.read(), self.store.stamp()
        self._cleaned = self._numbers_told = False
        self._trips_of: Trips | None = None
        self._cameras_of: tuple[int, list[str]] = (-1, [])
        self.damaged: dict[str, str] = {}

    @classmethod
    def open(cls, address: str | Path, memory_limit: int | None = None) -> Gallery:
        """A gallery that exists; its searches keep ``memory_limit`` bytes of embeddings in memory, or all (None).

        Raises:
            FileNotFoundError: there is none.
            ValueError: its list is damaged, or of another version.
        """
        return cls(address, memory_limit)

    @classmethod
    def create(cls, address: str | Path, source: Mapping[str, Any], width: int, dtype: str = "float32") -> Gallery:
        """A new gallery.

        Args:
            address: a folder, or what fsspec knows.
            source: what makes the embeddings, see ``Extraction.source``.
            width: of an embedding.
            dtype: ``float32``, or ``float16``, which takes half of the room and changes distances by some 1e-4.

        Raises:
            ValueError: there is something already, or an unknown ``dtype``.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}: {' or '.join(DTYPES)}")
        pyarrow()
        store = Store(address)
        store.require_free()
        with store.writer():
            store.publish(Content(1, network_of(source), int(width), dtype))
        return cls.open(address)

    def refresh(self) -> None:
        """Take the list as it is now; searches do so by themselves."""
        if (stamp := self.store.stamp()) != self._stamp:
            self.content, self._stamp = self.store.read(), stamp
            self._forget()

    def _forget(self) -> None:
        """Let go of files in memory that count no more."""
        address, content = self.store.address, self.content
        HELD.keep(address, {key_of(address, file, content.deleted_from(file)) for file in content.files})

    def add(
        self, features: Features, source: Mapping[str, Any], thumbnails: Sequence[bytes | None] | None = None
    ) -> int:
        """Add images, and give their number; once this returns they survive any crash.

        Images that are there already are not added again, see ``lookups.new_rows``.

        Args:
            features: embeddings and sightings. Names of cameras and vehicles are kept, so that lists with other
                numbers can be added.
            source: what made the embeddings, see ``Extraction.source``.
            thumbnails: JPEG of each image.

        Raises:
            ValueError: embeddings of another network, width or preprocessing, or another writer is at work.
            KeyError: a camera that the space-time model of the gallery does not know.
            OSError: the disk is full; the gallery is as it was.
        """
        self.require(source, features.embedding.shape[1])
        if not len(features):
            return 0
        with self.store.writer():
            self.refresh()
            if self.content.spacetime is not None:
                Trips.load(self.content.spacetime).require(np.unique(cameras_of(features.sightings)).tolist())
            if not self._cleaned:
                self.store.remove(self.store.leftovers(self.content))
                self._cleaned = True
            number = self.content.number + 1
            table = new_rows(self.store, self.content, table_of(features, self.content, number, thumbnails))
            self._numbers_told = self._numbers_told or shares_numbers(self.store, self.content, table)
            if len(table):
                self._publish(without(self.content, (), self.store.save(table, number)))
        return len(table)

    def require(self, source: Mapping[str, Any], width: int | None = None) -> None:
        """Refuse with a ``ValueError`` embeddings of another network, width or preprocessing."""
        held, network = self.content, network_of(source)
        if width not in (None, held.width):
            raise ValueError(
                f"embeddings have {width} numbers, those of {self.store.address} {held.width}: they are of another "
                "network, and cannot be compared"
            )
        if network != held.network:
            raise ValueError(
                f"embeddings of {described(network)} cannot be compared with those of {self.store.address}, made by "
                f"{described(held.network)}: embed the images with that network, or start another gallery"
            )

    def _publish(self, content: Content) -> None:
        self.store.publish(content)
        self.content, self._stamp = content, self.store.stamp()
        self._forget()

    def info(self, check: bool = False) -> dict[str, Any]:
        """How much there is, of which times and cameras, by what network, and what is wrong with it; JSON types.

        With ``check`` embeddings and thumbnails are read too, to find every damaged file.
        """
        self.refresh()
        content, cameras, rows, without_time, damaged = self.content, set(), 0, 0, {}
        for file in content.files:
            try:
                table = self.store.load(file, None if check else META, content.deleted_from(file))
            except GONE as error:
                damaged[file.path] = str(error)
                continue
            rows += len(table)
            without_time += len(table) if file.first_s is None else 0
            cameras |= set(table["camera"].unique().to_pylist())
        first = [file.first_s for file in content.files if file.first_s is not None]
        last = [file.last_s for file in content.files if file.last_s is not None]
        return {
            "images": rows, "without a time": without_time, "first_s": min(first, default=None),
            "last_s": max(last, default=None), "cameras": sorted(cameras), "files": len(content.files),
            "partitions": len({file.partition for file in content.files}),
            "bytes": sum(file.bytes for file in content.files), "network": content.network, "width": content.width,
            "dtype": content.dtype, "deletions to compact": len(content.deletions),
            "space and time": None if content.spacetime is None else Trips.load(content.spacetime).describe(),
            "calibrated": content.calibration is not None, "damaged": damaged,
        }  # fmt: skip

    def newest(self) -> dict[str, float]:
        """Name of each camera to the time of its newest sighting; cameras without times are left out."""
        self.refresh()
        return newest(self.store, self.content)

    def older(self, before_s: float) -> list[File]:
        """The files of hours that ended before a time."""
        return [f for f in self.content.files if f.last_s is not None and f.last_s // HOUR_S < before_s // HOUR_S]

    def expire(self, before_s: float) -> tuple[int, int]:
        """Remove whole partitions, hours that end before a time; gives the number of files and rows."""
        with self.store.writer():
            self.refresh()
            gone = self.older(before_s)
            if gone:
                self._publish(without(self.content, [file.path for file in gone]))
                self.store.remove([file.path for file in gone])
        return len(gone), sum(file.rows for file in gone)

    def delete(
        self,
        camera: str = "",
        identity: str = "",
        path: str = "",
        from_s: float | None = None,
        until_s: float | None = None,
    ) -> int:
        """Delete the images to which all of this applies, and give their number; ``compact`` erases them from disk.

        Args:
            camera: its name.
            identity: the name of a vehicle.
            path: as ``search`` gives it.
            from_s: this time and later.
            until_s: before this time.

        Raises:
            ValueError: nothing is said, which would delete all.
        """
        wanted = {"camera": plain(camera), "identity": identity, "path": path, "from_s": from_s, "until_s": until_s}
        if not any(value not in ("", None) for value in wanted.values()):
            raise ValueError(
                "say what to delete: a camera, an identity, a path or times; to delete all, remove the folder"
            )
        with self.store.writer():
            self.refresh()
            number = self.content.number + 1
            one = Deletion(number, **wanted)  # type: ignore[arg-type]
            count = 0
            for file in self.content.files:
                try:
                    table = self.store.load(file, META, self.content.deleted_from(file))
                    count += int(one.covers(table).sum())
                except GONE as error:
                    logger.warning("%s: what it holds is deleted should it be mended", error)
            if count:
                self._publish(without(self.content, (), deletions=(*self.content.deletions, one)))
        return count

    def compact(self, memory_limit: int = COMPACTED) -> dict[str, int]:
        """Put the small files of each partition together, and erase what was deleted.

        Works within ``memory_limit`` bytes, at least those of a file ``COPIES`` times. Gives the number of ``files
        before`` and ``files`` now, ``erased`` rows, and ``damaged`` files, which are left as they are.
        """
        within("memory_limit", memory_limit, lowest=1)
        with self.store.writer():
            self.refresh()
            before, erased, damaged = len(self.content.files), 0, 0
            self.store.remove(self.store.leftovers(self.content))
            for partition in dict.fromkeys(file.partition for file in self.content.files):
                for batch in batches(self.content, partition, memory_limit // COPIES):
                    tables, read = [], []
                    for file in batch:
                        try:
                            tables.append(self.store.load(file, None, self.content.deleted_from(file)))
                            read.append(file)
                        except GONE as error:
                            logger.warning("%s: it is left as it is", error)
                            damaged += 1
                    if not read:
                        continue
                    whole = pyarrow().concat_tables(tables)
                    erased += sum(file.rows for file in read) - len(whole)
                    more = self.store.save(whole, self.content.number + 1)
                    self._publish(without(self.content, [file.path for file in read], more))
                    self.store.remove([file.path for file in read])
            oldest = min((file.since for file in self.content.files), default=self.content.number)
            needed = tuple(one for one in self.content.deletions if one.number > oldest)
            if needed != self.content.deletions:
                self._publish(without(self.content, (), deletions=needed))
        return {"files before": before, "files": len(self.content.files), "erased": erased, "damaged": damaged}

    def learn(
        self, model: GapModel | None = None, weight: float = 0.0, calibration: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a fitted space-time model and its weight (omega), and a calibration, for every later search.

        A new model without a calibration drops the old one, which holds for the distances that it was fitted on.

        Raises:
            KeyError: the model does not know a camera of the gallery.
            ValueError: the model is not fitted, or the calibration is of another network.
        """
        change: dict[str, Any] = {}
        if model is not None:
            trips = Trips.of(model, weight)
            trips.require(self.info()["cameras"])
            change |= {"spacetime": trips.content, "calibration": None}
        if calibration is not None:
            self.require(calibration["network"])
            change["calibration"] = dict(calibration)
        with self.store.writer():
            self.refresh()
            self._publish(without(self.content, (), **change))

    def search(
        self,
        embedding: np.ndarray,
        camera: Sequence[str] | None = None,
        time_s: Sequence[float] | np.ndarray | None = None,
        *,
        before_s: float | None = None,
        after_s: float | None = None,
        top: int = 20,
        strangers: float = 0.5,
        false_match_rate: float | None = None,
        path: Sequence[str] | None = None,
        source: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
    ) -> Hits:
        """The nearest images of each query, exact: by appearance, and by space and time where a model is stored.

        Each partition is searched on its own and the lists are merged by distances in float64, so any executor gives
        the same hits.

        Args:
            embedding: ``(Q, D)`` of the queries, by the gallery's network.
            camera: name of each query's camera.
            time_s: time of each query.
            before_s: no image that is older than a query by more; with ``after_s`` left out, nor later ones.
            after_s: no image that is later than a query by more; with ``before_s`` left out, nor earlier ones.
            top: how many for each query, at most.
            strangers: share of queries whose vehicle is not in the gallery, for probabilities.
            false_match_rate: share of pairs of two vehicles that may pass; ``Hits.columns["passes"]`` says who does.
            path: name of each query; an image of that name is not listed.
            source: what made the embeddings, see ``Extraction.source``; None where the caller knows that they fit.
            executor: runs partitions at the same time: threads, processes, or Dask's ``Client.get_executor()``.

        Raises:
            ValueError: another network or width, a window without a time, a rate of false matches without a
                calibration that knows it, a negative span.
            KeyError: a camera that the space-time model does not know.
        """
        embedding = normalise(np.atleast_2d(embedding))
        self.require(self.content.network if source is None else source, embedding.shape[1])
        within("top", top, lowest=1)
        for name, span in (("before_s", before_s), ("after_s", after_s)):
            within(name, span or 0)
        if false_match_rate is not None and self.content.calibration is None:
            raise ValueError("a rate of false matches needs a calibration: `dfrst gallery fit` keeps one")
        count = len(embedding)
        times = np.full(count, np.nan) if time_s is None else as_seconds(time_s).reshape(-1)
        for what, given in (("camera", camera), ("time_s", times), ("path", path)):
            if isinstance(given, str) or (given is not None and len(given) != count):
                raise ValueError(f"{what} is {short(given)}: one for each of the {count} queries is needed")
        windowed = before_s is not None or after_s is not None
        if windowed and np.isnan(times).any():
            raise ValueError("a window of time was asked for, but not every query has a time: say when it was seen")
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        if windowed:
            low, high = times - (before_s or 0), times + (after_s or 0)
        names = [plain(word) for word in camera] if camera is not None else [""] * count
        query = Query(embedding, tuple(names), times, low, high, tuple(path or [""] * count), top)
        for _ in range(3):
            self.refresh()
            trips = self._trips(query)
            hits, lost, cameras = find(
                self.store, self.content, query, trips, strangers, false_match_rate, self.memory_limit, executor
            )
            if not any(why == "gone" for why in lost.values()):
                break  # else a list that was read before something expired
        lost = {name: f"{self.store.at(name)} is gone" if why == "gone" else why for name, why in lost.items()}
        new = {name: why for name, why in lost.items() if name not in self.damaged}
        self.damaged |= new
        for why in new.values():
            logger.warning("%s: it is left out", why)
        more = remarks(query, hits, self.content, len(lost))
        if self.content.spacetime is None:
            more += self.unseen(set(query.camera) - cameras)
        return replace(hits, notes=(*hits.notes, *more))

    def _trips(self, query: Query) -> Trips | None:
        if self.content.spacetime is None:
            return None
        if self._trips_of is None or self._trips_of.content != self.content.spacetime:
            self._trips_of = Trips.load(self.content.spacetime)
        trips = self._trips_of
        lost = sorted(set(query.camera) - {"", *trips.names})
        if lost:
            raise KeyError(f"the gallery has no camera {lost[0]!r}{nearest(lost[0], trips.names)}")
        return None if not all(query.camera) or np.isnan(query.time_s).any() else trips

    def unseen(self, cameras: Collection[str]) -> list[str]:
        """A sentence for each camera that no sighting is of; empty names are none."""
        number, known = self._cameras_of
        if {plain(name) for name in cameras} - {"", *known} and number != self.content.number:
            _, known = self._cameras_of = self.content.number, self.info()["cameras"]
        lost = sorted({plain(name) for name in cameras} - {"", *known})
        return [f"no sighting is of camera {name!r}: the gallery has {sample(known, 20) or 'none'}" for name in lost]

    def thumbnails(self, hits: Hits) -> dict[str, bytes]:
        """Name to the small image that was kept, of the hits that have one."""
        times = {np.nan if time is None else time for time in hits.columns["time_s"]}
        found: dict[str, bytes] = {}
        for file in self.content.files:
            if not any(file.first_s is None or file.meets(time, time) for time in times):
                continue
            try:
                table = self.store.load(file, ("path", "thumbnail"))
            except GONE:  # searches have said so
                continue
            kept_ones = zip(table["path"].to_pylist(), table["thumbnail"].to_pylist(), strict=True)
            found |= {path: small for path, small in kept_ones if small is not None}
        return {path: found[path] for path in hits.columns["path"] if path in found}

    def export(self) -> list[str]:
        """Addresses of the Parquet files, for other engines; a ``ValueError`` if deleted images are still in them."""
        self.refresh()
        if self.content.deletions:
            raise ValueError("deleted images still lie in the files: compact the gallery first")
        return [self.store.fs.unstrip_protocol(self.store.at(file.path)) for file in self.content.files]

    def __len__(self) -> int:
        """Rows on disk, with those that are deleted and not erased yet."""
        return sum(file.rows for file in self.content.files)
