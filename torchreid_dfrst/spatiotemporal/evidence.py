"""Log-probabilities as distances."""

from __future__ import annotations

import numpy as np

NATS = 10.0  # one unit of distance, so that omega has the same meaning for every model that speaks in logarithms


def distance_of(evidence: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """``(top - evidence) / 10`` with the evidence, in nats, cut to ``[bottom, top]``; 0 means entirely plausible."""
    return (top - np.clip(evidence, bottom, top)) / NATS
