"""Times of a camera on another clock than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import Pairs, pairs_within
from torchreid_dfrst.spatiotemporal.speeds import MIN_LEGS, PLAUSIBLE_SPEED, UNITS, USUAL_SPEED, leg_speeds, usual_speed

MIN_VEHICLES = 10
MORE = 1.5  # times as many trips must a clock explain as the times as they are, to be blamed
RATHER, HARDLY = 1.15, 1.05  # and as a simpler clock does, and a jump, which a rate comes close to
CUT = 2.5  # times as many trips must a start cut in two as chance would have it
MIN_CUT, MIN_VEHICLES_CUT = 10, 4  # fewest trips, each counted in either direction, and vehicles that one cuts
LEAST, BEYOND = 1 / 3, 0.25  # share of the trips that it must explain, and beyond those
PASSES, OF_ONE, MOST = 20_000, 32, 2000  # passes in all and of a vehicle, and pairs of a camera, that are looked at
DRAWS = 60


class Clock(NamedTuple):
    """What turns the times of a camera into those of the others: ``(time - offset_s) / rate``, modulo ``period_s``."""

    camera: int
    explained: float  # share of its trips that take a usual time with this clock
    before: float  # and as it is
    offset_s: float = 0.0
    rate: float = 1.0
    period_s: float = 0.0  # 0: it never starts anew
    jump_s: float = 0.0  # 0: it never jumps
    jumps_at_s: float = 0.0  # on the clock of the others

    def corrected(self, time_s: np.ndarray) -> np.ndarray:
        """Times on the clock of the others; NaN from one that starts anew or jumps, which may show a time twice."""
        unsure = self.period_s or self.jump_s
        return np.full(len(time_s), np.nan) if unsure else (time_s - self.offset_s) / self.rate

    def describe(self) -> str:
        """What is the matter with it."""
        if self.period_s:
            what = f"starts anew every {self.period_s:.0f} s"
        elif self.jump_s:
            date = self.jumps_at_s > 1e8
            when = f"{np.datetime64(int(self.jumps_at_s), 's')} UTC" if date else f"{self.jumps_at_s:.0f} s"
            what = f"jumps by {self.jump_s:+.0f} s when the others show about {when}"
        elif self.rate < 0:
            what = "runs backwards"
        elif self.rate == 1:
            what = f"{self.offset_s:+.0f} s against the others"
        else:
            unit = next((name for name, s in UNITS.items() if abs(np.log(self.rate * s)) < np.log(1.1)), None)
            what = f"counts {unit}" if unit else f"runs at {self.rate:.3g} of the rate of the others"
        return (
            f"{what} ({100 * self.explained:.0f} % of its trips then take a usual time, {100 * self.before:.0f} % now)"
        )


class _Trips(NamedTuple):
    """Passes of a camera beside those of the same vehicles elsewhere: ``(P,)`` each, seconds."""

    here: np.ndarray
    there: np.ndarray
    most: np.ndarray  # how long a usual trip between the two takes at most
    other: np.ndarray  # (P,) int64 the part that the other pass is of

    @property
    def usual(self) -> float:
        """Share of the trips that take a usual time."""
        return float(np.mean(np.abs(self.here - self.there) <= self.most))

    @property
    def explained_by_offset(self) -> float:
        """How many take one, if the clock is set."""
        return peak(self.here - self.there, self.most)[1] * len(self.here)


class _Pairs(NamedTuple):
    """Pairs of passes of one vehicle by two cameras and two parts, each pair in both directions."""

    seen: Sightings
    part: np.ndarray
    here: np.ndarray  # (P,) rows of ``seen``
    there: np.ndarray
    most: np.ndarray  # as ``_Trips`` has it
    rows: dict[int, np.ndarray]  # of the pairs whose first pass is of a part

    @property
    def labels(self) -> list[int]:
        """The parts that there are pairs of."""
        return list(self.rows)

    def trips(
        self, label: int, rng: np.random.Generator, there_s: np.ndarray, among: Sequence[int] | None = None
    ) -> _Trips | None:
        """The trips of a part as its own clock has them, elsewhere at ``there_s``; None if too few."""
        rows = self.rows[label]
        rows = rows[~np.isnan(there_s[self.there[rows]])]
        if among is not None:
            rows = rows[np.isin(self.part[self.there[rows]], among)]
        if len(np.unique(self.seen.identity[self.here[rows]])) < MIN_VEHICLES:
            return None
        rows = rng.permutation(rows)[:MOST]
        here, there = self.here[rows], self.there[rows]
        return _Trips(self.seen.time_s[here], there_s[there], self.most[rows], self.part[there])


def odd_clocks(seen: Sightings, network: CameraNetwork, part: np.ndarray | None = None) -> list[Clock]:
    """Cameras whose clock explains the traffic far better if it is set, geared or unwound like the others'.

    A trip takes a usual time if it takes at most twice as long as the road at ``USUAL_SPEED``, and a minute, in either
    direction. Clocks are found from one camera outwards, each against those that are found already, for each camera may
    have a clock of its own; then each is compared with all others as corrected.

    Args:
        seen: one sighting for each pass, with times and identities, see ``one_per_pass``.
        network: distances of all their cameras.
        part: ``(N,)`` int64, what shares a clock instead of the images of a camera; ``Clock.camera`` is one of these.
    """
    part, rng = seen.camera if part is None else part, np.random.default_rng(0)
    pairs = _pairs_of_passes(seen, network, part, rng)
    clocks = _grow_outwards(pairs, _reference(pairs, network, rng), rng)
    for _ in range(2):
        for label in pairs.labels:
            others = [clock for clock in clocks if clock.camera != label]
            trips = pairs.trips(label, rng, _corrected_times(seen, others, part))
            clock = trips and _find_clock(label, trips, rng)
            clocks = [*others, clock] if clock else others
    return sorted(clocks)


def start_anew_s(seen: Sightings, network: CameraNetwork) -> float:
    """Seconds after which all counters start anew together, at least; 0 where nothing shows that they do.

    A trip that a start cuts in two lacks as much of the whole span of times as it took: far more of the trips that take
    no usual time are within a usual one of the span than of trips between any two times. A vehicle that comes and goes
    all day has many such trips, so several must have one.
    """
    pairs = _pairs_of_passes(seen, network, seen.camera, np.random.default_rng(0))
    if not len(pairs.here):
        return 0.0
    gap, span = np.abs(seen.time_s[pairs.here] - seen.time_s[pairs.there]), float(np.ptp(seen.time_s))
    odd = (gap > pairs.most) & (4 * pairs.most < span)
    most, cut = pairs.most[odd], odd & (span - gap <= pairs.most)
    enough = cut.sum() > max(MIN_CUT, CUT * ((most / (span - most)) ** 2).sum())
    enough &= len(np.unique(seen.identity[pairs.here[cut]])) >= MIN_VEHICLES_CUT
    pause = np.diff(np.sort(seen.time_s)).max()  # who comes back after one is away as long as others who do
    return span if enough and pause < span / 10 else 0.0


def _reference(pairs: _Pairs, network: CameraNetwork, rng: np.random.Generator) -> int:
    """The part that most others agree with: at the speed of vehicles, else as they are, else if they were set to it.

    Two parts agree if a third of the trips between them take a usual time.
    """
    seen, score = pairs.seen, {}
    for label in pairs.labels:
        trips, agree, would = pairs.trips(label, rng, seen.time_s), [label], 0
        if trips is None:
            continue
        for other in np.unique(trips.other).tolist():
            some = _Trips(*(column[trips.other == other] for column in trips))
            if len(some.here) >= MIN_VEHICLES:
                agree += [other] * (some.usual > LEAST)
                would += peak(some.here - some.there, some.most)[1] > LEAST
        speeds = leg_speeds(seen[np.isin(pairs.part, agree)], network)
        right = len(speeds) >= MIN_LEGS and PLAUSIBLE_SPEED[0] <= usual_speed(speeds) <= PLAUSIBLE_SPEED[1]
        score[label] = right, len(agree), would
    return max(score, key=score.__getitem__, default=0)


def _grow_outwards(pairs: _Pairs, reference: int, rng: np.random.Generator) -> list[Clock]:
    """Clocks of all others, each from its trips to those that are settled, the one with most of them first."""
    clocks: list[Clock] = []
    settled, left = [reference], set(pairs.labels) - {reference}
    while left:
        there_s = _corrected_times(pairs.seen, clocks, pairs.part)
        found = {label: trips for label in sorted(left) if (trips := pairs.trips(label, rng, there_s, settled))}
        if not found:
            break
        best = max(found, key=lambda label: found[label].explained_by_offset)
        left.remove(best)
        clock = _find_clock(best, found[best], rng)
        clocks += [clock] if clock else []
        if clock or found[best].usual > LEAST:
            settled.append(best)
    return clocks


def corrected(seen: Sightings, clocks: Sequence[Clock], part: np.ndarray) -> tuple[Sightings, np.ndarray]:
    """The sightings on the clock of most, and their ``part``; those of a clock that starts anew are left out."""
    time_s = _corrected_times(seen, clocks, part)
    kept = ~np.isnan(time_s)
    return replace(seen, time_s=time_s)[kept], part[kept]


def _corrected_times(seen: Sightings, clocks: Sequence[Clock], part: np.ndarray) -> np.ndarray:
    time_s = seen.time_s.copy()
    for clock in clocks:
        time_s[part == clock.camera] = clock.corrected(time_s[part == clock.camera])
    return time_s


def peak(gap_s: np.ndarray, most: np.ndarray) -> tuple[float, float]:
    """The offset that brings most gaps within ``most`` of it, the middle one of several; and their share."""
    edge, step = np.concatenate([gap_s - most, gap_s + most]), np.repeat([1, -1], len(gap_s))
    order = np.lexsort((-step, edge))
    height = np.cumsum(step[order])
    top = np.flatnonzero(height == height.max())
    middle = top[len(top) // 2]
    return float(edge[order[middle : middle + 2]].mean()), float(height.max() / len(gap_s))


def _pairs_of_passes(seen: Sightings, network: CameraNetwork, part: np.ndarray, rng: np.random.Generator) -> _Pairs:
    order = rng.permutation(len(seen))[:PASSES]
    order = order[np.argsort(seen.identity[order], kind="stable")]
    start = np.searchsorted(seen.identity[order], seen.identity[order])
    order = order[np.arange(len(order)) - start < OF_ONE]  # or a vehicle that never leaves would have millions of pairs
    here, there = (order[rows] for rows in Pairs(*pairs_within(seen.identity[order])).both_ways())
    apart = (seen.camera[here] != seen.camera[there]) & (part[here] != part[there])
    here, there, row = here[apart], there[apart], network.rows(seen.camera)
    order = np.argsort(part[here], kind="stable")
    labels, starts = np.unique(part[here][order], return_index=True)
    rows = dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}
    return _Pairs(seen, part, here, there, 60 + 2 * network.distance_m[row[here], row[there]] / USUAL_SPEED, rows)


def _find_clock(camera: int, trips: _Trips, rng: np.random.Generator) -> Clock | None:
    """The simplest clock that explains a camera's trips much better than its own, None if there is none."""
    before = trips.usual
    if max(MORE * before, before + BEYOND) >= 1:  # no clock can explain so much more
        return None
    offset, explained = peak(trips.here - trips.there, trips.most)
    best = Clock(camera, explained, before, offset)
    for other in (_find_rate(best, trips, rng), _find_period(best, trips)):
        if other is not None and other.explained > RATHER * best.explained:
            best = other
    jump, chance = _find_jump(best, trips), 3 * len(trips.here) ** -0.5  # two offsets fit a few trips too well
    if jump.explained > max(RATHER * explained, HARDLY * best.explained, 0.5, before + chance):
        best = jump
    return best if best.explained > max(MORE * before, before + BEYOND, LEAST) else None


