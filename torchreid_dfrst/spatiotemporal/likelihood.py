"""Ours: how much likelier a gap is for one vehicle than for two, for each ordered camera pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d

from torchreid_dfrst.retrieval.transit import Transit
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.axis import LogAxis, interpolate
from torchreid_dfrst.spatiotemporal.evidence import NATS
from torchreid_dfrst.spatiotemporal.gaps import GapTransit
from torchreid_dfrst.spatiotemporal.model import GapModel
from torchreid_dfrst.spatiotemporal.passes import one_per_pass, pairs_of_a_vehicle
from torchreid_dfrst.spatiotemporal.relays import RelayTransit
from torchreid_dfrst.spatiotemporal.saved import Expected

COUNTED = 40_000_000  # pairs of passes of any two vehicles
NEAREST_M = 20.0


@dataclass(eq=False, kw_only=True)
class Likelihood(GapModel):
    """``ln p(camera, gap | same vehicle) - ln p(camera, gap | different vehicles)``, turned into a distance.

    Both laws are counts of pairs of passes on a signed logarithmic time axis, smoothed by a Gaussian. Their ratio for
    one ordered camera pair, ``same / all``, is shrunk towards what pairs at a similar distance show at the same pace:
    ``(same + k) / (all + k / r)``, the mean of a gamma law with prior mean ``r``, worth ``k`` pairs of the same
    vehicle. A camera pair or a camera never seen in training is left with ``r``. ``relays`` adds what passes in
    between tell, see ``RelayTransit``; then the distance depends on the whole gallery (never on its identities).

    One camera and itself is no trip: the smallest evidence of all. An image without a time has evidence 0, as likely
    for one vehicle as for two. Distances are tenths of nats below the largest possible evidence.

    All defaults were chosen on training vehicles held out from each other, see docs/spacetime.md.

    Args:
        bins: points of the axis.
        scale_s: the axis is linear below and logarithmic above, seconds.
        reach_s: gaps beyond this count as this, seconds.
        smoothing: standard deviation of the Gaussian for one vehicle, in points of the axis.
        background: the same for different vehicles, whose law is smoother.
        shrinkage: ``k`` above; larger trusts the single camera pair less.
        similar: width of "a similar distance", in ln metres.
        pooling: give all images of a pass the time of its middle. Needs tracks; without them nothing changes.
        relays: gallery passes each query relies on, 0 for none.

    Raises:
        ValueError: an option is out of range.
    """

    name: ClassVar[str] = "likelihood"
    bins: int = 240
    scale_s: float = 5.0
    reach_s: float = 3600.0
    smoothing: float = 2.0
    background: float = 6.0
    shrinkage: float = 0.3
    similar: float = 0.35
    pooling: bool = True
    relays: int = 10
    evidence: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), init=False, repr=False)
    seen: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), init=False, repr=False)
    returns: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Check the options."""
        self._axis = LogAxis(self.bins, self.scale_s, self.reach_s)
        for name in ("smoothing", "background", "shrinkage", "similar"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be positive")
        if self.relays < 0 or (self.relays and not self.pooling):
            raise ValueError(
                f"relays is {self.relays} with pooling {self.pooling}: 0 or more, and pooling for more than 0"
            )

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        seen, count = one_per_pass(sightings[~np.isnan(sightings.time_s)]), len(network)
        row, pairs = network.rows(seen.camera), pairs_of_a_vehicle(seen)
        first = np.concatenate([pairs.first, pairs.second])
        second = np.concatenate([pairs.second, pairs.first])
        pair = row[first] * count + row[second]
        same = self._axis.count(pair, seen.time_s[second] - seen.time_s[first], count**2)
        everyone = _all_pairs(self._axis, row, seen.time_s, count)
        self.seen = np.bincount(pair, minlength=count**2).reshape(count, count)
        self.returns = len(first) / len(seen)

        prior = self._at_similar_distance(same, everyone, network)
        # heights of 1: smoothed counts stay counts of pairs within reach of the Gaussian
        height = self.smoothing * np.sqrt(2 * np.pi)
        same, everyone = height * _smooth(same, self.smoothing), height * _smooth(everyone, self.background)
        ratio = (same + self.shrinkage) / (everyone + self.shrinkage / prior)
        across = ~np.eye(count, dtype=bool).ravel()
        evidence = np.log(ratio * (everyone[across].sum() / same[across].sum()))
        evidence[~across] = evidence[across].min()
        self.evidence = np.round(evidence, 4)

    def _at_similar_distance(self, same: np.ndarray, everyone: np.ndarray, network: CameraNetwork) -> np.ndarray:
        """``same / all`` at equal pace, pooled over all pairs of cameras by how close their ln distances are."""
        count = len(network)
        across = np.flatnonzero(~np.eye(count, dtype=bool))
        log = np.log(np.maximum(network.distance_m.ravel()[across], NEAREST_M))
        points, each = self._axis.points(), np.arange(len(across))[:, None]
        reference = np.exp(log.mean())

        def resampled(counts: np.ndarray, stretch: np.ndarray) -> np.ndarray:
            return interpolate(counts, each, *self._axis.between(self._axis.position(points * stretch[:, None])))

        weight = np.exp(-0.5 * ((log[:, None] - log) / self.similar) ** 2)
        total = same[across].sum() / everyone[across].sum()
        pooled = [
            weight @ resampled(_smooth(counts[across], width), np.exp(log) / reference)
            for counts, width in ((same, self.smoothing), (everyone, self.background))
        ]
        # one pair at the overall rate, where nothing at all was seen
        ratio = (pooled[0] + total) / (pooled[1] + 1)
        prior = np.full_like(same, total)
        prior[across] = resampled(ratio, reference / np.exp(log))
        return prior

    def _prepare(self, network: CameraNetwork) -> None:
        self._low, self._high = float(self.evidence.min()), float(self.evidence.max())
        self._table = self.evidence.astype(np.float32)

    def _expected(self, cameras: int) -> dict[str, Expected]:
        square, table = (cameras, cameras), (cameras**2, self.bins)
        counts = {"seen": Expected(square, count=True), "returns": Expected(positive=True)}
        return {"evidence": Expected(table), **counts}

    def ratio(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Log-likelihood ratio, in nats, of pair ``number = row * C + column`` at a signed gap."""
        return interpolate(self._table, number, *self._axis.between(self._axis.position(gap_s)))

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Distance without relays: tenths of nats below the largest evidence."""
        return (self._high - self.ratio(number, gap_s)) / NATS

    def transit(self, query: Sightings, gallery: Sightings) -> Transit:
        """Distances between two lists, to be taken in blocks; see ``GapModel.transit``."""
        plain = super().transit(query, gallery)
        if not self.pooling or 0 in plain.shape:
            return plain

        def evidence(rows: Sightings, columns: Sightings) -> GapTransit:
            assert self.network is not None
            numbers, bounds = self.numbers, (self._low, self._high)
            return GapTransit(rows, columns, self.network, numbers, np.zeros(numbers.shape), self.ratio, 0.0, bounds)

        return RelayTransit(query, gallery, evidence, self.relays, self.returns, (self._low, self._high))

    @property
    def unknown(self) -> float:
        """No evidence either way."""
        return self._high / NATS

    @property
    def bounds(self) -> tuple[float, float]:
        """From the largest evidence to the smallest."""
        return 0.0, (self._high - self._low) / NATS

    def describe(self) -> str:
        """What was counted, and the range of the evidence."""
        pairs = len(self.seen) * (len(self.seen) - 1)
        return (
            f"likelihood (ours): {self.bins} points to {self.reach_s:g} s, smoothed over {self.smoothing:g}, shrinkage "
            f"{self.shrinkage:g}; {self.seen.sum() // 2} pairs of passes, {(self.seen > 0).sum()} of {pairs} ordered "
            f"pairs of cameras seen\n  evidence from {self._low:.1f} to {self._high:.1f} nats; a pass has "
            f"{self.returns:.1f} others of its vehicle; {'pass times, ' if self.pooling else ''}{self.relays} relays"
        )


def _smooth(counts: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter1d(counts, width, axis=1, mode="constant", truncate=4.0)


def _all_pairs(axis: LogAxis, row: np.ndarray, time_s: np.ndarray, count: int) -> np.ndarray:
    """``(C * C, bins)`` counts of gaps between all passes, of whichever vehicles.

    Of a camera with very many passes every n-th is taken and counted n times.
    """
    most = max(20, int(np.sqrt(COUNTED) / count))
    order = np.lexsort((time_s, row))
    times = [time_s[order[row[order] == camera]] for camera in range(count)]
    step = [max(1, len(t) // most) for t in times]
    out = np.empty((count * count, axis.bins))
    for a in range(count):
        for b in range(count):
            gap = (times[b][None, :: step[b]] - times[a][:: step[a], None]).ravel()
            out[a * count + b] = axis.count(np.zeros(len(gap), dtype=np.int64), gap, 1)[0] * (step[a] * step[b])
    return out
