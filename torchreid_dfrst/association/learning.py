"""The evidence learnt without any label, from the passes that are to be joined.

Passes that choose each other as the most alike are taken for one vehicle first. They teach what a likely trip is; trips
teach, independently of appearance, how alike two passes of one vehicle are. From then on average linkage says how
probable each pair is, and appearance and trips are fitted again on all pairs, each counted by its probability. What a
pair is scored with is never learnt from itself: pairs are in three groups, and each group is scored by what the other
two teach.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torchreid_dfrst.association.average_linkage import grow, upper
from torchreid_dfrst.association.evidence import NEVER, TRUST, Evidence, at_once, equal_network
from torchreid_dfrst.association.passes import Passes
from torchreid_dfrst.retrieval.logistic import logistic, sigmoid
from torchreid_dfrst.sightings import CameraNetwork
from torchreid_dfrst.spatiotemporal.axis import interpolated
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.passes import Pairs

ROUNDS, BOLDNESS = 4, 1.0
"""Chosen on training vehicles, as is the boldness at which what is learnt is cut in the end."""
CUT = -0.5
MOST = 3000
"""Passes that are learnt from."""
NEAR_S = 300.0
"""The first pairs are sought no further apart."""
LEAST = 0.01
"""Probability from which on a pair counts."""
BINS = 512
EM = 20
FEWEST = 10
"""First pairs without which nothing is learnt."""
OVERLAP, MEETINGS = 0.25, 2.0
"""Share and number of the passes meeting in time that are one vehicle, from which on two cameras overlap."""


def learn(passes: Passes, network: CameraNetwork | None, gaps: Likelihood | None = None) -> Evidence | None:
    """Evidence of a gallery, from itself; None where too few passes choose each other to calibrate anything.

    Args:
        passes: of the gallery; of more than ``MOST`` those in the middle of the list by time.
        network: road distances; None where not known.
        gaps: a model fitted on labelled sightings, if there is one: then only appearance is learnt.
    """
    learner = _Learner(_middle(passes), network, gaps)
    return None if len(learner.first) < FEWEST else learner.run()


def _middle(passes: Passes) -> Passes:
    """At most ``MOST`` passes, those in the middle of the list by time."""
    order = np.argsort(passes.first_s, kind="stable")
    spare = max(0, (len(order) - MOST) // 2)
    return passes[np.sort(order[spare : spare + MOST])]


def doubt(passes: Passes, evidence: Evidence) -> float:
    """Share of the trips of one vehicle, in these passes, that the law of ``evidence`` does not foresee.

    The pairs of one vehicle are a mixture: their trips follow the law, or are as those of two vehicles. EM finds the
    shares; appearance and trips together say how probable each pair is. Vehicles that look alike count as one, so
    that some doubt is found where nothing is wrong: see ``Evidence.usual``.
    """
    if evidence.gaps is None:
        return 0.0
    some = _middle(passes)
    trip = upper((some.camera[:, None] != some.camera) & ~at_once(some, some))
    trip &= ~np.isnan(upper(some.first_s[:, None] + some.first_s))
    ratio = upper(np.asarray(evidence.trips(some, some)))[trip].astype(np.float64) / TRUST
    alike = evidence.appearance(upper(some.embedding @ some.embedding.T)[trip])
    ratio, alike = np.exp(ratio), np.exp(alike + np.log(max(evidence.returns, 1e-3) / len(some)))
    share = 0.5
    for _ in range(EM):
        follows = (1 - share) * ratio
        same = follows + share
        weight = alike / (1 + alike * same)
        share = float((share * weight).sum() / max((same * weight).sum(), 1e-9))
    return share


class _Learner:
    """All pairs of passes as flat lists, in the order of ``np.triu_indices``."""

    def __init__(self, passes: Passes, network: CameraNetwork | None, gaps: Likelihood | None):
        self.passes, self.given = passes, gaps
        known = network if gaps is None else gaps.network
        self.network = equal_network(passes.camera) if known is None else known
        self.row, self.column = (index.astype(np.int32) for index in np.triu_indices(len(passes), 1))
        self.cosine = upper(passes.embedding @ passes.embedding.T)
        self.across = upper(passes.camera[:, None] != passes.camera)
        self.met = np.flatnonzero(upper(at_once(passes, passes)))
        seen = passes.sightings
        self.apart = upper(seen.time_s[:, None] - seen.time_s)
        self.trip = self.across & ~np.isnan(self.apart)
        self.first = self._first_pairs()
        self.learns = gaps is None and bool(self.trip.any())
        # where on the axis of a model each trip lies, the same in all models
        model, row = gaps or Likelihood(), self.network.rows(passes.camera)
        low, part = model.axis.between(self.apart[self.trip])
        number = row[self.column[self.trip]] * len(self.network) + row[self.row[self.trip]]
        self.place, self.part = (number * model.bins + low).astype(np.int32), part.astype(np.float32)
        if self.learns:
            timed = np.flatnonzero(~np.isnan(seen.time_s))
            self.seen, self.rank = seen[timed], np.full(len(seen), -1)
            self.rank[timed] = np.arange(len(timed))
            self.background = Likelihood().background_of(self.seen, self.network)

    def run(self) -> Evidence:
        """The evidence, after the first pairs and ``ROUNDS`` rounds."""
        weight = np.zeros_like(self.cosine)
        weight[self.first] = 1
        gaps, trips = self._gaps(weight) if self.learns else self.given, np.zeros_like(self.cosine)
        if gaps is not None:
            trips[self.trip] = _evidence_at(gaps, self.place, self.part)
        weight = self._mixture(trips)
        found = self._evidence(weight, gaps)
        returns = found.returns if self.given is None else self.given.returns
        generator = np.random.default_rng(0)
        for _ in range(ROUNDS):
            found = replace(found, returns=returns, boldness=BOLDNESS)
            odds, evidence = found.odds(len(self.passes)), found.appearance(self.cosine) + trips
            evidence[upper(at_once(self.passes, self.passes, found.overlapping))] = NEVER
            tree = grow(evidence, len(self.passes))
            weight = np.where(self.across, sigmoid(tree.together() + np.float32(odds)), 0)
            if self.learns:
                half = generator.integers(2, size=len(self.passes))[tree.cut(-odds)]
                trips = self._crosswise(weight, half)
            found = self._evidence(weight, gaps)
        gaps = self._gaps(weight) if self.learns else self.given
        return replace(found, gaps=gaps, returns=returns)

    def _first_pairs(self) -> np.ndarray:
        """Pairs of passes of two cameras, not far apart in time, that choose each other."""
        allowed = self.across & ~(np.abs(self.apart) > NEAR_S)
        allowed[self.met] = False
        full = np.full((len(self.passes), len(self.passes)), -2, dtype=np.float32)
        full[self.row[allowed], self.column[allowed]] = self.cosine[allowed]
        best = np.maximum(full, full.T).argmax(axis=1)
        found = allowed & (best[self.row] == self.column) & (best[self.column] == self.row)
        return np.flatnonzero(found)

    def _gaps(self, weight: np.ndarray, among: np.ndarray | bool = True) -> Likelihood:
        """The law of trips from pairs that count by a weight."""
        chosen = np.flatnonzero(self.trip & (weight > LEAST) & among)
        pairs = Pairs(self.rank[self.row[chosen]], self.rank[self.column[chosen]])
        value = weight[chosen].astype(np.float64)
        return Likelihood(check_units=False).fit_pairs(self.seen, pairs, value, self.background, self.network)

    def _crosswise(self, weight: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Evidence of trips, that of each pair learnt from pairs of other clusters."""
        first, second = half[self.row], half[self.column]
        group = np.where(first == second, first, 2)
        out, ours = np.zeros_like(self.cosine), group[self.trip]
        value = np.empty(len(ours), dtype=np.float32)
        for number in range(3):
            mine = ours == number
            value[mine] = _evidence_at(self._gaps(weight, group != number), self.place[mine], self.part[mine])
        out[self.trip] = value
        return out

    def _mixture(self, trips: np.ndarray) -> np.ndarray:
        """Probability of each pair by two normal laws of cosine, beside what its trip says."""
        cosine, evidence = self.cosine[self.across], trips[self.across]
        mean, spread = float(cosine.mean()), float(cosine.std())
        own_mean, own_spread = float(self.cosine[self.first].mean()), spread
        share = (5 if self.given is None else self.given.returns) / len(self.passes)
        for _ in range(10):
            z = evidence - ((cosine - own_mean) / own_spread) ** 2 / 2 + ((cosine - mean) / spread) ** 2 / 2
            p = sigmoid(z + np.float32(np.log(share * spread / own_spread)))
            total = float(p.sum())
            own_mean = float(p @ cosine) / total
            own_spread = max(float(np.sqrt(p @ (cosine - own_mean) ** 2 / total)), spread / 4)
            if self.given is None:
                share = total / len(p)
        out = np.zeros_like(self.cosine)
        out[self.across] = p
        return out

    def _evidence(self, weight: np.ndarray, gaps: Likelihood | None) -> Evidence:
        """Appearance from pairs that count by a weight, and which cameras overlap."""
        bias, slope = calibrate(self.cosine[self.across], weight[self.across])
        returns = 2 * float(weight.sum()) / len(self.passes)
        met = self.met[self.across[self.met]]
        # among passes that meet half are one vehicle, before anyone looks
        same = sigmoid(bias + slope * self.cosine[met])
        camera = self.passes.camera
        overlap = overlapping(camera[self.row[met]], camera[self.column[met]], same)
        return Evidence(bias, slope, gaps, returns, CUT, overlap)


