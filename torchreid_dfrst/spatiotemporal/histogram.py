"""Smoothed histogram of time gaps for each camera pair (st-ReID)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, learned
from torchreid_dfrst.spatiotemporal.gap_transit import NATS, Law, distance_of
from torchreid_dfrst.spatiotemporal.passes import one_per_pass, pairs_of_a_vehicle

ROUNDING = 1e-6  # of a bin: gaps of whole frames fall on edges and must not depend on the last bit


@dataclass(eq=False, kw_only=True)
class Histogram(GapModel):
    """``-ln p(gap)`` with ``p`` a smoothed histogram of signed gaps, normalised for each camera pair.

    st-ReID counts one mean time for each (vehicle, camera); where a vehicle comes back this is a time at which nobody
    was there, so passes are counted here. In tenths of nats below the fullest bin of any pair, cut at ``depth``:
    ``[0, depth / 10]``. (st-ReID multiplies two logistics instead; the logarithm ranks the same way and adds.) A pair
    of cameras never seen takes the histogram of all pairs. One camera and itself: the largest distance. An image
    without a time gets the distance of a uniform histogram.

    Args:
        bin_s: width of a bin, seconds (published: 100 frames, 4 s at 25 a second).
        reach_s: gaps beyond this count as this, seconds.
        smoothing: standard deviation of the Gaussian, in bins (published: 50), cut at three.
        depth: how many nats below the best still make a difference.

    Raises:
        ValueError: an option is out of range.
    """

    name: ClassVar[str] = "histogram"
    bin_s: float = 1.0
    reach_s: float = 3600.0
    smoothing: float = 10.0
    depth: float = 6.0
    log_density: np.ndarray = learned("pairs", "bins")
    seen: np.ndarray = learned("cameras", "cameras", count=True)

    def __post_init__(self) -> None:
        """Check the options."""
        if not (0 < self.bin_s < self.reach_s < np.inf and self.smoothing >= 0 and 0 < self.depth < np.inf):
            raise ValueError(
                f"bin_s {self.bin_s}, reach_s {self.reach_s}, smoothing {self.smoothing}, depth {self.depth}: "
                "0 < bin_s < reach_s, smoothing >= 0 and depth > 0 are needed"
            )

    @property
    def bins(self) -> int:
        """How many there are, half of them for negative gaps."""
        return 2 * int(np.ceil(self.reach_s / self.bin_s))

    def _bin(self, gap_s: np.ndarray) -> np.ndarray:
        half = self.bins // 2
        return np.clip(np.floor(gap_s / self.bin_s + ROUNDING), -half, half - 1).astype(np.int64) + half

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        seen, count, bins = one_per_pass(sightings), len(network), self.bins
        (first, second), row = pairs_of_a_vehicle(seen).both_ways(), network.rows(seen.camera)
        place = (row[first] * count + row[second]) * bins + self._bin(seen.time_s[second] - seen.time_s[first])
        counts = np.bincount(place, minlength=count**2 * bins).reshape(count**2, bins).astype(np.float64)
        self.seen = counts.sum(axis=1).astype(np.int64).reshape(count, count)
        counts[self.seen.ravel() == 0] = counts.sum(axis=0)
        if self.smoothing:
            counts = gaussian_filter1d(counts, self.smoothing, axis=1, mode="constant", truncate=3.0)
        density = counts / counts.sum(axis=1, keepdims=True)
        bottom = np.log(density.max()) - self.depth
        # four digits are a thousandth of the histogram's own noise and keep the file small
        self.log_density = np.round(np.log(np.maximum(density, np.exp(bottom))), 4)

    def _law(self, network: CameraNetwork) -> Law:
        top, largest = float(self.log_density.max()), self.depth / NATS
        self._table = distance_of(self.log_density, top, top - self.depth).astype(np.float32)
        self._table[np.eye(len(network), dtype=bool).ravel()] = largest
        uniform = np.array(-np.log(self.bins))
        return Law(network, self.curve, float(distance_of(uniform, top, top - self.depth)), (0.0, largest))

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Constant within a bin."""
        return self._table.reshape(-1).take(number * self.bins + self._bin(gap_s))

    def describe(self) -> str:
        """Bins, smoothing and how many pairs were seen."""
        pairs = len(self.seen) * (len(self.seen) - 1)
        return (
            f"histogram (st-ReID, per pass): {self.bins} bins of {self.bin_s:g} s, smoothed over "
            f"{self.smoothing:g} bins, {self.seen.sum() // 2} pairs of passes; "
            f"{(self.seen > 0).sum()} of {pairs} ordered pairs of cameras seen"
        )
