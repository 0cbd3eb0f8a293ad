"""What other busy processes cost: re-ranking and a training step alone, beside one and beside two of them.

    python -m tools.studies.load --out load.json

starts and stops the busy processes itself and prints one table of seconds (medians). Each way to compute runs in fresh
processes, for OpenMP reads its variables when torch is loaded; ways take turns under each load.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LOADS = (0, 1, 2)
WAYS = {
    "default": {},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "ours": None,
}
JOBS = {"evaluate": "re-ranking, 13,257 x 512", "train": "training step, dfrst_resnet18, 128 px, batch 16"}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
BUSY = "while True: pass"


def main() -> None:
    """Run all ways under all loads, write what was found after each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["default", "PASSIVE", "one thread", "ours"])
    parser.add_argument("--turns", type=int, default=1, help="fresh processes of each way under each load")
    parser.add_argument("--repeats", type=int, default=3, help="runs in each process after the first")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.jobs:
        print(json.dumps({job: measured(job, args.repeats) for job in args.jobs}))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for load in LOADS:
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
        try:
            time.sleep(0.5 if load else 0)
            for _ in range(args.turns):
                for way in args.ways:
                    for job, seconds in in_processes(way, args.repeats).items():
                        found.setdefault(job, {}).setdefault(f"{way} beside {load}", []).extend(seconds)
                    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(table(found, args.ways))


def in_processes(way: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each job, in a fresh process; in one for jobs that have the same environment."""
    from torchreid_dfrst.cli.threads import chosen, watched

    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    variables, machine, found = WAYS[way], watched(), {}
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for job in JOBS:
        own = chosen(job, environment, *machine) if variables is None else variables
        together.setdefault(tuple(own.items()), []).append(job)
    for own_variables, jobs in together.items():
        words = [sys.executable, "-m", "tools.studies.load", "--repeats", str(repeats), "--out", os.devnull]
        done = subprocess.run(
            [*words, "--jobs", *jobs],
            env={**environment, **dict(own_variables)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def measured(job: str, repeats: int) -> list[float]:
    """Seconds of each run in this process; the first, which starts threads and fills caches, is left out."""
    run = {"evaluate": reranking, "train": training}[job]()
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def reranking():
    """Features of VeRi's number at 512 dimensions to re-ranked distances."""
    import numpy as np

    from torchreid_dfrst.retrieval import normalise, rerank

    generator = np.random.default_rng(0)
    centre = generator.normal(size=(776, 512))
    rows = centre[generator.integers(776, size=13_257)] + 1.5 * generator.normal(size=(13_257, 512))
    embedding = normalise(rows.astype(np.float32))
    return lambda: rerank(embedding[:1678], embedding[1678:], device="cpu")


def training():
    """A step on images that are already there."""
    import torch

    from torchreid_dfrst.losses import DFRSTLoss
    from torchreid_dfrst.models import build
    from torchreid_dfrst.training.step import TrainStep

    torch.manual_seed(0)
    model = build("dfrst_resnet18", 576, loss="triplet", pretrained=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    step = TrainStep(model, optimizer, DFRSTLoss(), torch.device("cpu"), "fp32")
    images, labels = torch.randn(16, 3, 128, 128), torch.arange(4).repeat_interleave(4)
    return lambda: step(images, labels)


def table(found: dict[str, dict[str, list[float]]], ways: list[str]) -> str:
    """A Markdown table: a row a job and load, a column a way, and ours over one thread."""
    lines = ["| seconds | " + " | ".join(ways) + " |", "| --- " * (len(ways) + 1) + "|"]
    for job, name in JOBS.items():
        for load, beside in zip(LOADS, ("alone", "beside one busy process", "beside two"), strict=True):
            cells = [f"{statistics.median(found[job][f'{way} beside {load}']):.2f}" for way in ways]
            lines.append(f"| {name}, {beside} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
