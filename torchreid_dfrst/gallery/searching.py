"""Exact search in the partitions of a gallery, each on its own, and the merging of what they find."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import Content, Deletion, File, Store
from torchreid_dfrst.retrieval.distances import exact
from torchreid_dfrst.retrieval.embeddings import Stack, pattern_sums, unit
from torchreid_dfrst.retrieval.search import search
from torchreid_dfrst.retrieval.transit import check_fusion, transits
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.gaps import GapTransit

TEXT = ("path", "camera", "identity", "track")


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for.

    Args:
        embedding: ``(Q, D)`` float32 of unit length.
        camera: name of each camera, as names are compared; empty where not known.
        time_s: ``(Q,)``, NaN where not known.
        low: ``(Q,)`` no older images; minus infinity for all, also those without a time.
        high: ``(Q,)`` no later images.
        path: name of each query; empty where it has none.
        top: images for each, at most.
    """

    embedding: np.ndarray
    camera: tuple[str, ...]
    time_s: np.ndarray
    low: np.ndarray
    high: np.ndarray
    path: tuple[str, ...]
    top: int


@dataclass(frozen=True, eq=False)
class Hits:
    """What was found, as a table sorted by query and rank.

    Args:
        columns: ``query`` (its row, from 0), ``rank`` (from 1), ``path``, ``camera``, ``time_s`` (None where not
            known), ``identity``, ``track``, ``distance`` (by which it is ranked), ``appearance`` (Euclidean distance),
            and ``probability`` that it is the query's vehicle (None without a calibration).
        candidates: ``(Q,)`` images in each query's window.
        by: ``appearance`` or ``+ ST``.
        notes: what a reader should know, a sentence each.
    """

    columns: dict[str, list[Any]]
    candidates: np.ndarray
    by: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of hits of all queries."""
        return len(self.columns["rank"])


class Shard(NamedTuple):
    """A file in memory, without what was deleted: rows rise in time."""

    embedding: np.ndarray
    sums: np.ndarray
    time_s: np.ndarray
    cameras: tuple[str, ...]
    code: np.ndarray
    """``(N,)`` place of each row's camera in ``cameras``."""
    table: Any

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = (self.embedding, self.sums, self.time_s, self.code, self.table)
        return int(sum(array.nbytes for array in arrays))


class Shards:
    """Files in memory, the latest used ones, shared by the threads of a process."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, load: Callable[[], Shard], limit: int | None) -> Shard:
        """A file, read unless it is there; then older ones go until all take at most ``limit`` bytes."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = load()
        with self._lock:
            self._held[key] = found
            while limit is not None and len(self._held) > 1 and sum(s.size for s in self._held.values()) > limit:
                self._held.popitem(last=False)
        return found


HELD = Shards()


class Task(NamedTuple):
    """The search of one partition; it can be sent to another process."""

    store: Store
    files: tuple[tuple[File, tuple[Deletion, ...]], ...]
    query: Query
    trips: Trips | None
    memory_limit: int | None


@dataclass(eq=False)
class Found:
    """What one partition holds: the nearest images of each query, not in order.

    Args:
        candidates: ``(Q,)`` images in each query's window.
        lost: file to why it could not be read; ``gone`` where it is not there any more.
        parts: of each group of queries: query rows, distance, appearance, transit, time and words of its images.
    """

    candidates: np.ndarray
    lost: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[Any, ...]] = field(default_factory=list)


def kept(store: Store, file: File, content: Content, columns: Sequence[str] | None = None) -> Any:
    """Rows of a file that are not deleted, as an Arrow table; raises as ``Store.load`` does."""
    return _undeleted(store.load(file, columns), content.deleted_from(file))


def _undeleted(table: Any, deletions: Iterable[Deletion]) -> Any:
    for one in deletions:
        gone = one.covers(table)
        table = table.take(np.flatnonzero(~gone)) if gone.any() else table
    return table


def find(
    store: Store,
    content: Content,
    query: Query,
    trips: Trips | None,
    strangers: float,
    memory_limit: int | None = None,
    executor: Executor | None = None,
) -> tuple[Hits, dict[str, str]]:
    """Search every partition that any query's window meets; also files that could not be read, see ``Found.lost``."""
    partitions: dict[str, list[tuple[File, tuple[Deletion, ...]]]] = {}
    low, high = float(query.low.min()), float(query.high.max())
    for file in content.files:
        if file.meets(low, high):
            partitions.setdefault(file.partition, []).append((file, content.deleted_from(file)))
    tasks = [Task(store, tuple(files), query, trips, memory_limit) for files in partitions.values()]
    parts = list(map(search_partition, tasks) if executor is None else executor.map(search_partition, tasks))
    lost = {name: why for part in parts for name, why in part.lost.items()}
    count = sum((part.candidates for part in parts), start=np.zeros(len(query.embedding), dtype=np.int64))
    columns = _merged([part for found in parts for part in found.parts], query)
    columns["probability"] = _probabilities(columns, content, trips is not None, count, strangers)
    columns.pop("transit")
    return Hits(columns, count, "appearance" if trips is None else "+ ST"), lost


def search_partition(task: Task) -> Found:
    """The nearest images of one partition, exact, with their distances in float64."""
    query, found = task.query, Found(np.zeros(len(task.query.embedding), dtype=np.int64))
    shards = []
    for file, deletions in task.files:
        key = (task.store.address, file.path, tuple(one.number for one in deletions))
        try:
            shards.append(HELD.get(key, lambda f=file, d=deletions: _shard(task.store, f, d), task.memory_limit))  # type: ignore[misc]
        except FileNotFoundError:
            found.lost[file.path] = "gone"
        except ValueError as error:
            found.lost[file.path] = str(error)
    windows: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for row in range(len(query.embedding)):
        spans = tuple(_window(shard, query.low[row], query.high[row]) for shard in shards)
        windows.setdefault(spans, []).append(row)
    for spans, rows in windows.items():
        total = sum(stop - start for start, stop in spans)
        found.candidates[rows] = total
        if total:
            found.parts.append(_nearest(task, shards, spans, np.array(rows)))
    return found


