"""Re-ranking, fusion and evaluation against torchreid's own and against the matrix product nobody can avoid.

python -m tools.studies.benchmarks.retrieval --scale veri --job rerank --json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torchreid
from tqdm import tqdm

from tools.studies.benchmarks import parts
from tools.studies.benchmarks.parts import OMEGA, Size, baseline, columns, paper_model, their_scores, theirs
from tools.studies.benchmarks.synthetic import features
from torchreid_dfrst.cli import command
from torchreid_dfrst.retrieval import Features, Parameters, Reranking, evaluate
from torchreid_dfrst.sightings import Sightings

SCALES: dict[str, Size] = {
    "tiny": (40, 260, 64, 20),
    "small": (300, 2700, 512, 60),
    "veri": (1678, 11579, 2048, 200),
    "vehicleid": (2400, 17638, 2048, 2400),
    "12k": (1250, 11250, 512, 625),
    "25k": (2500, 22500, 512, 1250),
    "50k": (5000, 45000, 512, 2500),
    "100k": (10000, 90000, 512, 5000),
    "msmt17": (9382, 84438, 2048, 3000),
    "veriwild": (10000, 138000, 2048, 10000),
}
"""Queries, gallery images, dimensions, vehicles."""
HELD = 21_000
"""Images up to which torchreid's six N x N matrices fit in 16 GB."""
FLOOR_ROWS = 8192
"""Rows of the floor that are measured where there are more than ``HELD`` images; the rest is extrapolated."""
COMPARED = ("rerank_speedup", "rerank_max_abs_diff", "rerank_memory_ratio", "evaluate_speedup")
JOBS = {
    "rerank": "re-ranking, evaluation and floor in turns; in blocks and fresh processes beyond 21,000 images",
    "streamed": "re-ranking in blocks and fresh processes, at any size",
    "cold": "the whole job with both mAPs in fresh processes",
    "transit": "fused distances of all pairs against NumPy's, and the bound against the block",
    "clustering": "the Jaccard distance of all rows",
    "shards": "memory of each of 1, 2 and 3 processes that search together, and bytes exchanged",
}
STREAMED = "distances in blocks: torchreid, with its six N x N matrices, is not run beside it and nothing compared"


