"""Our gallery beside other engines, in one run: the same images, windows and hits.

    python -m tools.studies.galleries --count 200000 --hours 4.8 --folder DIR [--engines lancedb qdrant duckdb]

Engines are asked for the nearest images of a window by appearance, as they know nothing of trips. Each is filled from
``gallery export``. Processor time is that of all threads of this process; the clock's says little where others work.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.gallery import Gallery
from torchreid_dfrst.retrieval import Features
from torchreid_dfrst.retrieval.distances import exact
from torchreid_dfrst.retrieval.embeddings import Stack
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import build

WIDTH, CAMERAS, TOP, BATCH, START = 512, 20, 50, 1000, 1_777_593_600.0
SOURCE = {"network": {"name": "drawn"}, "weights_sha256": "00" * 32, "input": [64, 64]}
Engine = Callable[[np.ndarray, float, float], list[str]]


def main() -> None:
    """Read the arguments, fill the gallery and the engines, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="images (%(default)s)")
    parser.add_argument("--hours", type=float, default=4.8, help="over which they are spread (%(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="where all of them are written; not there yet")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--memory-limit", type=int, help="bytes, of our gallery")
    args = parser.parse_args()
    gallery, added = filled(args.folder / "ours", args.count, args.hours)
    print(f"added {args.count:,} x {WIDTH} in batches of {BATCH}, synced: {json.dumps(added)}")
    before, gallery.memory_limit = _peak(), args.memory_limit
    rng = np.random.default_rng(1)
    end = START + 3600 * args.hours
    times = np.round(rng.uniform(START + 3600, end, args.queries), 2)
    queries = rng.standard_normal((args.queries, WIDTH), dtype=np.float32)

    def ours(fused: bool) -> Engine:
        def search(query: np.ndarray, low: float, high: float) -> list[str]:
            camera = ["gate 3"] if fused else None
            hits = gallery.search(query, camera, [high], before_s=high - low, top=TOP)
            return list(hits.columns["path"])

        return search

    report("ours, one hour, + space and time", ours(True), queries, times - 3600, times)
    right = report("ours, one hour", ours(False), queries, times - 3600, times)
    everything = np.full(args.queries, START), np.full(args.queries, end)
    report("ours, all, + space and time", ours(True), queries, *everything)
    grown, bytes_of = _peak() - before, 4 * WIDTH * args.count
    print(f"memory: {grown / 1e6:,.0f} MB more at its peak, {grown / bytes_of:.2f} x the embeddings")
    agree("float64", right, [definition(gallery, q, t - 3600, t) for q, t in zip(queries, times, strict=True)])
    for name in args.engines:
        try:
            before_s = time.process_time()
            exported = [file.removeprefix("file://") for file in gallery.export()]
            engine = ENGINES[name](exported, args.folder / name)
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        print(f"{name}: filled in {time.process_time() - before_s:.1f} s of processor time")
        agree(name, right, report(f"{name}, one hour", engine, queries, times - 3600, times))


def filled(address: Path, count: int, hours: float) -> tuple[Gallery, dict[str, float]]:
    """A gallery of noise that is spread evenly over some hours, and how fast it was added."""
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 3000, (CAMERAS, 2))
    names = np.array([f"gate {camera}" for camera in range(CAMERAS)])
    roads = CameraNetwork(np.arange(CAMERAS), np.linalg.norm(place[:, None] - place, axis=2), names)
    legs = np.cumsum(rng.uniform(60, 600, (300, 6)), axis=1) + rng.uniform(0, 1e5, (300, 1))
    way = np.stack([rng.permutation(CAMERAS)[:6] for _ in range(300)])
    train = Sightings(way.ravel(), legs.ravel().round(2), np.repeat(np.arange(300), 6))
    gallery = Gallery.create(address, SOURCE, WIDTH)
    times = START + np.sort(rng.uniform(0, 3600 * hours, count)).round(2)
    cost = np.zeros(2)
    for first in range(0, count, BATCH):
        rows = np.arange(first, min(first + BATCH, count))
        camera = rng.integers(0, CAMERAS, len(rows))
        path = np.array([f"crops/{row:08d}.jpg" for row in rows])
        seen = Sightings(camera, times[rows], path=path, camera_name=names[camera])
        features = Features(rng.standard_normal((len(rows), WIDTH), dtype=np.float32), seen)
        start = np.array([time.perf_counter(), time.process_time()])
        gallery.add(features, SOURCE)
        cost += np.array([time.perf_counter(), time.process_time()]) - start
    gallery.learn(build("likelihood").fit(train, roads), 0.2)
    return gallery, {"images a second": round(count / cost[0]), "a second of processor": round(count / cost[1])}