def _shard(store: Store, file: File, deletions: tuple[Deletion, ...]) -> Shard:
    table = _undeleted(store.load(file), deletions)
    column = table["embedding"]
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    values = chunks[0] if len(chunks) == 1 else np.concatenate([np.empty((0, width), np.float32), *chunks])
    if values.dtype != np.float32:  # half precision leaves no length at 1
        values = values.astype(np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    values = unit(file.path, values) if len(values) else values
    names = table["camera"].combine_chunks().dictionary_encode()
    code = names.indices.to_numpy()
    rest = table.select([*TEXT])
    return Shard(
        values, pattern_sums(values), table["time_s"].to_numpy(), tuple(names.dictionary.to_pylist()), code, rest
    )


def _window(shard: Shard, low: float, high: float) -> tuple[int, int]:
    if low == -np.inf and high == np.inf:
        return 0, len(shard.time_s)
    known = len(shard.time_s) if not len(shard.time_s) or not np.isnan(shard.time_s[0]) else 0
    times = shard.time_s[:known]
    return int(np.searchsorted(times, low, "left")), int(np.searchsorted(times, high, "right"))


def _nearest(task: Task, shards: list[Shard], spans: tuple[tuple[int, int], ...], rows: np.ndarray) -> tuple[Any, ...]:
    """The nearest images of some queries with one window, as ``Found.parts`` has them."""
    import pyarrow

    query, trips = task.query, task.trips
    inside = [(shard, slice(*span)) for shard, span in zip(shards, spans, strict=True) if span[0] < span[1]]
    columns = Stack(*(s.embedding[part] for s, part in inside), sums=[s.sums[part] for s, part in inside])
    table = pyarrow.concat_tables([s.table.slice(part.start, part.stop - part.start) for s, part in inside])
    time_s = np.concatenate([s.time_s[part] for s, part in inside])
    asked = Stack(query.embedding[rows])
    fusion, transit = None, None
    if trips is not None:
        seen = Sightings(trips.labels([query.camera[row] for row in rows]), query.time_s[rows])
        camera = np.concatenate([trips.labels(s.cameras)[s.code[part]] for s, part in inside])
        shown = Sightings(camera, time_s)
        unknown = np.isnan(time_s).all()
        transit = GapTransit(seen, shown, trips.model.law) if unknown else trips.model.transit(seen, shown)
        fusion = check_fusion(transit, trips.weight, transit.shape)
    own = _own(table, [query.path[row] for row in rows])
    count = min(query.top + max(map(len, own)), len(columns))
    near = search(asked, columns, count, fusion=fusion, device="cpu")
    row, column = np.repeat(np.arange(len(rows)), count), near.index.ravel()
    free = np.array([c not in own[r] for r, c in zip(row.tolist(), column.tolist(), strict=True)])
    row, column = row[free], column[free]
    appearance = exact(asked, columns, row, column)
    trip = np.zeros(len(row)) if transit is None else transits(transit, row, column).astype(np.float64)
    distance = appearance + (0.0 if trips is None else trips.weight) * trip
    words = {name: table[name].take(column).to_pylist() for name in TEXT}
    return rows[row], distance, appearance, trip, time_s[column], words


def _own(table: Any, paths: Sequence[str]) -> list[frozenset[int]]:
    """Rows of each query's own name."""
    import pyarrow.compute as compute

    found = []
    for path in paths:
        same = compute.equal(table["path"], path).to_numpy(zero_copy_only=False) if path else ()
        found.append(frozenset(np.flatnonzero(same).tolist()))
    return found


def _merged(parts: list[tuple[Any, ...]], query: Query) -> dict[str, list[Any]]:
    """The nearest of all partitions, in order: by query, distance, time and name."""
    whole = [np.concatenate([part[k] for part in parts] or [np.empty(0)]) for k in range(5)]
    words = {name: [word for part in parts for word in part[5][name]] for name in TEXT}
    row, distance, appearance, transit, time_s = whole
    path = np.array(words["path"], dtype=np.str_)
    order = np.lexsort((path, time_s, distance, row))
    place = np.arange(len(order)) - np.searchsorted(row[order], row[order], "left")
    order, place = order[place < query.top], place[place < query.top]
    return {
        "query": row[order].astype(np.int64).tolist(),
        "rank": (place + 1).tolist(),
        **{name: [words[name][k] for k in order] for name in ("path", "camera")},
        "time_s": [None if np.isnan(t) else t for t in time_s[order].tolist()],
        **{name: [words[name][k] for k in order] for name in ("identity", "track")},
        "distance": distance[order].tolist(),
        "appearance": appearance[order].tolist(),
        "transit": transit[order].tolist(),
    }


def _probabilities(
    columns: Mapping[str, list[Any]], content: Content, fused: bool, candidates: np.ndarray, strangers: float
) -> list[float | None]:
    if content.calibration is None or not columns["rank"]:
        return [None] * len(columns["rank"])
    calibration = Calibration.of(content.calibration)
    row = np.array(columns["query"])
    known = np.array([time is not None for time in columns["time_s"]])
    transit = np.where(known, np.array(columns["transit"]), np.nan) if fused else None
    found = calibration.probability(np.array(columns["appearance"]), transit, candidates[row], strangers)
    return [float(value) for value in found]
