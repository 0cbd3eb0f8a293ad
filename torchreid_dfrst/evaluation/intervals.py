"""What is measured, and how sure it is: bootstrap intervals over vehicles, and a paired test over queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from torchreid_dfrst.retrieval import Metrics

CELLS = 1 << 22  # random signs that are held at once


def _within(rank: int) -> Callable[[Metrics], np.ndarray]:
    return lambda metrics: metrics.first_match <= rank


MEASURES: dict[str, Callable[[Metrics], np.ndarray]] = {
    "mAP": lambda metrics: metrics.average_precision,
    **{f"R{rank}": _within(rank) for rank in (1, 5, 10)},
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
    value: np.ndarray, identity: np.ndarray, rng: np.random.Generator, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``value`` when *vehicles* are drawn anew.

    Queries of one vehicle are alike, so resampling single queries would promise too much.

    Args:
        value: ``(N,)`` one number per query.
        identity: ``(N,)`` vehicle of each query.
        rng: source of the samples.
        samples: number of samples.
        level: share of the samples inside the interval.

    Returns:
        lower and upper end.

    Raises:
        ValueError: no query, or lengths that differ.
    """
    total, count = _by_group(value, identity)
    times = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=samples)
    low, high = np.quantile((times @ total) / (times @ count), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(difference: np.ndarray, group: np.ndarray, rng: np.random.Generator, samples: int = 10_000) -> float:
    """Two-sided p-value of a mean paired difference, by flipping the sign of whole groups.

    Args:
        difference: ``(N,)`` first minus second, per query.
        group: ``(N,)`` label of what flips together: the row for independent queries, the vehicle for alike ones.
        rng: source of the signs.
        samples: number of random flips; the given signs count as one more, so p is never 0.

    Raises:
        ValueError: no query, or lengths that differ.
    """
    total, _ = _by_group(difference, group)
    # rounding must not make an equal sum count as smaller
    threshold, extreme = abs(total.sum()) - 1e-9, 1
    step = max(1, CELLS // len(total))
    for start in range(0, samples, step):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(min(step, samples - start), len(total)))
        extreme += int(np.count_nonzero(np.abs(signs @ total) >= threshold))
    return extreme / (1 + samples)


def _by_group(value: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group."""
    if not len(value) or len(value) != len(group):
        raise ValueError(f"{len(value)} values of {len(group)} queries: one of each, and at least one, is needed")
    label = np.unique(group, return_inverse=True)[1]
    return np.bincount(label, value), np.bincount(label)
