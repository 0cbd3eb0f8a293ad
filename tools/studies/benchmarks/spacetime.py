"""What transit distances cost: against Eq. 4 and 5 written down in NumPy, and against one matrix product.

python -m tools.studies.benchmarks.spacetime --root VERI --rounds 7
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.studies.benchmarks.training import CLOCKS, take_turns
from torchreid_dfrst.cli import command
from torchreid_dfrst.data.veri776 import read_veri
from torchreid_dfrst.retrieval.tiles import give_back
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import MODELS, build
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal

DIMENSIONS, ROWS, HOURS = 2048, 256, 24


def naive(model: LogNormal, query: Sightings, gallery: Sightings, network: CameraNetwork) -> np.ndarray:
    """Eq. 4 and 5 as printed, all pairs at once in float32: what one would write first."""
    metres = network.distance_m[network.rows(query.camera)[:, None], network.rows(gallery.camera)].astype(np.float32)
    gaps = np.abs(query.time_s[:, None] - gallery.time_s).astype(np.float32)
    total = np.zeros_like(gaps)
    for values, floor, mu, sigma, slope, offset in (
        (metres, model.floor_m, model.mu_s, model.sigma_s, model.slope_s, model.offset_s),
        (gaps, model.floor_s, model.mu_t, model.sigma_t, model.slope_t, model.offset_t),
    ):
        p = np.exp(-((np.log(np.maximum(values, floor)) - mu + sigma**2) ** 2) / (2 * sigma**2))
        total += 1 / (1 + np.exp(slope * (p - offset)))
    return total


def stream(model: LogNormal, network: CameraNetwork, queries: int, images: int, seed: int) -> dict[str, Any]:
    """All distances of drawn lists, ``ROWS`` queries at a time, and what that takes in memory over the lists."""
    generator = np.random.default_rng(seed)

    def drawn(count: int) -> Sightings:
        time_s = generator.integers(HOURS * 36000, size=count) / 10
        return Sightings(generator.choice(network.cameras, count), time_s, np.zeros(count, dtype=np.int64))

    query, gallery = drawn(queries), drawn(images)
    gc.collect()
    give_back(0)  # pages that were freed already would be used again and count for nobody
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    base, start = _status("VmRSS"), time.perf_counter()
    transit, smallest = model.transit(query, gallery), np.inf
    for row in range(0, queries, ROWS):
        smallest = min(smallest, float(transit.block(slice(row, row + ROWS), slice(None)).min()))
    seconds, peak = time.perf_counter() - start, _status("VmHWM") - base
    size = {"matrix_mb": round(4 * queries * images / 1e6), "peak_mb": round(peak / 1e6, 1)}
    return {"queries": queries, "images": images, **size, "seconds": round(seconds, 2), "smallest": smallest}


@command
def main() -> None:
    """Fit, measure in turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True, help="folder in VeRi-776's format; the lists are enough")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant; ratios are medians of them")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--stream", type=int, nargs=2, metavar=("QUERIES", "IMAGES"), help="this instead, lognormal")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    data = read_veri(args.root, images=False)
    if data.network is None:
        raise ValueError(f"{args.root} has no camera_Dist.txt: transit needs the distances between cameras")
    paper = LogNormal().fit(data.train, data.network)
    if args.stream:
        print(json.dumps(stream(paper, data.network, *args.stream, args.seed)))
        return
    lists, generator = (data.query, data.gallery), np.random.default_rng(args.seed)
    error = np.abs(naive(paper, *lists, data.network) - paper.distance(*lists)).max()
    left, right = (generator.standard_normal((len(part), DIMENSIONS), dtype=np.float32) for part in lists)
    models = {name: build(name).fit(data.train, data.network) for name in MODELS}
    models["likelihood, no relays"] = build("likelihood", relays=0).fit(data.train, data.network)
    jobs: dict[str, Callable[[], Any]] = {"sgemm": lambda: left @ right.T}
    jobs["naive"] = lambda: naive(paper, *lists, data.network)
    jobs |= {name: lambda model=model: model.distance(*lists) for name, model in models.items()}
    taken = take_turns(jobs, args.rounds, args.clock)
    found: dict[str, Any] = {"rounds": args.rounds, "clock": args.clock, "largest_difference_to_naive": float(error)}
    found["seconds"] = {name: round(statistics.median(s), 4) for name, s in taken.items()}
    for base in ("naive", "sgemm"):
        ratio = {n: statistics.median(b / s for b, s in zip(taken[base], taken[n], strict=True)) for n in models}
        found[f"{base}_over_ours"] = {name: round(value, 2) for name, value in ratio.items()}
    print(json.dumps(found) if args.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


if __name__ == "__main__":
    main()
