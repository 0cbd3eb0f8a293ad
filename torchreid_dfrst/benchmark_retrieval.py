"""Re-ranking, fusion and evaluation against torchreid's own and against the matrix product nobody can avoid."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torchreid

from torchreid_dfrst import spatiotemporal
from torchreid_dfrst.retrieval import Features, Parameters, Reranking, evaluate
from torchreid_dfrst.retrieval.products import rates
from torchreid_dfrst.retrieval.synthetic import features, ring
from torchreid_dfrst.sightings import Sightings

SCALES = {
    "tiny": (40, 260, 64, 20),
    "small": (300, 2700, 512, 60),
    "veri": (1678, 11579, 2048, 200),
    "vehicleid": (2400, 17638, 2048, 2400),
    "100k": (10000, 90000, 512, 5000),
    "msmt17": (9382, 84438, 2048, 3000),
    "veriwild": (10000, 138000, 2048, 10000),
}
"""Queries, gallery images, dimensions, vehicles."""
HELD = 20_000
"""Images up to which torchreid's six N x N matrices fit in 16 GB."""


def timed(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds on the wall and seconds of all processors together."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = job()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def theirs(query: Features, gallery: Features) -> np.ndarray:
    """What torchreid's engine does for ``rerank=True``."""
    q, g = torch.from_numpy(query.embedding), torch.from_numpy(gallery.embedding)
    far = [torchreid.metrics.compute_distance_matrix(a, b, "euclidean").numpy() for a, b in ((q, g), (q, q), (g, g))]
    return torchreid.utils.re_ranking(*far)


def ours(query: Features, gallery: Features, keep: bool, **options: Any) -> tuple[Reranking, Any]:
    """The job and its distances: a matrix, or the metrics of blocks that are never held together."""
    job = Reranking(query.embedding, gallery.embedding, Parameters(), keep=keep, **options)
    return job, job.matrix() if keep else evaluate(job.blocks(), *columns(query, gallery))


def columns(query: Features, gallery: Features) -> tuple[np.ndarray, ...]:
    """Identities and cameras as ``evaluate`` wants them."""
    q, g = query.sightings, gallery.sightings
    return q.identity, g.identity, q.camera, g.camera


def floor(rows: torch.Tensor) -> None:
    """All inner products by ``torch.mm``, nothing done with them."""
    out = torch.empty(2048, len(rows))
    for start in range(0, len(rows), 2048):
        part = rows[start : start + 2048]
        torch.mm(part, rows.t(), out=out[: len(part)])


def memory(send: Any, scale: str, seed: int, who: str) -> None:
    """In a fresh process: peak memory of one job over what imports and features take, in bytes."""
    query, gallery = features(*SCALES[scale], np.random.default_rng(seed))
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    base = status("VmRSS")
    theirs(query, gallery) if who == "torchreid" else ours(
        query, gallery, sum(SCALES[scale][:2]) <= HELD, precision=who
    )
    send.put(status("VmHWM") - base)


def status(name: str) -> int:
    """One line of the process's own record of memory, in bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def in_fresh_process(scale: str, seed: int, who: str) -> int:
    """``memory`` of one job.

    Raises:
        RuntimeError: the process died, of too little memory for instance.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=memory, args=(queue, scale, seed, who))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that measured the memory of {who} at {scale} ended with {process.exitcode}")
    return int(queue.get())


