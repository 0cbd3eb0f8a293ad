"""Time gaps on a signed logarithmic axis: fine near zero, coarse far away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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

    def between(self, gap_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The point below each gap (at most ``bins - 2``) and the fraction of the way to the next one."""
        position = self.position(gap_s)
        low = np.minimum(position.astype(np.int64), self.bins - 2)
        return low, position - low

    def count(self, group: np.ndarray, gap_s: np.ndarray, groups: int, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """``(groups, bins)``: each gap shared between its two neighbouring points, added up for each group."""
        low, part = self.between(gap_s)
        place, size = group * self.bins + low, groups * self.bins
        near, far = weight * (1 - part), weight * part
        return (np.bincount(place, near, size) + np.bincount(place + 1, far, size)).reshape(groups, self.bins)

    def interpolate(self, table: np.ndarray, row: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``table[row]``, one value for each point of the axis, at a gap in between; elementwise, arrays broadcast."""
        low, part = self.between(gap_s)
        return interpolated(table, row * table.shape[1] + low, part)


def interpolated(table: np.ndarray, place: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Values between ``place`` of the flat table and the next, ``part`` of the way."""
    flat = table.reshape(-1)
    below = flat.take(place)
    return below + (flat.take(place + 1) - below) * part