def report(name: str, engine: Engine, queries: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[list[str]]:
    """Hits of all queries; prints median and 99th percentile of a warm engine."""
    cost, hits = [], []
    for warm in (False, True):
        for query, first, last in zip(queries, low.tolist(), high.tolist(), strict=True):
            start = time.process_time(), time.perf_counter()
            found = engine(query, first, last)
            if warm:
                cost.append((time.process_time() - start[0], time.perf_counter() - start[1]))
                hits.append(found)
    (cpu, cpu_99), (clock, clock_99) = (np.quantile(column, [0.5, 0.99]) * 1e3 for column in np.array(cost).T)
    print(
        f"{name:36} processor {cpu:7.1f} ms, 99 % {cpu_99:7.1f}; clock {clock:7.1f}, 99 % {clock_99:7.1f}", flush=True
    )
    return hits


def definition(gallery: Gallery, query: np.ndarray, low: float, high: float) -> list[str]:
    """The hits by float64 distances to every image of a window."""
    distance, path = [], []
    for file in gallery.content.files:
        if file.meets(low, high):
            table = gallery.store.load(file, ("path", "time_s", "embedding"))
            inside = np.flatnonzero((table["time_s"].to_numpy() >= low) & (table["time_s"].to_numpy() <= high))
            rows = np.stack(table["embedding"].to_numpy())[inside]
            asked = (query / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
            distance.append(exact(Stack(asked[None]), Stack(rows), np.zeros(len(rows), int), np.arange(len(rows))))
            path += table["path"].take(inside).to_pylist()
    return [path[k] for k in np.argsort(np.concatenate(distance), kind="stable")[:TOP]]


def agree(name: str, right: list[list[str]], found: list[list[str]]) -> None:
    """Print how many lists are the same."""
    same = sum(one == other for one, other in zip(right, found, strict=True))
    sets = sum(set(one) == set(other) for one, other in zip(right, found, strict=True))
    print(f"{name}: {same} of {len(right)} lists are ours to the last place, {sets} hold the same images")


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _tables(files: list[str]) -> Iterator[Any]:
    import pyarrow.parquet

    for file in files:
        yield pyarrow.parquet.read_table(file, partitioning=None)


def lance(files: list[str], folder: Path) -> Engine:
    """LanceDB without an index of vectors, which would be approximate."""
    import lancedb
    import pyarrow.dataset
    from lancedb.index import BTree

    source = pyarrow.dataset.dataset(files)
    table = lancedb.connect(folder).create_table("crops", source.to_batches(), schema=source.schema)
    table.create_index("time_s", config=BTree())

    def search(query: np.ndarray, low: float, high: float) -> list[str]:
        asked = table.search(query, vector_column_name="embedding").distance_type("cosine")
        within = asked.where(f"time_s >= {low!r} AND time_s <= {high!r}", prefilter=True)
        return list(within.select(["path", "_distance"]).limit(TOP).to_arrow()["path"].to_pylist())

    return search


def duck(files: list[str], folder: Path) -> Engine:
    """DuckDB on a table of its own, sorted by time."""
    import duckdb

    folder.mkdir(parents=True)
    base = duckdb.connect(str(folder / "crops.duckdb"))
    columns = f"path, time_s, embedding::FLOAT[{WIDTH}] AS embedding"
    base.execute(f"CREATE TABLE crops AS SELECT {columns} FROM read_parquet($1) ORDER BY time_s", [files])

    def search(query: np.ndarray, low: float, high: float) -> list[str]:
        words = f"array_cosine_distance(embedding, $1::FLOAT[{WIDTH}])"
        text = f"SELECT path FROM crops WHERE time_s BETWEEN $2 AND $3 ORDER BY {words} LIMIT {TOP}"
        return [row[0] for row in base.execute(text, [query.tolist(), low, high]).fetchall()]

    return search


def qdrant(files: list[str], folder: Path) -> Engine:
    """Qdrant Edge with an index of times and without one of vectors, which would be approximate."""
    import qdrant_edge as edge

    folder.mkdir(parents=True)
    vectors = edge.EdgeVectorParams(size=WIDTH, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors))
    number = 0
    for table in _tables(files):
        rows = zip(*(table[name].to_pylist() for name in ("embedding", "path", "time_s")), strict=True)
        points = [
            edge.Point(id=number + k, vector=row, payload={"path": path, "time_s": time_s})
            for k, (row, path, time_s) in enumerate(rows)
        ]
        number += len(points)
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.update(edge.UpdateOperation.create_field_index("time_s", edge.PayloadSchemaType.Float))
    exact_only = edge.SearchParams(exact=True)

    def search(query: np.ndarray, low: float, high: float) -> list[str]:
        window = edge.Filter(must=[edge.FieldCondition(key="time_s", range=edge.RangeFloat(gte=low, lte=high))])
        asked = edge.Query.Nearest(query.tolist())
        request = edge.QueryRequest(limit=TOP, query=asked, filter=window, params=exact_only, with_payload=True)
        return [point.payload["path"] for point in shard.query(request)]

    return search


ENGINES: dict[str, Callable[[list[str], Path], Engine]] = {"lancedb": lance, "qdrant": qdrant, "duckdb": duck}

if __name__ == "__main__":
    main()
