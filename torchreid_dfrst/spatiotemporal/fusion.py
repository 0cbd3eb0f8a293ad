"""Appearance and transit in one distance (paper, Eq. 6)."""

from __future__ import annotations

import numpy as np


def fuse(appearance: np.ndarray, transit: np.ndarray, weight: float) -> np.ndarray:
    """Final distance ``appearance + weight * transit`` (paper, Eq. 6).

    Args:
        appearance: ``(Q, G)`` Euclidean distance, not squared, of L2-normalised embeddings, in ``[0, 2]``.
        transit: ``(Q, G)`` distance; small means that the trip is plausible.
        weight: trade-off omega, ``>= 0``; 0 gives ``appearance`` back.

    Returns:
        ``(Q, G)`` array of ``appearance``'s dtype.

    Raises:
        ValueError: the shapes differ, or ``weight`` is negative or not finite.
    """
    if appearance.shape != transit.shape:
        raise ValueError(f"appearance has shape {appearance.shape}, transit {transit.shape}: they must be equal")
    if not 0 <= weight < np.inf:
        raise ValueError(f"weight is {weight}: omega is 0 or more")
    return appearance + appearance.dtype.type(weight) * transit.astype(appearance.dtype, copy=False)
