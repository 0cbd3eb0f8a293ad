"""Ours: how much likelier a gap is for one vehicle than for two, for each ordered camera pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d

from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.retrieval.transit import Transit
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.axis import LogAxis
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, learned
from torchreid_dfrst.spatiotemporal.gap_transit import NATS, TABLE_SHARE, GapTransit, Law
from torchreid_dfrst.spatiotemporal.passes import Pairs, first_and_last, one_per_pass, pairs_of_a_vehicle, passes

COUNTED = 40_000_000  # pairs of passes of any two vehicles
NEAREST_M = 20.0
KEPT = 1 << 25  # float32 ratios between gallery passes that are kept rather than made again: 128 MiB
CELLS = 1 << 22  # float32 values of what is made for a block and let go again
SHARE = 64  # of a limit of bytes, one such value for each 64
ROWS = 256


@dataclass(eq=False, kw_only=True)
class Likelihood(GapModel):
    """``ln p(camera, gap | same vehicle) - ln p(camera, gap | different vehicles)``, turned into a distance.

    Both laws are counts of pairs of passes on a signed logarithmic time axis, smoothed by a Gaussian. Their ratio for
    one ordered camera pair, ``same / all``, is shrunk towards what pairs at a similar distance show at the same pace:
    ``(same + k) / (all + k / r)``, the mean of a gamma law with prior mean ``r``, worth ``k`` pairs of the same
    vehicle. A camera pair or a camera never seen in training is left with ``r``. ``relays`` adds what passes in
    between tell, see ``RelayTransit``; then the distance depends on the whole gallery (never on its identities).

    One camera and itself is no trip: the smallest evidence of all. An image without a time has evidence 0, as likely
    for one vehicle as for two. Distances are tenths of nats below the largest possible evidence. Defaults were chosen
    on training vehicles held out from each other, see docs/spacetime_experiments.md.

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
    evidence: np.ndarray = learned("pairs", "bins")
    seen: np.ndarray = learned("cameras", "cameras", count=True)
    returns: float = learned(positive=True)

    def __post_init__(self) -> None:
        """Check the options."""
        self.axis = LogAxis(self.bins, self.scale_s, self.reach_s)
        self._require_positive("smoothing", "background", "shrinkage", "similar")
        if self.relays < 0 or (self.relays and not self.pooling):
            raise ValueError(
                f"relays is {self.relays} with pooling {self.pooling}: 0 or more, and pooling for more than 0"
            )

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        seen = one_per_pass(sightings[~np.isnan(sightings.time_s)])
        pairs = pairs_of_a_vehicle(seen)
        self._learn_pairs(seen, pairs, np.ones(len(pairs.first)), self.background_of(seen, network), network)

    def fit_pairs(
        self, seen: Sightings, pairs: Pairs, weight: np.ndarray, background: np.ndarray, network: CameraNetwork
    ) -> Likelihood:
        """Learn from ``P`` pairs of passes that are one vehicle with a probability, where no identity is known.

        Args:
            seen: one sighting for each pass, all with a time.
            pairs: rows of ``seen`` at different cameras, each pair once.
            weight: ``(P,)`` probability that a pair is one vehicle.
            background: ``background_of(seen, network)``.
            network: road distances.
        """
        self._learn_pairs(seen, pairs, weight, background, network)
        return self._on(network)

    def background_of(self, seen: Sightings, network: CameraNetwork) -> np.ndarray:
        """``(C * C, bins)`` counts of the gaps between all passes, one sighting each, of whichever vehicles.

        Of a camera with very many passes every n-th is taken and counted n times.
        """
        count, row = len(network), network.rows(seen.camera)
        most = max(20, int(np.sqrt(COUNTED) / count))
        times = [np.sort(seen.time_s[row == camera]) for camera in range(count)]
        step = [max(1, len(t) // most) for t in times]
        out = np.empty((count * count, self.bins))
        for a in range(count):
            for b in range(count):
                gap = (times[b][None, :: step[b]] - times[a][:: step[a], None]).ravel()
                out[a * count + b] = self.axis.count(np.zeros_like(gap, dtype=int), gap, 1)[0] * (step[a] * step[b])
        return out

    def _learn_pairs(
        self, seen: Sightings, pairs: Pairs, weight: np.ndarray, everyone: np.ndarray, network: CameraNetwork
    ) -> None:
        count, (first, second), weight = len(network), pairs.both_ways(), np.tile(weight, 2)
        row = network.rows(seen.camera)
        pair = row[first] * count + row[second]
        same = self.axis.count(pair, seen.time_s[second] - seen.time_s[first], count**2, weight)
        self.seen = np.rint(np.bincount(pair, weight, count**2)).astype(np.int64).reshape(count, count)
        self.returns = float(weight.sum()) / len(seen)

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
        points, each = self.axis.points(), np.arange(len(across))[:, None]
        reference = np.exp(log.mean())

        def resampled(counts: np.ndarray, stretch: np.ndarray) -> np.ndarray:
            return self.axis.interpolate(counts, each, points * stretch[:, None])

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

    def _law(self, network: CameraNetwork) -> Law:
        low, high = self._bounds = float(self.evidence.min()), float(self.evidence.max())
        self._table = self.evidence.astype(np.float32)
        # no evidence either way where a time is not known
        return Law(network, self.curve, high / NATS, (0.0, (high - low) / NATS), reach_s=self.reach_s)

    def ratio(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Log-likelihood ratio, in nats, of pair ``number = row * C + column`` at a signed gap."""
        return self.axis.interpolate(self._table, number, gap_s)

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Distance without relays: tenths of nats below the largest evidence."""
        return (self._bounds[1] - self.ratio(number, gap_s)) / NATS

    def _transit_of(self, query: Sightings, gallery: Sightings, memory_limit: int | None) -> Transit:
        if not self.pooling or not len(query) or not len(gallery):
            return super()._transit_of(query, gallery, memory_limit)
        evidence = Law(self.law.network, self.ratio, 0.0, self._bounds, reach_s=self.reach_s)
        return RelayTransit(query, gallery, evidence, self.relays, self.returns, memory_limit)

    def describe(self) -> str:
        """What was counted, and the range of the evidence."""
        pairs = len(self.seen) * (len(self.seen) - 1)
        return (
            f"likelihood (ours): {self.bins} points to {self.reach_s:g} s, smoothed over {self.smoothing:g}, shrinkage "
            f"{self.shrinkage:g}; {self.seen.sum() // 2} pairs of passes, {(self.seen > 0).sum()} of {pairs} ordered "
            f"pairs of cameras seen\n  evidence from {self._bounds[0]:.1f} to {self._bounds[1]:.1f} nats; a pass has "
            f"{self.returns:.1f} others of its vehicle; {'pass times, ' if self.pooling else ''}{self.relays} relays"
        )


class RelayTransit:
    """``(top - x) / 10`` with ``x(q, g) = e(q, g) + ln(1 + sum over h of P(h | q) exp e(h, g))``.

    ``e`` is ``evidence``, the log-likelihood ratio of two passes in nats, ``h`` runs over the ``relays`` passes of the
    gallery that are the most likely to be the query's vehicle and ``P(h | q)`` is their probability, with ``returns``
    others of a vehicle for a prior. No identity is looked at. All images of one pass (one track, see ``passes.passes``)
    share its time and so their distance; without tracks each image is a pass. Of ``memory_limit`` a share is used.
    """

    def __init__(
        self, query: Sightings, gallery: Sightings, evidence: Law, relays: int, returns: float, memory_limit: int | None
    ):
        self.shape = (len(query), len(gallery))
        everyone = Sightings.concatenate([query, gallery])
        label = passes(everyone, by_identity=False)
        time_s = first_and_last(everyone.time_s, label).mean(axis=0)
        lists = []
        for part, labels in ((query, label[: len(query)]), (gallery, label[len(query) :])):
            seen, first, where = np.unique(labels, return_index=True, return_inverse=True)
            lists.append((Sightings(part.camera[first], time_s[seen]), where))
        (rows, self._row), (columns, self._column) = lists
        self._base, self._among = (GapTransit(part, columns, evidence, memory_limit) for part in (rows, columns))
        self._relays = min(relays, len(columns))
        self._cells = CELLS if memory_limit is None else min(CELLS, memory_limit // SHARE)
        self._find(returns / len(columns))
        low, high = evidence.bounds
        # a sum of at most `relays` ratios
        self._top = high + float(np.log1p(self._relays * np.exp(high)))
        self.low, self.high = 0.0, (self._top - low) / NATS
        kept = KEPT if memory_limit is None else min(KEPT, memory_limit // TABLE_SHARE)
        small = self._relays and len(columns) ** 2 <= min(kept, 4 * len(rows) * len(columns))
        self._ratio = np.exp(self._among.block(slice(None), slice(None))) if small else None

    def _find(self, odds: float) -> None:
        """The likeliest passes of each row and their probabilities."""
        count, kept = self._base.shape[0], self._relays
        self._relay = np.empty((count, kept), dtype=np.int64)
        self._weight = np.empty((count, kept), dtype=np.float32)
        step = max(1, min(ROWS, self._cells // self._base.shape[1]))
        for part in consecutive(0, count if kept else 0, step):
            evidence = self._base.block(part, slice(None))
            best = np.argpartition(-evidence, kept - 1, axis=1)[:, :kept]
            ratio = odds * np.exp(np.take_along_axis(evidence, best, axis=1))
            self._relay[part], self._weight[part] = best, ratio / (1 + ratio)

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows and columns, in their order."""
        row, back = np.unique(self._row[rows], return_inverse=True)
        column, forth = np.unique(self._column[columns], return_inverse=True)
        x = self._base.block(row, column)
        if self._relays and x.size:
            for part in consecutive(0, len(row), max(1, int(np.sqrt(self._cells / self._relays)))):
                self._add_relays(x[part], row[part], column)
        x -= np.float32(self._top)
        x *= np.float32(-1 / NATS)
        return x.take(forth, axis=1)[back]

    def _add_relays(self, x: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
        """Add the second term to the first, ``x``, in place, for some passes of the query and the gallery."""
        relay, place = np.unique(self._relay[row], return_inverse=True)
        weight = np.zeros((len(row), len(relay)), dtype=np.float32)
        np.put_along_axis(weight, place.reshape(len(row), -1), self._weight[row], axis=1)
        for part in consecutive(0, x.shape[1], max(1, self._cells // len(relay))):
            if self._ratio is None:
                ratio = self._among.block(relay, column[part])
                np.exp(ratio, out=ratio)
            else:
                ratio = self._ratio[relay[:, None], column[part]]
            total = weight @ ratio
            x[:, part] += np.log1p(total, out=total)


def _smooth(counts: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter1d(counts, width, axis=1, mode="constant", truncate=4.0)
