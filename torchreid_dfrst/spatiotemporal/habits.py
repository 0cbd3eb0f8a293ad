"""What a fitted model keeps of the times it was fitted on, and lists to be ranked whose times contradict that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.clocks import odd_clocks
from torchreid_dfrst.spatiotemporal.passes import first_and_last, one_per_pass, rows_by_label
from torchreid_dfrst.spatiotemporal.speeds import MIN_LEGS, Legs, leg_speeds, legs, usual_speed

FASTER = 3.0  # than in training, or slower
GALLERY, QUERY = 0, 1  # of two clocks that contradict each other the first is right
PAIR_LEGS, KEPT = 5, 19  # fewest legs of a pair of cameras that are kept, and most gaps that stand for them
MIN_VEHICLES = 10
OTHERWISE, SURE = 0.25, 1.5  # between two laws of gaps, and in units of what chance does
STRETCH = 1.4  # or less is a matter of traffic, not of units
CUT, MORE = 3, 5.0  # fewest vehicles that a start of the counters cuts a trip of, and times as many as by chance


class Habits(NamedTuple):
    """What a fitted model keeps of the times it was fitted on. 0 or nothing where too little was seen."""

    speed: float  # m/s, see ``speeds.usual_speed``
    longest_s: float  # between two sightings of one vehicle
    vehicles: float = 0.0  # that say as much, each by one leg, as those that were fitted
    gaps: Mapping[str, list[float]] = {}  # two camera labels, the smaller first, to rising seconds of legs between them


NOTHING_KNOWN = Habits(0.0, 0.0)


def restored(content: dict[str, Any]) -> Habits:
    """Of a saved model, maybe of a version that kept no gaps; a ``ValueError`` if ``habits`` leaves no such thing."""

    def numbers(values: Any) -> bool:
        return all(type(value) in (int, float) and 0 <= value < np.inf for value in values)

    gaps = content.get("gaps", {})
    right = {"speed", "longest_s"} <= set(content) <= set(Habits._fields) and isinstance(gaps, dict)
    right = right and numbers(value for name, value in content.items() if name != "gaps")
    if not right or not all(isinstance(g, list) and g and numbers(g) and g == sorted(g) for g in gaps.values()):
        raise ValueError(f"habits is {str(content)[:80]}, expected {', '.join(Habits._fields)}, numbers of 0 or more")
    return Habits(**content)


def habits(sightings: Sightings, network: CameraNetwork) -> Habits:
    """Of a training list; rows without identity or time are left out."""
    known = sightings[sightings.known & ~np.isnan(sightings.time_s)]
    speeds, label = leg_speeds(known, network), np.unique(known.identity, return_inverse=True)[1]
    first, last = first_and_last(known.time_s, label)
    speed = usual_speed(speeds) if len(speeds) >= MIN_LEGS else 0.0
    found, gaps = legs(known, network), {}
    for pair, rows in _by_pair(found, network):
        if len(rows) >= PAIR_LEGS:
            shares = np.arange(1, min(len(rows), KEPT) + 1) / (min(len(rows), KEPT) + 1)
            gaps[pair] = np.quantile(found.seconds[rows], shares, method="weibull").round(3).tolist()
    count = np.unique(found.identity, return_counts=True)[1]
    vehicles = float(count.sum() ** 2 / (count**2).sum()) if len(count) else 0.0
    return Habits(speed, float((last - first).max(initial=0.0)), vehicles, gaps)


def _by_pair(found: Legs, network: CameraNetwork) -> Iterator[tuple[str, np.ndarray]]:
    """The legs of each pair of cameras, in either direction: its name in ``Habits.gaps``, and rows."""
    ends = np.sort(np.stack([network.cameras[found.start], network.cameras[found.end]]), axis=0)
    for rows in rows_by_label(np.unique(ends, axis=1, return_inverse=True)[1].reshape(-1)):
        low, high = ends[:, rows[0]].tolist()
        yield f"{low} {high}", rows


def contradictions(fitted: Habits, query: Sightings, gallery: Sightings, network: CameraNetwork) -> list[str]:
    """What in two lists to be ranked does not fit the times of the training list, each in a sentence with figures.

    Their identities are looked at for this alone; where they are not known, only the gap from each query to the nearest
    gallery image of another camera is.
    """
    found = []
    nearest = _nearest_gap_s(query, gallery)
    if fitted.longest_s and len(nearest) and (share := float(np.mean(nearest > fitted.longest_s))) > 0.5:
        found.append(
            f"{100 * share:.0f} % of the queries are more than {fitted.longest_s:.0f} s (the longest gap that was "
            "fitted) from every gallery image of another camera"
        )
    everyone = Sightings.concatenate([query, gallery])
    part = np.repeat([QUERY, GALLERY], [len(query), len(gallery)])
    known = everyone.known & ~np.isnan(everyone.time_s)
    everyone, part = everyone[known], part[known]
    gaps = other_gaps(fitted, everyone, network)
    if gaps.scaled or gaps.anew:
        return [*found, gaps.scaled or gaps.anew]
    speeds = leg_speeds(everyone, network)
    if fitted.speed and len(speeds) >= MIN_LEGS and not gaps.compared:
        speed = usual_speed(speeds)
        if not 1 / FASTER <= speed / fitted.speed <= FASTER:
            words = (
                f"vehicles drive {speed:.3g} m/s between cameras (upper quartile), {speed / fitted.speed:.3g} times the"
            )
            return [*found, f"{words} {fitted.speed:.3g} m/s that were fitted"]
    lists = [one_per_pass(everyone[part == side]) for side in (QUERY, GALLERY)]
    both = Sightings.concatenate(lists)
    side = np.repeat([QUERY, GALLERY], [len(one) for one in lists])
    if odd := odd_clocks(both, network, side):
        return [*found, f"the clock of the queries: {odd[0].describe()}"]
    called = network.named(both).called
    clocks = [f"camera {called(clock.camera)}: {clock.describe()}" for clock in odd_clocks(both, network)]
    return [*found, *(clocks or filter(None, [gaps.otherwise]))]


class Gaps(NamedTuple):
    """How the gaps of a test list differ from those of training, in words; empty where nothing is found."""

    compared: bool = True  # enough vehicles went between cameras that training has enough legs of
    scaled: str = ""  # by a factor
    otherwise: str = ""
    anew: str = ""  # not at all, but some trips are cut in two


def other_gaps(fitted: Habits, seen: Sightings, network: CameraNetwork) -> Gaps:
    """Compare the gaps of a test list with those of training between the same cameras.

    Each leg has a place among those of training between the same two cameras, from 0 to 1. If the times are right, the
    places are spread evenly, each vehicle counting once. The largest difference of shares (Kolmogorov and Smirnov's)
    tells if they are too low, too high, or too far from the middle; a factor is to blame if it makes them even.
    """
    seen = seen[seen.known & ~np.isnan(seen.time_s)]
    found, among = legs(seen, network), []
    for pair, rows in _by_pair(found, network):
        among += [(rows, np.array(fitted.gaps[pair]))] if pair in fitted.gaps else []
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in among)])
    vehicle, count = np.unique(found.identity[rows], return_inverse=True, return_counts=True)[1:]
    if len(count) < MIN_VEHICLES or not fitted.vehicles:
        return Gaps(False, anew=_starts_anew(fitted, seen, network))
    weight = 1 / count[vehicle] / len(count)

    def places(factor: float) -> np.ndarray:
        """Of the legs, if they were shorter by a factor."""
        each = []
        for of, gaps in among:
            ends = (np.searchsorted(gaps, found.seconds[of] / factor, side) for side in ("left", "right"))
            each.append((sum(ends) + 1) / 2 / (len(gaps) + 1))
        return np.concatenate(each)

    def unevenness(place: np.ndarray) -> float:
        return max(_excess(values, weight) for values in (place, 1 - place, np.abs(2 * place - 1)))

    bound = max(OTHERWISE, SURE * np.sqrt(1 / len(count) + 1 / fitted.vehicles))
    if unevenness(here := places(1.0)) <= bound:
        return Gaps(anew=_starts_anew(fitted, seen, network))
    ratio = np.concatenate([found.seconds[of] / max(np.median(gaps), 1.0) for of, gaps in among])
    order = np.argsort(ratio)
    factor = float(ratio[order][np.searchsorted(np.cumsum(weight[order]), 0.5)])
    of_whom = f"{len(rows)} trips of {len(count)} vehicles"
    if factor > 0 and unevenness(places(factor)) <= bound:
        if 1 / STRETCH < factor < STRETCH:
            return Gaps(anew=_starts_anew(fitted, seen, network))
        text = f"gaps between the same cameras are {factor:.2g} times those of training (median of {of_whom}); look at "
        return Gaps(scaled=text + "their unit and frame rate")
    short, long = (100 * weight[part].sum() for part in (here < 0.1, here > 0.9))
    text = (
        f"gaps between the same cameras are spread otherwise than in training: {short:.0f} % are shorter than nine in "
        f"ten there, {long:.0f} % longer, {factor:.2g} times in the median ({of_whom}); see that each time belongs to "
        "its image and that all cameras have one clock"
    )
    return Gaps(otherwise=text)


def _starts_anew(fitted: Habits, seen: Sightings, network: CameraNetwork) -> str:
    """Whether several vehicles go on, from their last pass to their first, as if a round of the counters later."""
    if not len(seen):
        return ""
    seen, span = one_per_pass(seen), float(np.ptp(seen.time_s))
    seen = seen[np.lexsort((seen.time_s, seen.identity))]
    first = np.flatnonzero(np.diff(seen.identity, prepend=-1))
    last = np.append(first[1:], len(seen)) - 1
    apart = seen.camera[first] != seen.camera[last]
    first, last, row = first[apart], last[apart], network.rows(seen.camera)
    around = Legs(row[last], row[first], span - (seen.time_s[last] - seen.time_s[first]), seen.identity[first])
    cut = chance = 0.0
    for pair, rows in _by_pair(around, network):
        if pair in fitted.gaps and 4 * (most := np.quantile(fitted.gaps[pair], 0.75)) < span:
            cut += np.count_nonzero(around.seconds[rows] <= most)
            chance += len(rows) * (most / (span - most)) ** 2
    if cut < max(CUT, MORE * chance):
        return ""
    return f"counters start anew about every {span:.0f} s; add what was counted before each start"


def _excess(values: np.ndarray, weight: np.ndarray) -> float:
    """By how large a share more values, in [0, 1], lie above a point than of an even spread, at most."""
    order = np.argsort(values)
    below = np.cumsum(weight[order]) - weight[order]
    return float((values[order] - below).max())


def _nearest_gap_s(query: Sightings, gallery: Sightings) -> np.ndarray:
    """Seconds from each query with a time to the nearest gallery image of another camera."""
    found = []
    for camera in np.unique(query.camera):
        times = np.sort(gallery.time_s[(gallery.camera != camera) & ~np.isnan(gallery.time_s)])
        asked = query.time_s[(query.camera == camera) & ~np.isnan(query.time_s)]
        if len(times) and len(asked):
            after = np.searchsorted(times, asked)
            ends = [times[np.clip(after + step, 0, len(times) - 1)] for step in (-1, 0)]
            found.append(np.abs(np.array(ends) - asked).min(axis=0))
    return np.concatenate([np.empty(0), *found])
