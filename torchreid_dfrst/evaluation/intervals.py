"""What is measured, and how sure it is: intervals and p-values from vehicles drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from torchreid_dfrst.retrieval import Metrics

LEVEL = 0.95
FEWEST = 10
"""Vehicles below which no interval is to be trusted."""
EDGE = 0.4
"""Vehicles that are added at either end of the scale. Jeffreys' 1/2 pulls means near an end too far from it."""
CELLS = 1 << 22  # random weights that are held at once


MEASURES: dict[str, Callable[[Metrics], np.ndarray]] = {
    "mAP": lambda metrics: metrics.average_precision,
    "R1": lambda metrics: metrics.first_match <= 1,
    "R5": lambda metrics: metrics.first_match <= 5,
    "R10": lambda metrics: metrics.first_match <= 10,
    "mINP": lambda metrics: metrics.inverse_penalty,
}
"""Measures of a card, in its order: name to ``(Q,)`` shares of the queries, whose mean over the used ones it is."""


def shares(draws: Sequence[Metrics]) -> dict[str, np.ndarray]:
    """Measure name to what each used query scored, one draw after the other: ``(N,)`` float64 in [0, 1]."""
    used = [metrics.first_match > 0 for metrics in draws]
    return {
        name: np.concatenate([of(m)[rows] for m, rows in zip(draws, used, strict=True)]).astype(np.float64)
        for name, of in MEASURES.items()
    }


def bootstrap(
    value: np.ndarray, vehicle: np.ndarray, samples: int, ends: tuple[float, float] | None = (0.0, 1.0), seed: int = 0
) -> np.ndarray:
    """Means of ``value`` over vehicles that are drawn anew: a Bayesian bootstrap with a fraction of a vehicle added.

    Queries of one vehicle are alike, so vehicles are drawn, each with all its queries and a weight from a gamma law.
    ``EDGE`` of a vehicle at either end of the scale stands for those that no test has seen: without it ten right
    vehicles would prove that none is ever wrong.

    Args:
        value: ``(N,)`` one number per query.
        vehicle: ``(N,)`` label of its vehicle.
        samples: number of means that are returned.
        ends: smallest and largest possible value. None for a difference, which rarely comes near -1 or 1: plus and
            minus the largest sum of a vehicle, of an average number of queries.
        seed: of the weights; equal vehicles get equal weights, so intervals can be compared with each other.

    Raises:
        ValueError: fewer than two vehicles, or lengths that differ.
    """
    label = np.unique(vehicle, return_inverse=True)[1]
    vehicles = int(label.max(initial=-1)) + 1
    if vehicles < 2 or len(value) != len(label):
        raise ValueError(f"{len(value)} values of {len(label)} queries of {vehicles} vehicles: at least two vehicles")
    total, count = np.bincount(label, value), np.bincount(label)
    usual = count.mean()
    low, high = ends if ends is not None else np.array([-1, 1]) * np.abs(total).max() / usual
    rng, step, means = np.random.default_rng(seed), max(1, CELLS // vehicles), []
    for start in range(0, samples, step):
        size = min(step, samples - start)
        # the variance of a mean of few is that of many times V / (V - 1)
        weight, edge = rng.gamma(1 - 1 / vehicles, size=(size, vehicles)), rng.gamma(EDGE, size=(size, 2)) * usual
        means.append((weight @ total + edge @ np.array([low, high])) / (weight @ count + edge.sum(axis=1)))
    return np.concatenate(means)


def interval(means: np.ndarray, mean: float) -> tuple[float, float]:
    """Lower and upper end of the middle ``LEVEL`` of what ``bootstrap`` gave, and of the ``mean`` that was measured."""
    low, high = middle(means)
    return min(float(low), mean), max(float(high), mean)


def middle(means: np.ndarray | list[float]) -> np.ndarray:
    """Lower and upper end of the middle ``LEVEL`` of some values."""
    return np.asarray(np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


def p_value(means: np.ndarray) -> float:
    """Two-sided p-value of no difference: below ``1 - LEVEL`` where 0 lies outside the interval. Never 0."""
    rarer = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return min(1.0, 2 * (1 + rarer) / (1 + len(means)))
