"""Logistic regression of whether pairs show one vehicle or two, whatever the shares of both in what is fitted on."""

from __future__ import annotations

import numpy as np


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """Probability of log odds, elementwise."""
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


def logistic(
    values: np.ndarray, same: np.ndarray, share: float = 0.5, ridge: float = 1e-9, count: np.ndarray | None = None
) -> np.ndarray:
    """Log-likelihood ratio of one vehicle to two as ``bias + values @ slopes``, by Newton's method.

    Args:
        values: ``(N, P)`` what is known of each pair.
        same: ``(N,)`` whether it is one vehicle, or the probability that it is.
        share: weight of all pairs of one vehicle together, of 1: where the fit matters is where their odds are even.
        ridge: keeps the coefficients finite where the two kinds of pairs do not overlap.
        count: ``(N,)`` how many pairs each row stands for; left out, one.

    Returns:
        ``(1 + P,)`` float64: bias, then slopes, in nats.
    """
    x = np.column_stack([np.ones(len(values)), values]).astype(np.float64)
    one, two = (part * (1 if count is None else count) for part in (same, 1 - same))
    one, two = one * (share / max(one.sum(), 1e-9)), two * ((1 - share) / max(two.sum(), 1e-9))
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        hessian = (x * ((one + two) * p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(beta))
        step = np.linalg.solve(hessian, x.T @ (one * (1 - p) - two * p) - ridge * beta)
        beta += step * min(1.0, 5 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    beta[0] -= np.log(share / (1 - share))
    return beta
