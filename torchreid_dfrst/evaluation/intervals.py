"""How sure a result is: bootstrap intervals over vehicles, and a paired test over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.retrieval.distances import blocks
from torchreid_dfrst.retrieval.metrics import Metrics

RANKS = (1, 5, 10)
MEASURES = ("mAP", *(f"R{rank}" for rank in RANKS), "mINP")


@dataclass(frozen=True, eq=False)
class Queries:
    """What each used query of each draw scored.

    Args:
        draw: ``(N,)`` number of the draw.
        row: ``(N,)`` row of the query in its draw.
        identity: ``(N,)`` vehicle.
        value: measure name (see ``MEASURES``) to ``(N,)`` float64 in [0, 1].
    """

    draw: np.ndarray
    row: np.ndarray
    identity: np.ndarray
    value: dict[str, np.ndarray]

    @classmethod
    def collect(cls, draws: Sequence[Metrics], identities: Sequence[np.ndarray]) -> Queries:
        """Join the used queries of all draws; ``identities`` are the query identities of each."""
        row = [np.flatnonzero(metrics.first_match) for metrics in draws]
        used = list(zip(draws, row, strict=True))
        first = np.concatenate([metrics.first_match[rows] for metrics, rows in used])
        return cls(
            draw=np.repeat(np.arange(len(draws)), [len(rows) for rows in row]),
            row=np.concatenate(row),
            identity=np.concatenate([np.asarray(i)[rows] for i, rows in zip(identities, row, strict=True)]),
            value={
                "mAP": np.concatenate([metrics.average_precision[rows] for metrics, rows in used]),
                **{f"R{rank}": (first <= rank).astype(np.float64) for rank in RANKS},
                "mINP": np.concatenate([metrics.inverse_penalty[rows] for metrics, rows in used]),
            },
        )

    def mean(self, measure: str) -> tuple[float, float]:
        """Mean over draws of the mean over queries, and the standard deviation over draws (0 for one draw)."""
        count = np.bincount(self.draw)
        means = np.bincount(self.draw, self.value[measure]) / count
        return float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else 0.0


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
    total, count = _by_vehicle(value, identity)
    times = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=samples)
    means = (times @ total) / (times @ count)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
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
    total, _ = _by_vehicle(difference, group)
    # rounding must not make an equal sum count as smaller
    threshold, extreme = abs(total.sum()) - 1e-9, 1
    for part in blocks(samples, len(total)):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(part.stop - part.start, len(total)))
        extreme += int(np.count_nonzero(np.abs(signs @ total) >= threshold))
    return extreme / (1 + samples)


def _by_vehicle(value: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(value) or len(value) != len(identity):
        raise ValueError(f"{len(value)} values of {len(identity)} queries: one of each, and at least one, is needed")
    group = np.unique(identity, return_inverse=True)[1]
    return np.bincount(group, value), np.bincount(group)