def timed(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds on the wall and seconds of all processors together."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = job()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def ours(query: Features, gallery: Features, **options: Any) -> tuple[Reranking, np.ndarray]:
    """The job and its distances."""
    job = Reranking(query.embedding, gallery.embedding, Parameters(), keep=True, **options)
    return job, job.matrix()


def floor(query: Features, gallery: Features, most: int) -> float:
    """Seconds of all inner products by ``torch.mm``, nothing done with them; from the first ``most`` rows."""
    parts = [torch.from_numpy(part.embedding) for part in (query, gallery)]
    count, done, start = sum(map(len, parts)), 0, time.perf_counter()
    out = torch.empty(2048, max(map(len, parts)))
    for rows in parts:
        for begin in range(0, min(len(rows), most - done), 2048):
            block = rows[begin : min(begin + 2048, begin + most - done)]
            for other in parts:
                torch.mm(block, other.t(), out=out.view(-1)[: len(block) * len(other)].view(len(block), len(other)))
            done += len(block)
    return (time.perf_counter() - start) * count / done


def measure(scale: str, rounds: int, seed: int, peers: bool, quiet: bool) -> dict[str, Any]:
    """All figures of one scale that fits in memory; ratios are medians over rounds that run everything in turn."""
    query, gallery = features(*SCALES[scale], np.random.default_rng(seed))
    every = Sightings.concatenate([query.sightings, gallery.sightings])
    transit = paper_model(seed).transit(every, every)
    seen: dict[str, list[tuple[float, float]]] = {}
    found: dict[str, Any] = described(scale, seed) | {"baseline_mAP": baseline(query, gallery)}
    last: dict[str, Any] = {}

    def run(name: str, job: Callable[[], Any]) -> None:
        last[name], wall, cpu = timed(job)
        seen.setdefault(name, []).append((wall, cpu))
        if not quiet:
            print(f"{name:<12} {wall:9.3f} s  {cpu:9.3f} CPU s", flush=True)

    for _ in tqdm(range(rounds), desc=f"{scale}, rounds", disable=None):
        run("floor", partial(floor, query, gallery, len(every)))
        run("fp32", partial(ours, query, gallery))
        last["fp32"][0].seconds["whole"] = seen["fp32"][-1][0]
        for stage, value in last["fp32"][0].seconds.items():
            found.setdefault("stages", {}).setdefault(stage, []).append(value)
        run("fused", lambda: ours(query, gallery, transit=transit, weight=OMEGA))
        run("evaluate", lambda: evaluate(last["fp32"][1], *columns(query, gallery)))
        if peers:
            run("torchreid", lambda: theirs(query, gallery)[1])
            run("evaluate_rank", lambda: their_scores(last["fp32"][1], *columns(query, gallery)))
    names = ["fp32", *(["torchreid"] if peers else [])]
    alone = {who: parts.in_fresh_process(SCALES[scale], seed, who, keep=True) for who in names}
    return report(found | {"memory_bytes": {who: run["memory_bytes"] for who, run in alone.items()}}, seen, last, peers)


def measure_streamed(scale: str, rounds: int, seed: int) -> dict[str, Any]:
    """The job with distances in blocks that are never held together, each run in a fresh process, and the floor."""
    query, gallery = features(*SCALES[scale], np.random.default_rng(seed))
    found, count = described(scale, seed) | {"baseline_mAP": baseline(query, gallery)}, len(query) + len(gallery)
    most = count if count <= HELD else FLOOR_ROWS
    runs: dict[str, list[dict[str, Any]]] = {}
    with tqdm(total=3 * rounds, desc=f"{scale}, runs", disable=None) as bar:
        for _ in range(rounds):
            runs.setdefault("floor", []).append({"seconds": floor(query, gallery, most)})
            bar.update()
            for who in ("fp32", "fused"):
                once = parts.in_fresh_process(SCALES[scale], seed, who, False)
                runs.setdefault(who, []).append(once)
                bar.update()
    seconds = {who: [run["seconds"] for run in several] for who, several in runs.items()}
    found["streamed"] = {who: several[-1] for who, several in runs.items() if who != "floor"}
    found["seconds"] = parts.medians(seconds)
    found["memory_bytes"] = {who: max(run["memory_bytes"] for run in runs[who]) for who in found["streamed"]}
    found["floor_rows"], found["floor_is_extrapolated"] = most, most < count
    found["floor_ratio"] = parts.ratio(seconds, "fp32", "floor")
    found["fused_over_appearance"] = parts.ratio(seconds, "fused", "fp32")
    return found | dict.fromkeys(COMPARED) | {"note": STREAMED} | machine(rounds)


def measure_cold(scale: str, rounds: int, seed: int, peers: bool) -> dict[str, Any]:
    """Both mAPs in fresh processes, imports and features not counted: torchreid as pip installs it, and ours."""
    names = ["fp32", *(["torchreid"] if peers else [])]
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in names}
    for _ in tqdm(range(rounds), desc=f"{scale}, cold", disable=None):
        for who in names:
            runs[who].append(parts.in_fresh_process(SCALES[scale], seed, who, keep=True))
    seconds = {who: [run["seconds"] for run in several] for who, several in runs.items()}
    found = described(scale, seed) | {"cold_seconds": parts.medians(seconds)}
    found["cold_mAP"] = {who: several[-1]["mAP"] for who, several in runs.items()}
    if peers:
        found["cold_speedup"] = parts.ratio(seconds, "torchreid", "fp32")
    return found | machine(rounds)


def described(scale: str, seed: int) -> dict[str, Any]:
    """What was measured."""
    queries, gallery, width, vehicles = SCALES[scale]
    size = {"queries": queries, "gallery": gallery, "dimensions": width, "vehicles": vehicles}
    return {"scale": scale, **size, "images": queries + gallery, "seed": seed}


