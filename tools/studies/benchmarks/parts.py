"""Single jobs of retrieval, each beside what one would otherwise run: cold process, transit distances, clustering."""

from __future__ import annotations

import gc
import hashlib
import importlib
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchreid

from tools.studies.benchmarks.synthetic import features, ring
from tools.studies.benchmarks.training import take_turns
from torchreid_dfrst import processes
from torchreid_dfrst.retrieval import (
    Features,
    Parameters,
    Reranking,
    distance,
    evaluate,
    jaccard_distance,
    rerank,
    shards,
)
from torchreid_dfrst.retrieval.embeddings import Stack, consecutive
from torchreid_dfrst.retrieval.search import search
from torchreid_dfrst.retrieval.tiles import give_back
from torchreid_dfrst.retrieval.transit import Fusion, transits
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal

OMEGA = 0.2
Size = tuple[int, int, int, int]
"""Queries, gallery images, dimensions, vehicles."""


def columns(query: Features, gallery: Features) -> tuple[np.ndarray, ...]:
    """Identities and cameras as ``evaluate`` wants them."""
    q, g = query.sightings, gallery.sightings
    return q.identity, g.identity, q.camera, g.camera


def paper_model(seed: int) -> LogNormal:
    """The paper's space-time model, fitted on 4,000 simulated sightings of other vehicles."""
    train = features(1, 4000, 8, 200, np.random.default_rng(seed + 1))[1].sightings
    return LogNormal().fit(train, ring())


def status(name: str) -> int:
    """One line of the process's own record of memory, in bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def theirs(query: Features, gallery: Features) -> tuple[np.ndarray, np.ndarray]:
    """What torchreid's engine does for ``rerank=True``: distances, and the re-ranked ones."""
    q, g = torch.from_numpy(query.embedding), torch.from_numpy(gallery.embedding)
    far = [torchreid.metrics.compute_distance_matrix(a, b, "euclidean").numpy() for a, b in ((q, g), (q, q), (g, g))]
    return far[0], torchreid.utils.re_ranking(*far)


def their_scores(distance: np.ndarray, *labels: np.ndarray) -> tuple[np.ndarray, float]:
    """CMC and mAP by torchreid's Python path, which is what pip installs, though somebody built its Cython."""
    cmc, mean = torchreid.metrics.evaluate_rank(distance, *labels, use_cython=False)
    return cmc, float(mean)


def baseline(query: Features, gallery: Features) -> float:
    """Score of appearance alone, the mAP, from blocks."""
    blocks = (distance(query.embedding[part], gallery.embedding) for part in consecutive(0, len(query), 256))
    return float(evaluate(blocks, *columns(query, gallery)).mAP)


def watched(blocks: Iterator[np.ndarray], seconds: list[float]) -> Iterator[np.ndarray]:
    """The blocks, with the seconds it took to make each."""
    start = time.perf_counter()
    for block in blocks:
        seconds.append(time.perf_counter() - start)
        yield block
        del block  # or there would be two while the next one is made
        start = time.perf_counter()


