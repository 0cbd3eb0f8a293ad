"""How often intervals cover what is true, and how often p-values find what is not there, on simulated tests.

    python -m tools.studies.intervals --repeats 2000 --out runs/intervals.md

A test has 5 to 200 vehicles of one to eight queries each. A vehicle has a probability of its own, from a beta law
around the true mean; R1 of a query is a draw with it, average precision one from a beta law around it. Intervals beside
ours: the percentile bootstrap over vehicles. Differences have a normal or an exponential effect of the vehicle, of mean
0, and normal noise of the query; p-values beside ours: sign flips of whole vehicles.
"""

import argparse
import itertools
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.evaluation.intervals import LEVEL, bootstrap, interval, p_value

VEHICLES, MEANS, SAMPLES = (5, 10, 20, 50, 200), (0.5, 0.9, 0.99), 1000
CONCENTRATION = {"mAP": 4.0, "R1": 2.3}  # of the vehicles' beta law; of a query's around its vehicle: 3


def scores(measure: str, mean: float, vehicle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What each query of a simulated test scores."""
    a = CONCENTRATION[measure]
    p = rng.beta(a * mean, a * (1 - mean), vehicle[-1] + 1)[vehicle]
    return rng.random(len(p)) < p if measure == "R1" else rng.beta(np.maximum(3 * p, 1e-3), np.maximum(3 - 3 * p, 1e-3))


def differences(law: str, vehicle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paired differences of a simulated test in which nothing differs on average."""
    count = vehicle[-1] + 1
    effect = rng.normal(size=count) if law == "symmetric" else rng.exponential(size=count) - 1
    return 0.1 * (effect[vehicle] + rng.normal(size=len(vehicle)))


def percentile(value: np.ndarray, vehicle: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap over vehicles."""
    total, count = np.bincount(vehicle, value), np.bincount(vehicle)
    times = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=SAMPLES)
    low, high = np.quantile((times @ total) / (times @ count), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return low, high


def flipped(value: np.ndarray, vehicle: np.ndarray, rng: np.random.Generator) -> float:
    """The p-value by sign flips of whole vehicles."""
    total = np.bincount(vehicle, value)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(SAMPLES, len(total)))
    return float((1 + np.count_nonzero(np.abs(signs @ total) >= abs(total.sum()) - 1e-9)) / (1 + SAMPLES))


def simulate(repeats: int, seed: int) -> list[list[str]]:
    """Rows of the table: what is simulated, then for each number of vehicles ours / the usual, in percent."""

    def covered(measure: str, mean: float, vehicle: np.ndarray, rng: np.random.Generator, number: int) -> list[bool]:
        value = scores(measure, mean, vehicle, rng)
        ours = interval(bootstrap(value, vehicle, SAMPLES, seed=number), float(value.mean()))
        return [low <= mean <= high for low, high in (ours, percentile(value, vehicle, rng))]

    def found(law: str, vehicle: np.ndarray, rng: np.random.Generator, number: int) -> list[bool]:
        value = differences(law, vehicle, rng)
        ours = p_value(bootstrap(value, vehicle, SAMPLES, ends=None, seed=number))
        return [p < 1 - LEVEL for p in (ours, flipped(value, vehicle, rng))]

    kinds: dict[str, Callable[..., list[bool]]] = {
        f"true {measure} of {100 * mean:g} % inside": partial(covered, measure, mean)
        for measure, mean in itertools.product(CONCENTRATION, MEANS)
    }
    kinds |= {f"p < 0.05 though nothing differs, {law}": partial(found, law) for law in ("symmetric", "skewed")}
    rows = []
    for kind, hits in kinds.items():
        row = [kind]
        for vehicles in VEHICLES:
            rng = np.random.default_rng([seed, vehicles])
            made = (np.repeat(np.arange(vehicles), rng.integers(1, 9, vehicles)) for _ in range(repeats))
            share = np.mean([hits(vehicle, rng, number) for number, vehicle in enumerate(made)], axis=0)
            row.append(" / ".join(f"{100 * part:.1f}" for part in share))
        rows.append(row)
    return rows


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated tests of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file to write, beside printing it")
    args = parser.parse_args()
    start = time.perf_counter()
    head = ["in percent, ours / usual", *(f"{count} vehicles" for count in VEHICLES)]
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *simulate(args.repeats, args.seed)]]
    text = "\n".join(f"| {line} |" for line in lines) + (
        f"\n\n{args.repeats} simulations a figure, seed {args.seed}, {SAMPLES} samples a bootstrap; "
        f"{platform.machine()}, NumPy {np.__version__}, {time.perf_counter() - start:.0f} s\n"
    )
    print(text)
    if args.out:
        files.write({args.out: text.encode()})


if __name__ == "__main__":
    main()