def machine(rounds: int) -> dict[str, Any]:
    """Where and how often."""
    with open("/proc/cpuinfo") as file:
        models = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
    versions = {"Python": platform.python_version()} | {m.__name__: m.__version__ for m in (np, torch, torchreid)}
    return {
        "rounds": rounds, "threads": torch.get_num_threads(), "load": os.getloadavg(), "processor": sorted(models),
        "versions": versions, "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def report(found: dict[str, Any], seen: dict[str, Any], last: dict[str, Any], fits: bool) -> dict[str, Any]:
    """The figures as medians and ratios."""

    def ratio(one: str, other: str, clock: int = 0) -> float | None:
        if one not in seen or other not in seen:
            return None
        return statistics.median(a[clock] / b[clock] for a, b in zip(seen[one], seen[other], strict=True))

    found["seconds"] = {name: statistics.median(wall for wall, _ in runs) for name, runs in seen.items()}
    found["cpu_seconds"] = {name: statistics.median(cpu for _, cpu in runs) for name, runs in seen.items()}
    found["stages"] = {k: statistics.median(v) for k, v in found["stages"].items()}
    for clock, prefix in enumerate(("", "cpu_")):
        found[prefix + "rerank_speedup"] = ratio("torchreid", "fp32", clock)
        found[prefix + "evaluate_speedup"] = ratio("evaluate_rank", "evaluate", clock)
        found[prefix + "floor_ratio"] = ratio("fp32", "floor", clock)
        found[prefix + "fused_over_appearance"] = ratio("fused", "fp32", clock)
    if fits:
        found["rerank_memory_ratio"] = found["memory_bytes"]["fp32"] / found["memory_bytes"]["torchreid"]
        gap = np.abs(last["fp32"][1] - last["torchreid"])
        found["rerank_max_abs_diff"], found["rerank_beyond_1e-5"] = float(gap.max()), int((gap > 1e-5).sum())
        (cmc, mean), score = last["evaluate_rank"], last["evaluate"]
        found["evaluate_diff"] = max(abs(mean - score.mAP), float(np.abs(cmc - score.cmc).max()))
    job, near = last["fp32"][0], last["fp32"][0].near
    found["search"] = {
        "method": near.method, "fallbacks": near.fallbacks, "near_ties": len(near.near_ties),
        "near_ties_at_a_cut": len(job.cuts),
    }  # fmt: skip
    return found | machine(len(seen["fp32"]))


@command
def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="veri")
    parser.add_argument(
        "--job", choices=JOBS, default="rerank", help="; ".join(f"{name}: {what}" for name, what in JOBS.items())
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything runs in turn")
    parser.add_argument("--seed", type=int, default=776)
    parser.add_argument("--without-torchreid", action="store_true", help="leave the slow peers out")
    parser.add_argument("--spcl", metavar="DIR", help="spcl/utils of a clone of SpCL, to measure --job clustering with")
    parser.add_argument(
        "--images", type=int, default=100_000, help="rows that 1,678 are searched among in --job shards"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    if given.rounds < 1:
        raise ValueError(f"--rounds is {given.rounds}: 1 or more")
    scale, rounds, seed, peers = given.scale, given.rounds, given.seed, not given.without_torchreid
    images = sum(SCALES[scale][:2])
    words = ["DIR" if word == given.spcl else word for word in sys.argv[1:]]
    command_line = " ".join(["python -m tools.studies.benchmarks.retrieval", *words])
    found: dict[str, Any] = described(scale, seed) | {"job": given.job, "command": command_line}
    if given.job == "streamed" or (given.job == "rerank" and images > HELD):
        found |= measure_streamed(scale, rounds, seed)
    elif given.job == "shards":
        found |= parts.shards_memory(SCALES["veri"][0], given.images, 512, seed) | machine(1)
    elif images > HELD:
        raise ValueError(f"--job {given.job} holds matrices of all {images} images of --scale {scale}: at most {HELD}")
    elif given.job == "rerank":
        found |= measure(scale, rounds, seed, peers, given.json)
    elif given.job == "cold":
        found |= measure_cold(scale, rounds, seed, peers)
    elif given.job == "transit":
        found |= parts.transit_speed(SCALES[scale], seed, rounds) | machine(rounds)
    else:
        found |= parts.clustering_speed(SCALES[scale], seed, rounds, given.spcl) | machine(rounds)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