def measure(scale: str, rounds: int, seed: int, peers: bool, quiet: bool) -> dict[str, Any]:
    """All figures of one scale; every ratio is the median over rounds that run everything in turn."""
    query, gallery = features(*SCALES[scale], np.random.default_rng(seed))
    count, width = len(query) + len(gallery), query.embedding.shape[1]
    fits = peers and count <= HELD
    keep = count <= HELD
    every = Sightings.concatenate([query.sightings, gallery.sightings])
    train = features(1, 4000, 8, 200, np.random.default_rng(seed + 1))[1].sightings
    transit = spatiotemporal.build("lognormal").fit(train, ring()).transit(every, every)
    seen: dict[str, list[tuple[float, float]]] = {}
    found: dict[str, Any] = {"scale": scale, "queries": len(query), "gallery": len(gallery), "dimensions": width}
    last: dict[str, Any] = {}

    def run(name: str, job: Callable[[], Any]) -> Any:
        last[name], wall, cpu = timed(job)
        seen.setdefault(name, []).append((wall, cpu))
        if not quiet:
            print(f"{name:<12} {wall:9.3f} s  {cpu:9.3f} CPU s", flush=True)

    for _ in range(rounds):
        if count <= HELD or not peers:
            run("floor", lambda: floor(torch.from_numpy(np.concatenate([query.embedding, gallery.embedding]))))
        for precision in ("fp32", "bf16"):
            run(precision, partial(ours, query, gallery, keep, precision=precision))
            last[precision][0].seconds["whole"] = seen[precision][-1][0]
            for stage, value in last[precision][0].seconds.items():
                found.setdefault("stages", {}).setdefault(precision, {}).setdefault(stage, []).append(value)
        run("fused", lambda: ours(query, gallery, keep, precision="fp32", transit=transit, weight=0.2))
        if keep:
            run("evaluate", lambda: evaluate(last["fp32"][1], *columns(query, gallery)))
        if fits:
            run("torchreid", lambda: theirs(query, gallery))
            run("evaluate_rank", lambda: torchreid.metrics.evaluate_rank(last["fp32"][1], *columns(query, gallery)))
    return report(found, seen, last, scale, seed, fits)


def report(found: dict[str, Any], seen: dict[str, Any], last: dict[str, Any], scale: str, seed: int, fits: bool) -> Any:
    """The figures as medians and ratios."""

    def ratio(one: str, other: str, clock: int = 0) -> float | None:
        if one not in seen or other not in seen:
            return None
        return statistics.median(a[clock] / b[clock] for a, b in zip(seen[one], seen[other], strict=True))

    found["seconds"] = {name: statistics.median(wall for wall, _ in runs) for name, runs in seen.items()}
    found["cpu_seconds"] = {name: statistics.median(cpu for _, cpu in runs) for name, runs in seen.items()}
    found["stages"] = {p: {k: statistics.median(v) for k, v in s.items()} for p, s in found["stages"].items()}
    for clock, prefix in enumerate(("", "cpu_")):
        found[prefix + "rerank_speedup"] = ratio("torchreid", "fp32", clock)
        found[prefix + "bf16_rerank_speedup"] = ratio("torchreid", "bf16", clock)
        found[prefix + "evaluate_speedup"] = ratio("evaluate_rank", "evaluate", clock)
        found[prefix + "floor_ratio"] = ratio("fp32", "floor", clock)
        found[prefix + "bf16_floor_ratio"] = ratio("bf16", "floor", clock)
        found[prefix + "fused_over_appearance"] = ratio("fused", "fp32", clock)
    found["memory_bytes"] = {who: in_fresh_process(scale, seed, who) for who in ("fp32", "bf16")}
    if fits:
        found["memory_bytes"]["torchreid"] = in_fresh_process(scale, seed, "torchreid")
        found["rerank_memory_ratio"] = found["memory_bytes"]["fp32"] / found["memory_bytes"]["torchreid"]
        for precision, name in (("fp32", "rerank"), ("bf16", "bf16_rerank")):
            gap = np.abs(last[precision][1] - last["torchreid"])
            found[f"{name}_max_abs_diff"], found[f"{name}_beyond_1e-5"] = float(gap.max()), int((gap > 1e-5).sum())
        (cmc, mean), score = last["evaluate_rank"], last["evaluate"]
        found["evaluate_diff"] = max(abs(mean - score.mAP), float(np.abs(cmc - score.cmc).max()))
    for precision in ("fp32", "bf16"):
        near = last[precision][0].near
        found[f"{precision}_search"] = {
            "method": near.method, "fallbacks": near.fallbacks, "near_ties": len(near.near_ties),
            "near_ties_at_a_cut": len(last[precision][0].cuts),
        }  # fmt: skip
    found["giga_operations_per_second"] = rates(torch.get_num_threads())
    found["rounds"], found["threads"], found["load"] = len(seen["fp32"]), torch.get_num_threads(), os.getloadavg()
    return found