def _find_rate(best: Clock, trips: _Trips, rng: np.random.Generator) -> Clock | None:
    """Rates from two passes each, with their best offsets; the best of them is fitted to what it explains."""
    i, j = rng.integers(0, len(trips.here), (2, 20 * DRAWS))
    # those that are far apart tell a rate best, unless some of the others count in another unit
    low, high = np.quantile(trips.there, [0.25, 0.75])
    far = np.flatnonzero(np.abs(trips.there[i] - trips.there[j]) > high - low)[:DRAWS]
    drawn = np.concatenate([far, np.arange(DRAWS)])
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = (trips.here[i] - trips.here[j])[drawn] / (trips.there[i] - trips.there[j])[drawn]
    rates = rates[np.isfinite(rates) & (rates != 0)]
    if not len(rates):
        return None
    shares = [peak(trips.here / rate - trips.there, trips.most)[1] for rate in rates]
    rate = float(rates[int(np.argmax(shares))])
    for _ in range(5):
        offset, explained = peak(trips.here / rate - trips.there, trips.most)
        near = np.abs(trips.here / rate - trips.there - offset) <= trips.most
        here, there = float(trips.here[near].std()), float(trips.there[near].std())
        if not (here and there):
            return None
        rate = float(np.copysign(here / there, rate))  # a line fitted to either by the other would be too flat
    offset, explained = peak(trips.here / rate - trips.there, trips.most)
    return best._replace(explained=explained, offset_s=offset * rate, rate=rate)


