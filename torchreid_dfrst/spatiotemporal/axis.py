"""Time gaps on a signed logarithmic axis (fine near zero, coarse far away), and log-probabilities as distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TICKS_PER_SECOND = 1000
TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class LogAxis:
    """``bins`` points from ``-reach_s`` to ``reach_s``; the axis is linear below ``scale_s``, logarithmic above.

    Args:
        bins: number of points, ``>= 2``.
        scale_s: where linear turns logarithmic, seconds.
        reach_s: gaps beyond this count as this, seconds.

    Raises:
        ValueError: an argument is out of range.
    """

    bins: int
    scale_s: float
    reach_s: float

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.bins < 2 or not 0 < self.scale_s < self.reach_s < np.inf:
            raise ValueError(
                f"an axis of {self.bins} bins, scale {self.scale_s} s, reach {self.reach_s} s: at least 2 bins and "
                "0 < scale < reach"
            )

    def position(self, gap_s: np.ndarray) -> np.ndarray:
        """Real-valued place on the axis in ``[0, bins - 1]``, any shape."""
        unit = np.log1p(np.abs(gap_s) / self.scale_s) * (0.5 / np.log1p(self.reach_s / self.scale_s))
        return np.clip(0.5 + np.copysign(unit, gap_s), 0.0, 1.0) * (self.bins - 1)

    def points(self) -> np.ndarray:
        """``(bins,)`` gaps in seconds, the inverse of ``position`` at whole places."""
        unit = np.arange(self.bins) / (self.bins - 1) * 2 - 1
        return np.copysign(np.expm1(np.abs(unit) * np.log1p(self.reach_s / self.scale_s)) * self.scale_s, unit)

    def count(self, group: np.ndarray, gap_s: np.ndarray, groups: int, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """``(groups, bins)``: each gap shared between its two neighbouring points, added up for each group."""
        low, part = self.between(gap_s)
        place, size = group * self.bins + low, groups * self.bins
        near, far = weight * (1 - part), weight * part
        return (np.bincount(place, near, size) + np.bincount(place + 1, far, size)).reshape(groups, self.bins)

    def interpolate(self, table: np.ndarray, row: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``table[row]``, one value for each point of the axis, at a gap in between; elementwise, arrays broadcast."""
        low, part = self.between(gap_s)
        place, flat = row * table.shape[1] + low, table.reshape(-1)
        below = flat.take(place)
        return below + (flat.take(place + 1) - below) * part

    def between(self, gap_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The point below each gap (at most ``bins - 2``) and the fraction of the way to the next one."""
        position = self.position(gap_s)
        low = np.minimum(position.astype(np.int64), self.bins - 2)
        return low, position - low


def on_a_grid(query_s: np.ndarray, gallery_s: np.ndarray) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The coarsest grid of whole milliseconds on which all known times lie.

    Args:
        query_s: ``(Q,)`` seconds, NaN where not known.
        gallery_s: ``(G,)`` seconds, NaN where not known.

    Returns:
        The step in milliseconds and both lists as int64 counts of steps from the first time (0 where not known); None
        if a time is more than a microsecond from a whole millisecond, or none is known.
    """
    known = np.concatenate([query_s[~np.isnan(query_s)], gallery_s[~np.isnan(gallery_s)]])
    if not len(known):
        return None
    ticks = np.rint(known * TICKS_PER_SECOND)
    if np.abs(ticks / TICKS_PER_SECOND - known).max() > TOLERANCE_S:
        return None
    first = ticks.min()
    step = int(np.gcd.reduce(np.unique(ticks - first).astype(np.int64))) or 1
    query, gallery = (
        np.rint(np.nan_to_num(t * TICKS_PER_SECOND - first)).astype(np.int64) // step for t in (query_s, gallery_s)
    )
    return step, query, gallery
