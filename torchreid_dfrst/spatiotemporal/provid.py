"""STR, the spatio-temporal relation of PROVID: the product of gap and distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, learned
from torchreid_dfrst.spatiotemporal.gap_transit import Law
from torchreid_dfrst.spatiotemporal.passes import pairs_of_a_vehicle


@dataclass(eq=False, kw_only=True)
class Provid(GapModel):
    """``|t_i - t_j| / T_max * d(c_i, c_j) / D_max`` in ``[0, 1]``; 0 means entirely plausible.

    As printed, two sightings by one camera would have distance 0 and come before everything else, whoever they are;
    here they have the largest distance, 1. An image without a time counts as half of ``T_max`` away at the mean
    distance.
    """

    name: ClassVar[str] = "provid"
    longest_s: float = learned(positive=True)
    longest_m: float = learned(positive=True)

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        pairs_of_a_vehicle(sightings)
        self.longest_s = float(np.nanmax(sightings.time_s) - np.nanmin(sightings.time_s))
        self.longest_m = float(network.distance_m.max())
        if not (self.longest_s and self.longest_m):
            raise ValueError(
                f"training times span {self.longest_s} s and the longest road is {self.longest_m} m: "
                "provid divides by both"
            )

    def _law(self, network: CameraNetwork) -> Law:
        if self.longest_m < network.distance_m.max():
            raise ValueError(f"longest_m is {self.longest_m}, but a road of the network has {network.distance_m.max()}")
        share = network.distance_m / self.longest_m
        # one curve for each distance that occurs, and one, marked by -1, for a camera and itself
        share_of, number = np.unique(share, return_inverse=True)
        number, self._share = number.reshape(share.shape), np.append(share_of, -1.0)
        number[np.eye(len(network), dtype=bool)] = len(share_of)
        alike = np.array_equal(number, number.T)
        return Law(network, self.curve, float(share.mean() / 2), (0.0, 1.0), numbers=number, symmetric=alike)

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """STR; longer gaps than any in training count as the longest."""
        share = self._share[number]
        return np.where(share < 0, 1.0, np.minimum(np.abs(gap_s) / self.longest_s, 1.0) * share)

    def describe(self) -> str:
        """What gap and distance are divided by."""
        return f"provid (STR), gaps as a share of {self.longest_s:.0f} s, distances of {self.longest_m:.0f} m"
