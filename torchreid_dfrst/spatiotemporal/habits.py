"""How fast and how far apart training vehicles are seen, so that a fitted model knows times that it does not fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.clocks import odd_clocks
from torchreid_dfrst.spatiotemporal.passes import one_per_pass
from torchreid_dfrst.spatiotemporal.speeds import MIN_LEGS, leg_speeds, usual_speed

FASTER = 3.0  # than in training, or slower: train and test of one city differ by some percent
GALLERY, QUERY = 0, 1  # of two clocks that contradict each other the first is right


class Habits(NamedTuple):
    """What is kept of the training times. 0 where too little was seen."""

    speed: float  # m/s, see ``speeds.usual_speed``
    longest_s: float  # between two sightings of one vehicle


NOTHING_KNOWN = Habits(0.0, 0.0)


def restored(content: Any) -> Habits:
    """Of a saved model; ``NOTHING_KNOWN`` from one that was saved before they were.

    Raises:
        ValueError: not what ``habits`` leaves.
    """
    if content is None:
        return NOTHING_KNOWN
    fits = isinstance(content, dict) and set(content) == set(Habits._fields)
    if not fits or not all(type(v) in (int, float) and 0 <= v < np.inf for v in content.values()):
        raise ValueError(f"habits is {str(content)[:80]}, expected {' and '.join(Habits._fields)}, 0 or more")
    return Habits(**{name: float(value) for name, value in content.items()})


def habits(sightings: Sightings, network: CameraNetwork) -> Habits:
    """Of a training list; rows without identity or time are left out."""
    known = sightings[sightings.known & ~np.isnan(sightings.time_s)]
    speeds, label = leg_speeds(known, network), np.unique(known.identity, return_inverse=True)[1]
    first, last = np.full(label.max(initial=-1) + 1, np.inf), np.full(label.max(initial=-1) + 1, -np.inf)
    np.minimum.at(first, label, known.time_s)
    np.maximum.at(last, label, known.time_s)
    speed = usual_speed(speeds) if len(speeds) >= MIN_LEGS else 0.0
    return Habits(speed, float((last - first).max(initial=0.0)))


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
    speeds = leg_speeds(everyone, network)
    if fitted.speed and len(speeds) >= MIN_LEGS:
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
    return found + [f"camera {called(clock.camera)}: {clock.describe()}" for clock in odd_clocks(both, network)]


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
