"""What trajectories are worth, against the vehicles behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from torchreid_dfrst.spatiotemporal.passes import rows_by_label

SAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Score:
    """A measure as what each pass (or image) adds to it, each ``(N,)``.

    Precision is the sum of ``right`` over the sum of ``found``, recall that of ``known`` over that of ``there``.
    """

    right: np.ndarray
    found: np.ndarray
    known: np.ndarray
    there: np.ndarray

    @property
    def precision(self) -> float:
        """In [0, 1]; 1 where nothing was joined."""
        return _share(self.right.sum(), self.found.sum())

    @property
    def recall(self) -> float:
        """In [0, 1]; 1 where there was nothing to join."""
        return _share(self.known.sum(), self.there.sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return float(_harmonic(np.array(self.precision), np.array(self.recall)))

    def interval(self, vehicle: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
        """95 % percentile interval of F1 when vehicles, the ``(N,)`` labels of the passes, are drawn anew."""
        place = np.unique(vehicle, return_inverse=True)[1]
        sums = [np.bincount(place, column) for column in (self.right, self.found, self.known, self.there)]
        times = rng.multinomial(len(sums[0]), np.full(len(sums[0]), 1 / len(sums[0])), size=SAMPLES)
        right, found, known, there = (times @ column for column in sums)
        precision = np.divide(right, found, out=np.ones(SAMPLES), where=found > 0)
        recall = np.divide(known, there, out=np.ones(SAMPLES), where=there > 0)
        low, high = np.quantile(_harmonic(precision, recall), [0.025, 0.975])
        return float(low), float(high)


def pairwise(trajectory: np.ndarray, vehicle: np.ndarray) -> Score:
    """Of all pairs in one trajectory those of one vehicle, and of all pairs of one vehicle those in one trajectory."""
    both, joined, same = _sizes(trajectory, vehicle)
    return Score(both - 1, joined - 1, both - 1, same - 1)


def b_cubed(trajectory: np.ndarray, vehicle: np.ndarray) -> Score:
    """Mean over passes of the share of their trajectory that is theirs, and of their vehicle that is in it."""
    both, joined, same = _sizes(trajectory, vehicle)
    return Score(both / joined, np.ones_like(both), both / same, np.ones_like(both))


def identity(trajectory: np.ndarray, vehicle: np.ndarray) -> Score:
    """IDP and IDR, whose F1 is IDF1: each vehicle is given at most one trajectory, so that most passes are right.

    The measure of multi-camera tracking; here all passes are detected, so the three are equal.
    """
    _, row = np.unique(trajectory, return_inverse=True)
    _, column = np.unique(vehicle, return_inverse=True)
    cell, place, count = np.unique(row * (column.max(initial=0) + 1) + column, return_inverse=True, return_counts=True)
    row, column = np.divmod(cell, column.max(initial=0) + 1)
    size = int(row.max(initial=0) + column.max(initial=0)) + 2
    links = coo_matrix((np.ones(len(cell)), (row, column + row.max(initial=0) + 1)), shape=(size, size))
    part = connected_components(links, directed=False)[1][row]
    chosen = np.zeros(len(cell))
    for cells in rows_by_label(part):
        i, j = (np.unique(labels[cells], return_inverse=True)[1] for labels in (row, column))
        table = np.zeros((i.max(initial=-1) + 1, j.max(initial=-1) + 1))
        table[i, j] = count[cells]
        pairs = np.zeros_like(table)
        pairs[linear_sum_assignment(table, maximize=True)] = 1
        chosen[cells] = pairs[i, j]
    right = chosen[place]
    return Score(right, np.ones_like(right), right, np.ones_like(right))


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], Score]] = {
    "pairwise": pairwise,
    "B-cubed": b_cubed,
    "IDF1": identity,
}
"""Of ``(N,)`` trajectory labels of passes or images and ``(N,)`` labels of their vehicles."""


def _sizes(trajectory: np.ndarray, vehicle: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pass: passes of its vehicle in its trajectory, passes of its trajectory, passes of its vehicle."""
    _, row, joined = np.unique(trajectory, return_inverse=True, return_counts=True)
    _, column, same = np.unique(vehicle, return_inverse=True, return_counts=True)
    _, place, both = np.unique(row * len(same) + column, return_inverse=True, return_counts=True)
    return both[place].astype(np.float64), joined[row].astype(np.float64), same[column].astype(np.float64)


def _harmonic(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0
