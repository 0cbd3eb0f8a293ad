"""The paper's model: distance and time each follow one log-normal law (Eq. 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, learned
from torchreid_dfrst.spatiotemporal.gap_transit import Law
from torchreid_dfrst.spatiotemporal.passes import pairs_of_a_vehicle

METRES = {"m": 1.0, "km": 1000.0}
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(eq=False, kw_only=True)
class LogNormal(GapModel):
    """``D_s + D_t`` of Eq. 4 and 5, in ``(0, 2)``; 0 means entirely plausible.

    ``D = 1 / (1 + exp(slope * (p - offset)))``: our reading of a misprint, see docs/paper.md. ``p`` is a log-normal
    density whose ``mu`` and ``sigma`` maximise the likelihood over all pairs of images of one training vehicle seen
    by different cameras. An image without a time gets ``D_t = 1/2``.

    Args:
        slope_s: alpha_1 of Eq. 4.
        offset_s: alpha_2 of Eq. 4, printed as the slope again; Appendix C gives 0.5.
        slope_t: beta_1 of Eq. 5; Appendix C gives 6.
        offset_t: beta_2 of Eq. 5.
        density: ``"mode"`` divides the density by its value at the mode, so that ``p`` is in ``[0, 1]`` and free of
            units; ``"raw"`` keeps the density per ``distance_unit`` (m, km) and per ``time_unit`` (s, min, h).
        distance_unit: of the raw density.
        time_unit: of the raw density.
        floor_m: shorter distances (one camera and itself) count as this, metres.
        floor_s: shorter gaps count as this, seconds.

    Raises:
        ValueError: an option is out of range.
        KeyError: an unknown density or unit.
    """

    name: ClassVar[str] = "lognormal"
    slope_s: float = 6.0
    offset_s: float = 0.5
    slope_t: float = 6.0
    offset_t: float = 0.5
    density: str = "mode"
    distance_unit: str = "km"
    time_unit: str = "s"
    floor_m: float = 10.0
    floor_s: float = 1.0
    mu_s: float = learned()
    sigma_s: float = learned(positive=True)
    mu_t: float = learned()
    sigma_t: float = learned(positive=True)
    pairs: int = learned(count=True)

    def __post_init__(self) -> None:
        """Check the options."""
        for name, known in (("density", ("mode", "raw")), ("distance_unit", METRES), ("time_unit", SECONDS)):
            self._require_choice(name, known)
        self._require_positive("slope_s", "slope_t", "floor_m", "floor_s")
        for name in ("offset_s", "offset_t"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be a number")

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        first, second = pairs_of_a_vehicle(sightings)
        row = network.rows(sightings.camera)
        gap_s = np.abs(sightings.time_s[first] - sightings.time_s[second])
        self.mu_s, self.sigma_s = _fit_lognormal("distance", network.distance_m[row[first], row[second]], self.floor_m)
        self.mu_t, self.sigma_t = _fit_lognormal("time gap", gap_s, self.floor_s)
        self.pairs = len(first)

    def _law(self, network: CameraNetwork) -> Law:
        # one curve, D_t of Eq. 5, for all camera pairs, and D_s of Eq. 4 is what each pair adds
        offsets = logistic(self.density_of(network.distance_m, "s"), self.slope_s, self.offset_s)
        one, alike = np.zeros(offsets.shape, dtype=np.int64), np.array_equal(offsets, offsets.T)
        # both terms are logistic, D_t is 1/2 where a time is not known, and the gap counts without its sign
        return Law(network, self.curve, 0.5, (0.0, 2.0), numbers=one, offsets=offsets, symmetric=alike)

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``D_t`` of Eq. 5; the sign of the gap does not count."""
        return logistic(self.density_of(np.abs(gap_s), "t"), self.slope_t, self.offset_t)

    def density_of(self, values: np.ndarray, which: str) -> np.ndarray:
        """The paper's ``p`` at distances in metres (``which="s"``) or gaps in seconds (``"t"``)."""
        mu, sigma = (self.mu_s, self.sigma_s) if which == "s" else (self.mu_t, self.sigma_t)
        log = np.log(np.maximum(values, self.floor_m if which == "s" else self.floor_s))
        if self.density == "mode":
            # the mode lies at exp(mu - sigma^2); over its value there only this parabola is left
            return np.exp(-((log - mu + sigma**2) ** 2) / (2 * sigma**2))
        unit = np.log(METRES[self.distance_unit] if which == "s" else SECONDS[self.time_unit])
        return np.exp(-((log - mu) ** 2) / (2 * sigma**2) - (log - unit)) / (sigma * np.sqrt(2 * np.pi))

    def describe(self) -> str:
        """Both laws, with the distance and the gap at their mode."""
        return (
            f"lognormal (the paper, Eq. 4-5; density {self.density}), fitted on {self.pairs} pairs of images\n"
            f"  distance: mu {self.mu_s:.4f}, sigma {self.sigma_s:.4f} of ln metres, most likely "
            f"{np.exp(self.mu_s - self.sigma_s**2):.0f} m, median {np.exp(self.mu_s):.0f} m\n"
            f"  time gap: mu {self.mu_t:.4f}, sigma {self.sigma_t:.4f} of ln seconds, most likely "
            f"{np.exp(self.mu_t - self.sigma_t**2):.0f} s, median {np.exp(self.mu_t):.0f} s"
        )


def logistic(p: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """``1 / (1 + exp(slope * (p - offset)))`` (paper, Appendix C, Fig. 9): 1 at small ``p``, 0 at large."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(slope * (p - offset)))


def _fit_lognormal(what: str, values: np.ndarray, floor: float) -> tuple[float, float]:
    log = np.log(np.maximum(values, floor))
    if log.min() == log.max():
        raise ValueError(
            f"every {what} between training pairs is {np.exp(log[0]):.6g}: a log-normal law needs two different ones"
        )
    return float(log.mean()), float(log.std())
