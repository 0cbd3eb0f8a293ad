"""What other busy processes cost: re-ranking and a training step alone, beside one and beside two of them.

    python -m tools.studies.load --out load.json --minutes 6 --jobs evaluate --ways "one thread" ours --other OLD

starts and stops the busy processes itself and prints one table of seconds (medians). Each measurement is a fresh
process, for OpenMP reads its variables when torch is loaded; a turn is every way under every load. ``--other`` names a
checkout of another version, which takes part in the turns with its own choice of threads. Run it where nothing else is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parents[2]
LOADS = {0: "alone", 1: "beside one busy process", 2: "beside two"}
WAYS = {
    "default": {},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "all threads, PASSIVE": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "PASSIVE"},
    "ours": None,
}
"""Variables of OpenMP; None: what ``dfrst`` chooses for the job under the load."""
OTHER = "ours, other version"
JOBS = {"evaluate": "re-ranking, 13,257 x 512", "train": "training step, dfrst_resnet18, 128 px, batch 16"}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
BUSY = "while True: pass"
CHOOSE = "import inspect, json, os, sys; from torchreid_dfrst.cli.threads import chosen, watched; "
CHOOSE += "job = sys.argv[1:] if 'job' in inspect.signature(chosen).parameters else []; "  # of another version
CHOOSE += "print(json.dumps(chosen(*job, os.environ, *watched())))"
SMALL = {"images": 200, "queries": 20, "width": 16, "pixels": 64, "batch": 4}
FULL = {"images": 13_257, "queries": 1_678, "width": 512, "pixels": 128, "batch": 16}
Found = dict[str, dict[str, dict[str, list[float]]]]
"""Seconds by job, way and load."""


def main() -> None:
    """Take turns until the time is up, write what was found after each measurement, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["default", "PASSIVE", "one thread", "ours"])
    parser.add_argument("--other", type=Path, help="a checkout of another version, measured beside this one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="runs in each process after the first")
    parser.add_argument("--minutes", type=float, default=60, help="no measurement begins after that")
    parser.add_argument("--tiny", action="store_true", help="sizes that measure nothing, to see that it works")
    args = parser.parse_args()
    end, found = time.monotonic() + 60 * args.minutes, {job: {} for job in args.jobs}
    for way, load, job in turns(args):
        if time.monotonic() > end:
            print(f"the {args.minutes:g} minutes were up")
            break
        with beside(load):
            seconds = in_process(args, way, job)
        found[job].setdefault(way, {}).setdefault(LOADS[load], []).extend(seconds)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def turns(args: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    """Way, load and job of every measurement, in order."""
    ways = [*args.ways, *([OTHER] if args.other else [])]
    for _ in range(args.turns):
        for load in LOADS:
            for job in args.jobs:
                for way in ways:
                    yield way, load, job


@contextmanager
def beside(load: int) -> Iterator[None]:
    """So many busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
    try:
        time.sleep(0.5 if load else 0)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def in_process(args: argparse.Namespace, way: str, job: str) -> list[float]:
    """Seconds of each run of a job, in a fresh process; the first run, which fills caches, is left out."""
    folder = args.other.resolve() if way == OTHER else HERE
    given = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    given["PYTHONPATH"] = str(folder)
    if (variables := WAYS.get(way)) is None:
        variables = json.loads(said([sys.executable, "-c", CHOOSE, job], given))
    sizes = SMALL if args.tiny else FULL
    call = f"import runpy, sys; m = runpy.run_path({str(Path(__file__).resolve())!r}); "
    call += f"m['measure']({job!r}, {args.repeats}, {sizes!r})"
    return json.loads(said([sys.executable, "-c", call], given | variables))


def said(words: list[str], environment: dict[str, str]) -> str:
    """The last line that a process prints."""
    done = subprocess.run(words, env=environment, cwd="/", stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def measure(job: str, repeats: int, sizes: dict[str, int]) -> None:
    """Print the seconds of each run in this process but the first."""
    run = {"evaluate": reranking, "train": training}[job](sizes)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))


def reranking(sizes: dict[str, int]):
    """Features of VeRi's number at 512 dimensions to re-ranked distances."""
    import numpy as np

    from torchreid_dfrst.retrieval import normalise, rerank

    generator = np.random.default_rng(0)
    images, queries, width = sizes["images"], sizes["queries"], sizes["width"]
    centre = generator.normal(size=(776, width))
    rows = centre[generator.integers(776, size=images)] + 1.5 * generator.normal(size=(images, width))
    embedding = normalise(rows.astype(np.float32))
    return lambda: rerank(embedding[:queries], embedding[queries:], device="cpu")


def training(sizes: dict[str, int]):
    """A step on images that are already there."""
    import torch

    from torchreid_dfrst.losses import DFRSTLoss
    from torchreid_dfrst.models import build
    from torchreid_dfrst.training.step import TrainStep

    torch.manual_seed(0)
    model = build("dfrst_resnet18", 576, loss="triplet", pretrained=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    step = TrainStep(model, optimizer, DFRSTLoss(), torch.device("cpu"), "fp32")
    images = torch.randn(sizes["batch"], 3, sizes["pixels"], sizes["pixels"])
    labels = torch.arange(sizes["batch"] // 4).repeat_interleave(4)
    return lambda: step(images, labels)


def table(found: Found) -> str:
    """A Markdown table of medians: a row a job and load, a column a way, and in brackets its share of one thread."""
    ways = list(dict.fromkeys(way for job in found.values() for way in job))
    lines = [f"| seconds (over one thread) | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    for job, cells in found.items():
        for load in LOADS.values():
            taken = {way: statistics.median(cells[way][load]) for way in ways if cells.get(way, {}).get(load)}
            one = taken.get("one thread", float("nan"))
            shown = [f"{taken[way]:.2f} ({taken[way] / one:.2f})" if way in taken else "" for way in ways]
            lines.append(f"| {JOBS[job]}, {load} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
