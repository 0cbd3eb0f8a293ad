"""What trajectories are worth, against the vehicles behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


class Score(NamedTuple):
    """Shares in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def pairwise(trajectory: np.ndarray, vehicle: np.ndarray, weight: np.ndarray | None = None) -> Score:
    """Of all pairs in one trajectory those of one vehicle, and of all pairs of one vehicle those in one trajectory.

    Args:
        trajectory: ``(N,)`` labels of passes or images.
        vehicle: ``(N,)`` labels.
        weight: how often each *vehicle* counts, by its label's place among all, for a bootstrap; left out, once.
    """
    table = _table(trajectory, vehicle, weight)
    both = _pairs(table.data).sum()
    return Score(_share(both, _pairs(_sums(table, 1)).sum()), _share(both, _pairs(_sums(table, 0)).sum()))


def b_cubed(trajectory: np.ndarray, vehicle: np.ndarray, weight: np.ndarray | None = None) -> Score:
    """Mean over passes of the share of their trajectory that is theirs, and of their vehicle that is in it."""
    table = _table(trajectory, vehicle, weight)
    all_of, total = table.data**2, table.data.sum()
    return Score(
        _share((all_of / _sums(table, 1)[table.row]).sum(), total),
        _share((all_of / _sums(table, 0)[table.col]).sum(), total),
    )


def identity(trajectory: np.ndarray, vehicle: np.ndarray, weight: np.ndarray | None = None) -> Score:
    """IDP and IDR, whose F1 is IDF1: each vehicle is given at most one trajectory, so that most passes are right.

    The measure of multi-camera tracking, on passes that are all detected.
    """
    table = _table(trajectory, vehicle, weight)
    right, total = 0.0, table.data.sum()
    size = table.shape[0] + table.shape[1]
    links = coo_matrix((np.ones(table.nnz), (table.row, table.col + table.shape[0])), shape=(size, size))
    _, part = connected_components(links, directed=False)
    order = np.argsort(part[table.row], kind="stable")
    for cells in np.split(order, np.flatnonzero(np.diff(part[table.row][order])) + 1):
        rows, i = np.unique(table.row[cells], return_inverse=True)
        columns, j = np.unique(table.col[cells], return_inverse=True)
        count = np.zeros((len(rows), len(columns)))
        count[i, j] = table.data[cells]
        right += count[linear_sum_assignment(count, maximize=True)].sum()
    return Score(_share(right, total), _share(right, total))


MEASURES: dict[str, Callable[..., Score]] = {"pairwise": pairwise, "B-cubed": b_cubed, "IDF1": identity}


def _table(trajectory: np.ndarray, vehicle: np.ndarray, weight: np.ndarray | None) -> coo_matrix:
    rows, row = np.unique(trajectory, return_inverse=True)
    columns, column = np.unique(vehicle, return_inverse=True)
    cell, count = np.unique(row * len(columns) + column, return_counts=True)
    row, column = cell // len(columns), cell % len(columns)
    value = count.astype(np.float64)
    if weight is not None:
        # a vehicle drawn twice is two vehicles, and what it shares a trajectory with is there twice
        value = value * weight[column]
    keep = value > 0
    return coo_matrix((value[keep], (row[keep], column[keep])), shape=(len(rows), len(columns)))


def _sums(table: coo_matrix, axis: int) -> np.ndarray:
    return np.asarray(table.sum(axis=axis)).ravel()


def _pairs(count: np.ndarray) -> np.ndarray:
    return count * (count - 1) / 2


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0