def overlapping(
    first: np.ndarray, second: np.ndarray, same: np.ndarray, share: float = OVERLAP
) -> frozenset[tuple[int, int]]:
    """Pairs of cameras whose passes, where they meet in time, often (in ``share`` of the meetings) are one vehicle.

    ``first`` and ``second`` are the ``(M,)`` cameras of each meeting, ``same`` the probability of one vehicle.
    """
    if not len(first):
        return frozenset()
    ends = np.stack([np.minimum(first, second), np.maximum(first, second)])
    pairs, place = np.unique(ends, axis=1, return_inverse=True)
    total, count = np.bincount(place.ravel(), same), np.bincount(place.ravel())
    chosen = (total >= MEETINGS) & (total >= share * count)
    return frozenset((int(x), int(y)) for x, y in pairs[:, chosen].T)


def _evidence_at(gaps: Likelihood, place: np.ndarray, part: np.ndarray) -> np.ndarray:
    return interpolated(gaps.evidence.astype(np.float32), place, part)


def calibrate(cosine: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Bias and slope of the log-likelihood ratio of one vehicle to two, by a regression on a histogram of cosines.

    ``(N,)`` cosines in ``[-1, 1]``, and the ``weight``, the probability that a pair is one vehicle.
    """
    place = ((cosine + 1) * (BINS / 2)).astype(np.int64).clip(0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    same = np.bincount(place, weight, BINS) / np.maximum(count, 1)
    middles = (np.arange(BINS)[:, None] + 0.5) * (2 / BINS) - 1
    bias, slope = logistic(middles, same, ridge=1e-6, count=count)
    return float(bias), float(slope)
