"""Exact search in the partitions of a gallery, each on its own, and the merging of what they find."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.gallery.hits import APPEARANCE, FUSED, JOINED, TEXT, Found, Hits, Query, merged, worth
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import Content, Deletion, File, Store
from torchreid_dfrst.names import last_part
from torchreid_dfrst.retrieval.distances import exact
from torchreid_dfrst.retrieval.embeddings import Stack, unit
from torchreid_dfrst.retrieval.tiles import float32_error

CELLS = 1 << 22
"""Distances that are made at once."""
BESIDE = 128
"""Bytes that an image takes in memory beside its embedding."""
ROUNDING = 2.0**-22
"""Of a number up to 4 in float32, twice."""
Key = tuple[str, str, tuple[int, ...]]
Held = tuple[tuple[File, tuple[Deletion, ...]], ...]


class Shard(NamedTuple):
    """A file in memory, without what was deleted: rows rise in time."""

    embedding: np.ndarray
    time_s: np.ndarray
    cameras: tuple[str, ...]
    code: np.ndarray
    """``(N,)`` place of each row's camera in ``cameras``."""
    words: dict[str, Any]
    """Arrow arrays of ``TEXT``."""

    @property
    def size(self) -> int:
        """Bytes."""
        return int(sum(array.nbytes for array in (self.embedding, self.time_s, self.code, *self.words.values())))


class Shards:
    """Files in memory, the latest used ones, shared by the threads of a process."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, load: Callable[[], Shard], limit: int | None) -> Shard:
        """A file, read unless it is there; then older ones go until all take at most ``limit`` bytes."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = load()
        with self._lock:
            if key not in self._held:
                self._held[key] = found
            while limit is not None and len(self._held) > 1 and sum(one.size for one in self._held.values()) > limit:
                self._held.popitem(last=False)
        return found

    def keep(self, address: str, keys: Collection[Key]) -> None:
        """Forget the files of a gallery that are not among these: they are expired, compacted or shorter now."""
        with self._lock:
            for key in [key for key in self._held if key[0] == address and key not in keys]:
                del self._held[key]


HELD = Shards()


class Task(NamedTuple):
    """The search of a partition, or of as much of it as memory may hold; it can be sent to another process."""

    store: Store
    files: Held
    query: Query
    trips: Trips | None
    memory_limit: int | None
    joined: int
    """Hits of each query whose embeddings are asked for."""


def find(
    store: Store,
    content: Content,
    query: Query,
    trips: Trips | None,
    strangers: float,
    rate: float | None = None,
    memory_limit: int | None = None,
    executor: Executor | None = None,
) -> tuple[Hits, dict[str, str], set[str]]:
    """Search every partition that any query's window meets; also ``lost`` and ``cameras`` of all ``Found``."""
    calibration = None if content.calibration is None else Calibration.of(content.calibration)
    joined = 0 if calibration is None else JOINED
    tasks = [Task(store, files, query, trips, memory_limit, joined) for files in _groups(content, query, memory_limit)]
    found = list(map(search_partition, tasks) if executor is None else executor.map(search_partition, tasks))
    lost = {name: why for part in found for name, why in part.lost.items()}
    hits, transit, embedding = merged(found, query, APPEARANCE if trips is None else FUSED)
    if calibration is not None:
        hits = worth(hits, transit, embedding, query, trips, calibration, strangers, rate)
    return hits, lost, set().union(*(part.cameras for part in found))


def _groups(content: Content, query: Query, memory_limit: int | None) -> list[Held]:
    """The files that any query's window meets, by partition, and no more at once than memory may hold."""
    low, high = float(query.low.min()), float(query.high.max())
    groups: dict[str, list[list[tuple[File, tuple[Deletion, ...]]]]] = {}
    size: dict[str, int] = {}
    for file in content.files:
        if file.meets(low, high):
            some, more = groups.setdefault(file.partition, [[]]), file.rows * (4 * content.width + BESIDE)
            size[file.partition] = size.get(file.partition, 0) + more
            if memory_limit is not None and some[-1] and size[file.partition] > memory_limit:
                some.append([])
                size[file.partition] = more
            some[-1].append((file, content.deleted_from(file)))
    return [tuple(files) for some in groups.values() for files in some]


def key_of(address: str, file: File, deletions: Iterable[Deletion]) -> Key:
    """What a file is held by in memory."""
    return address, file.path, tuple(one.number for one in deletions)