def cold(size: Size, seed: int, who: str, keep: bool) -> dict[str, Any]:
    """The whole job in this process, imports and features not counted: seconds, peak memory over both, and mAPs.

    Args:
        size: of the simulated features.
        seed: of the simulated features.
        who: ``"torchreid"``, ``"fp32"`` or ``"fused"`` (fp32 with the paper's space-time model).
        keep: matrices of queries and gallery are held and both mAPs computed; else blocks, and the re-ranked mAP only.
    """
    query, gallery = features(*size, np.random.default_rng(seed))
    options: dict[str, Any] = {}
    if who == "fused":
        every = Sightings.concatenate([query.sightings, gallery.sightings])
        options = dict(transit=paper_model(seed).transit(every, every), weight=OMEGA)
    labels = columns(query, gallery)
    gc.collect()
    give_back(0)  # pages that were freed already would be used again and count for nobody
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    base, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    found: dict[str, Any] = {}
    if who == "torchreid":
        first, again = theirs(query, gallery)
        found["mAP"] = [float(their_scores(d, *labels)[1]) for d in (first, again)]
    elif keep:
        found["mAP"] = [evaluate(distance(query.embedding, gallery.embedding), *labels).mAP]
        found["mAP"].append(evaluate(rerank(query.embedding, gallery.embedding, **options), *labels).mAP)
    else:
        job = Reranking(query.embedding, gallery.embedding, Parameters(), **options)
        made: list[float] = []
        found["mAP"] = [evaluate(watched(job.blocks(), made), *labels).mAP]
        near = job.near
        found |= {"stages": job.seconds | {"distances": sum(made)}, "method": near.method, "fallbacks": near.fallbacks}
        found |= {"near_ties": len(near.near_ties), "near_ties_at_a_cut": len(job.cuts)}
    found["seconds"], found["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu
    return found | {"memory_bytes": status("VmHWM") - base}


def _send(pipe: Any, job: Callable[[], Any]) -> None:
    pipe.put(job())


def in_fresh_process(size: Size, seed: int, who: str, keep: bool) -> dict[str, Any]:
    """``cold`` in a process of its own.

    Raises:
        RuntimeError: the process died, of too little memory for instance.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_send, args=(queue, partial(cold, size, seed, who, keep)))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that measured {who} at {size} ended with {process.exitcode}")
    return dict(queue.get())


def medians(runs: dict[str, list[float]]) -> dict[str, float]:
    """Median of each contestant's seconds."""
    return {name: statistics.median(seconds) for name, seconds in runs.items()}


def ratio(runs: dict[str, list[float]], one: str, other: str) -> float:
    """Median over rounds of one contestant's seconds over another's."""
    return statistics.median(a / b for a, b in zip(runs[one], runs[other], strict=True))


def naive(
    model: LogNormal, query: Sightings, gallery: Sightings, appearance: np.ndarray, dtype: type = np.float32
) -> np.ndarray:
    """Eq. 4 to 6 for all pairs at once as one would write them first; Ds is looked up by camera pair.

    Times are float64, so without a word about types all of it is; ``np.float32`` is the harder opponent.
    """
    network = ring()
    metres = np.maximum(network.distance_m, model.floor_m)
    by_camera: np.ndarray = logistic(metres, model.mu_s, model.sigma_s, model.slope_s, model.offset_s).astype(dtype)
    space = by_camera[network.rows(query.camera)[:, None], network.rows(gallery.camera)]
    gap = np.maximum(np.abs(query.time_s[:, None] - gallery.time_s).astype(dtype, copy=False), dtype(model.floor_s))
    later = logistic(gap, model.mu_t, model.sigma_t, model.slope_t, model.offset_t)
    return np.asarray(appearance + dtype(OMEGA) * (space + later))


def logistic(value: np.ndarray, mu: float, sigma: float, slope: float, offset: float) -> np.ndarray:
    """The logistic function of the log-normal density over its mode."""
    density = np.exp(-((np.log(value) - mu + sigma**2) ** 2) / (2 * sigma**2))
    return 1 / (1 + np.exp(slope * (density - offset)))


def fused_tiles(model: LogNormal, left: Sightings, right: Sightings, product: np.ndarray) -> None:
    """Fused distances of all pairs as a search makes them, from the products too, in one tile used again and again.

    What it holds (from the second round on, the distances of the one before) does not change the time.
    """
    fusion = Fusion(model.transit(left, right), OMEGA)
    for rows in consecutive(0, len(left), 1024):
        for part in consecutive(0, len(right), 4096):
            tile = product[: rows.stop - rows.start, : part.stop - part.start]
            fusion.scores(torch.from_numpy(tile), rows, part)


def transit_speed(size: Size, seed: int, rounds: int) -> dict[str, Any]:
    """Fused distances of all pairs against NumPy's, queries by gallery and all by all; the bound against the block."""
    query, gallery = features(*size, np.random.default_rng(seed))
    model = paper_model(seed)
    found: dict[str, Any] = {}
    every = Sightings.concatenate([query.sightings, gallery.sightings])
    for name, left, right in (("qg", query.sightings, gallery.sightings), ("nn", every, every)):
        appearance = np.random.default_rng(seed).uniform(0.5, 1.5, (len(left), len(right))).astype(np.float32)
        tile = np.full((1024, 4096), 0.5, dtype=np.float32)
        part = left[:64]
        slow = naive(model, part, right, appearance[:64])
        fast = appearance[:64] + np.float32(OMEGA) * model.transit(part, right).block(
            slice(0, 64), slice(0, len(right))
        )
        jobs: dict[str, Callable[[], object]] = {
            "naive": partial(naive, model, left, right, appearance),
            "naive_float64": partial(naive, model, left, right, appearance, np.float64),
            "ours": partial(fused_tiles, model, left, right, tile),
        }
        runs = take_turns(jobs, rounds)
        found[f"transit_{name}_seconds"] = medians(runs)
        found[f"transit_{name}_speedup"] = ratio(runs, "naive", "ours")
        found[f"transit_{name}_speedup_float64"] = ratio(runs, "naive_float64", "ours")
        found[f"transit_{name}_max_abs_diff"] = float(np.abs(slow - fast).max())
    return found | bound_speed(query, gallery, Fusion(model.transit(every, every), OMEGA), rounds)


def bound_speed(query: Features, gallery: Features, fusion: Fusion, rounds: int, count: int = 21) -> dict[str, Any]:
    """Two ways to the fused neighbours of 1,024 images: every pair in the block, or only pairs that a bound leaves.

    The bound is given the final k-th and largest distances, which no search knows beforehand.
    """
    x = np.concatenate([query.embedding, gallery.embedding])
    rows, every = slice(0, min(1024, len(x))), slice(0, len(x))
    product = x[rows] @ x.T
    score = fusion.scores(torch.from_numpy(product.copy()), rows, every).numpy()
    kth = -np.partition(score, -count, axis=1)[:, -count]
    # Da <= D_k - omega low can be near, Da >= max D - omega high can be the farthest
    near = 1 - np.maximum(kth - fusion.weight * fusion.transit.low, 0) ** 2 / 2
    far = 1 - np.maximum(-score.min(axis=1) - fusion.high, 0) ** 2 / 2
    appearance = np.sqrt(np.maximum(2 - 2 * product, 0))
    loose = np.partition(appearance, count - 1, axis=1)[:, count - 1] + fusion.high

    def bound() -> np.ndarray:
        row, column = np.nonzero((product >= near[:, None]) | (product <= far[:, None]))
        value = np.sqrt(np.maximum(2 - 2 * product[row, column], 0))
        return value + np.float32(fusion.weight) * transits(fusion.transit, row, column)

    runs = take_turns(
        {"block": lambda: fusion.scores(torch.from_numpy(product.copy()), rows, every), "bound": bound}, rounds
    )
    return {
        "bound_share_of_pairs": len(bound()) / product.size,
        "bound_share_of_pairs_da_k": float((appearance <= loose[:, None]).mean()),
        "bound_seconds": medians(runs),
        "bound_over_block": ratio(runs, "bound", "block"),
    }


def clustering_speed(size: Size, seed: int, rounds: int, spcl: str | None) -> dict[str, Any]:
    """The clustering form of all images by all, beside SpCL's own code if there is a copy of it."""
    parts = features(*size, np.random.default_rng(seed))
    x = np.concatenate([part.embedding for part in parts])
    jobs: dict[str, Callable[[], Any]] = {"ours": partial(jaccard_distance, x)}
    if spcl is not None:
        peer = load_spcl(Path(spcl))
        jobs["spcl"] = lambda: peer.compute_jaccard_distance(torch.from_numpy(x), print_flag=False, search_option=3)
    runs = take_turns(jobs, rounds)
    found: dict[str, Any] = {"clustering_seconds": medians(runs)}
    if spcl is not None:
        gap = np.abs(jobs["ours"]() - jobs["spcl"]())
        found["clustering_speedup"] = ratio(runs, "spcl", "ours")
        found["clustering_max_abs_diff"], found["clustering_beyond_1e-5"] = float(gap.max()), int((gap > 1e-5).sum())
    return found


def load_spcl(folder: Path) -> ModuleType:
    """``faiss_rerank.py`` of a clone of SpCL (its folder ``spcl/utils``), run beside ours and no part of it.

    Raises:
        FileNotFoundError: the folder does not hold it.
    """
    if not (folder / "faiss_rerank.py").is_file():
        raise FileNotFoundError(f"no faiss_rerank.py in {folder}: give spcl/utils of a clone of github.com/yxgeee/SpCL")
    package = ModuleType("spcl_utils")
    package.__path__ = [str(folder)]
    sys.modules["spcl_utils"] = package
    return importlib.import_module("spcl_utils.faiss_rerank")


def shards_memory(queries: int, gallery: int, width: int, seed: int, most: int = 3) -> dict[str, Any]:
    """Peak memory over imports of each process, bytes exchanged and seconds of one search by 1 to ``most`` processes.

    Embeddings are random, for the search does the same work on any. Lists of all numbers of processes are compared.
    """
    context, found, size = multiprocessing.get_context("forkserver"), {}, (queries, gallery, width)
    context.set_forkserver_preload([__name__])
    for count in range(1, most + 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        queue = context.SimpleQueue()
        started = [context.Process(target=_shard, args=(queue, size, seed, rank, count, port)) for rank in range(count)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise RuntimeError(f"{count} processes ended with {[process.exitcode for process in started]}")
        found[count] = dict(sorted(queue.get() for _ in started))
    lists = {ranks[0].pop("lists") for ranks in found.values()}
    if len(lists) > 1:
        raise RuntimeError("the number of processes changes the lists")
    named = {"queries": queries, "gallery": gallery, "dimensions": width, "images": queries + gallery, "vehicles": None}
    return named | {"scale": f"{queries}x{gallery}x{width}", "shards": found}


def _shard(queue: Any, size: tuple[int, ...], seed: int, rank: int, count: int, port: int) -> None:
    """One of some processes of a search: puts its rank and what it took."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    group, exchanged, send, received = processes.start(), [0], shards.send, shards.received

    def counted_send(array: np.ndarray, to: int) -> None:
        exchanged[0] += array.nbytes
        send(array, to)

    def counted_received(shape: tuple[int, ...], dtype: Any, sender: int) -> np.ndarray:
        array = received(shape, dtype, sender)
        exchanged[0] += array.nbytes
        return array

    shards.send, shards.received = counted_send, counted_received
    base, start, told = status("VmRSS"), time.perf_counter(), {}
    if group.main:
        generator, (queries, gallery, width) = np.random.default_rng(seed), size
        rows = generator.standard_normal((queries + gallery, width), dtype=np.float32)
        for part in consecutive(0, len(rows), 4096):
            rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
        start = time.perf_counter()
        near = search(
            Stack(rows[:queries]), Stack(rows[queries:]), 21, device="cpu", group=group if count > 1 else None
        )
        told["lists"] = hashlib.sha256(near.index.tobytes()).hexdigest()
    elif not shards.follow(group):
        raise RuntimeError("there was no search")
    told |= {"seconds": time.perf_counter() - start, "exchanged_bytes": exchanged[0]}
    queue.put((rank, told | {"memory_bytes": status("VmHWM") - base}))
    processes.stop()