def _find_jump(best: Clock, trips: _Trips) -> Clock:
    """Two offsets, one before a moment and one after it."""
    order, found = np.argsort(trips.there, kind="stable"), []
    gap, most, count = (trips.here - trips.there)[order], trips.most[order], len(order)
    step = max(MIN_VEHICLES, count // 20)
    for at in range(step, count - step + 1, step):
        (before, one), (after, other) = peak(gap[:at], most[:at]), peak(gap[at:], most[at:])
        found.append(((at * one + (count - at) * other) / count, float(trips.there[order[at]]), after - before))
    explained, moment, jump = max(found, default=(0.0, 0.0, 0.0))
    return best._replace(explained=explained, offset_s=0.0, jump_s=jump, jumps_at_s=moment)


def _find_period(best: Clock, trips: _Trips) -> Clock | None:
    """The period, no less than the range of the camera's times, that folds gaps best; less what chance explains."""
    least, span = float(np.ptp(trips.here)), float(np.ptp(trips.there))
    if not 0 < least < 0.6 * span:
        return None
    chance = float(np.minimum(1, 2 * trips.most / least).mean())
    if chance > 0.75:
        return None
    gap, found = trips.here - trips.there, []
    for period in np.linspace(least, 1.25 * least, 100):
        folded = np.concatenate([gap % period, gap % period + period])
        middle, share = peak(folded, np.tile(trips.most, 2))
        far = np.abs((gap - middle + period / 2) % period - period / 2)
        found.append((-float(np.median(far) / period), float(period), middle, (2 * share - chance) / (1 - chance)))
    _, period, middle, explained = max(found)
    starts = np.rint((middle - gap) / period)
    near = np.abs(gap + starts * period - middle) <= trips.most
    # one that never starts anew against any single clock is one that runs with some of the others and not with the rest
    if not any(np.ptp(starts[near & (trips.other == other)]) for other in np.unique(trips.other[near])):
        return None
    period = max(least, -float(np.polyfit(starts[near], gap[near], 1)[0]))
    return best._replace(explained=explained, offset_s=0.0, period_s=period)