def search_partition(task: Task) -> Found:
    """The nearest images of some files, exact, with their distances in float64."""
    query, found = task.query, Found(np.zeros(len(task.query.embedding), dtype=np.int64))
    shards = []
    for file, deletions in task.files:
        key = key_of(task.store.address, file, deletions)
        try:
            shards.append(HELD.get(key, functools.partial(shard_of, task.store, file, deletions), task.memory_limit))
        except FileNotFoundError:
            found.lost[file.path] = "gone"
        except ValueError as error:
            found.lost[file.path] = str(error)
    found.cameras = {name for shard in shards for name in shard.cameras}
    windows: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for row in range(len(query.embedding)):
        spans = tuple(_window(shard, query.low[row], query.high[row]) for shard in shards)
        windows.setdefault(spans, []).append(row)
    for spans, rows in windows.items():
        total = sum(stop - start for start, stop in spans)
        found.candidates[rows] = total
        if total:
            inside = [(shard, slice(*span)) for shard, span in zip(shards, spans, strict=True) if span[0] < span[1]]
            step = max(1, CELLS // total)
            for k in range(0, len(rows), step):
                found.parts += _nearest(task, inside, rows[k : k + step])
    return found


def shard_of(store: Store, file: File, deletions: tuple[Deletion, ...]) -> Shard:
    """A file as searches hold it; raises as ``Store.load`` does."""
    table = store.load(file, ("time_s", "embedding", *TEXT), deletions)
    column = table["embedding"]
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    # a copy: what Arrow reads into keeps a quarter more than it needs
    values = np.concatenate([np.empty((0, width), np.float32), *chunks])
    if column.type.value_type.bit_width < 32:  # half precision leaves no length at 1
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    values = unit(file.path, values) if len(values) else values
    names = table["camera"].combine_chunks().dictionary_encode()
    words = {name: table[name].combine_chunks() for name in TEXT}
    return Shard(
        values, table["time_s"].to_numpy(), tuple(names.dictionary.to_pylist()), names.indices.to_numpy(), words
    )


def _window(shard: Shard, low: float, high: float) -> tuple[int, int]:
    if low == -np.inf and high == np.inf:
        return 0, len(shard.time_s)
    known = len(shard.time_s) if not len(shard.time_s) or not np.isnan(shard.time_s[0]) else 0
    times = shard.time_s[:known]
    return int(np.searchsorted(times, low, "left")), int(np.searchsorted(times, high, "right"))


def _nearest(task: Task, inside: list[tuple[Shard, slice]], rows: list[int]) -> Iterator[dict[str, Any]]:
    """The nearest images of some queries with one window, as ``Found.parts`` has them.

    Float32 finds every image that may belong (``_closest``), float64 measures and orders those.
    """
    query, trips = task.query, task.trips
    columns = Stack(*(shard.embedding[part] for shard, part in inside))
    time_s = np.concatenate([shard.time_s[part] for shard, part in inside])
    distance, error, trip = _roughly(task, rows, inside, columns, time_s)
    for k, row in enumerate(rows):
        count = query.top
        while True:  # until there are enough beside the query's own image
            column = _closest(distance[k], error[k], count)
            words = _words(inside, columns.edges, column)
            names = np.array(words["path"], dtype=np.str_)
            free = ~_own_image(words, time_s[column], query, row)
            if free.sum() >= query.top or count >= len(columns):
                break
            count *= 2
        appearance = exact(Stack(query.embedding[[row]]), columns, np.zeros(len(column), dtype=np.int64), column)
        way = np.zeros(len(column)) if trip is None else trip[k, column].astype(np.float64)
        total = appearance + (0.0 if trips is None else trips.weight) * way
        best = np.lexsort((names, time_s[column], total))
        best = best[free[best]][: query.top]
        near = columns.take(column[best])
        near[task.joined :] = 0
        yield {
            "query": np.full(len(best), row),
            "distance": total[best],
            "appearance": appearance[best],
            "transit": way[best],
            "time_s": time_s[column[best]],
            "embedding": near,
            **{name: [words[name][one] for one in best.tolist()] for name in TEXT},
        }


def _own_image(words: dict[str, list[str]], time_s: np.ndarray, query: Query, row: int) -> np.ndarray:
    """Which images are the query's own: of its path, or the one of its camera, time and last part of the path."""
    path, paths = query.path[row], np.array(words["path"], dtype=np.str_)
    if not path:
        return np.zeros(len(paths), dtype=bool)
    alike = (np.array(words["camera"], dtype=np.str_) == query.camera[row]) & (time_s == query.time_s[row])
    for place in np.flatnonzero(alike):
        alike[place] = last_part(str(paths[place])) == last_part(path)
    own: np.ndarray = paths == path
    return own | alike if np.count_nonzero(alike) == 1 else own


def _roughly(
    task: Task, rows: list[int], inside: list[tuple[Shard, slice]], columns: Stack, time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Distances ``(R, N)`` in float32, bounds on their errors, and the transit distances among them."""
    query, trips = task.query, task.trips
    distance = np.empty((len(rows), len(columns)), dtype=np.float32)
    for part, start in zip(columns.parts, columns.edges.tolist(), strict=False):
        np.matmul(query.embedding[rows], part.T, out=distance[:, start : start + len(part)])
    distance *= -2
    distance += 2
    np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
    square = 2 * float32_error(columns.shape[1]) + ROUNDING
    error = np.float32(square) / np.maximum(distance, np.float32(np.sqrt(square)))
    error += np.float32(2 * ROUNDING)
    if trips is None:
        return distance, error, None
    law, camera = trips.model.law, trips.rows([query.camera[row] for row in rows])
    other = np.concatenate([trips.rows(shard.cameras)[shard.code[part]] for shard, part in inside])
    trip = law.distance(camera[:, None], other, time_s - query.time_s[rows, None])
    distance += np.float32(trips.weight) * trip
    error += np.float32(trips.weight * max(map(abs, law.bounds)) * ROUNDING)
    return distance, error, trip


def _closest(distance: np.ndarray, error: np.ndarray, count: int) -> np.ndarray:
    """Rising columns among which the ``count`` nearest and all that tie with the last of them are."""
    if count >= len(distance):
        return np.arange(len(distance))
    most = np.partition(distance + error, count - 1)[count - 1]
    return np.flatnonzero(distance - error <= most)


def _words(inside: list[tuple[Shard, slice]], edges: np.ndarray, column: np.ndarray) -> dict[str, list[Any]]:
    """What is said of rising columns, by name; few of many files, for which Arrow's own ``take`` is slow."""
    place = np.searchsorted(edges, column, "right") - 1
    row = column - edges[place] + np.array([part.start for _, part in inside])[place]
    both = list(zip(place.tolist(), row.tolist(), strict=True))
    return {name: [inside[one][0].words[name][k].as_py() for one, k in both] for name in TEXT}
