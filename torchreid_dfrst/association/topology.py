"""Which cameras a vehicle goes to next, and how long that takes, against passes of unrelated vehicles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import poisson

from torchreid_dfrst.association.average_linkage import grow, upper
from torchreid_dfrst.association.evidence import Evidence
from torchreid_dfrst.association.passes import Passes
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.passes import direct_trips

SHUFFLES = 20
WIDTH = np.log(2.0)
"""A peak holds travel times of which the longest is at most twice the shortest."""
LEVEL = 0.01
"""Wrong links that are accepted in a whole network, on average."""


class Link(NamedTuple):
    """Vehicles go from one camera to another.

    Args:
        origin: camera label.
        destination: camera label.
        trips: how many were seen.
        expected: how many of those in the peak unrelated passes would make.
        median_s: travel time, seconds.
        low_s: 15th percentile.
        high_s: 85th percentile.
    """

    origin: int
    destination: int
    trips: int
    expected: float
    median_s: float
    low_s: float
    high_s: float


def alike(passes: Passes, evidence: Evidence) -> np.ndarray:
    """``(P,)`` trajectories by appearance alone: what times say of them is no consequence of times."""
    pairs = evidence.appearance(upper(passes.embedding @ passes.embedding.T))
    return grow(pairs, len(passes)).cut(-evidence.odds(len(passes)) + evidence.boldness)


def topology(passes: Passes, trajectory: np.ndarray) -> list[Link]:
    """The ordered pairs of cameras whose trips have more of one duration than chance makes.

    The trips of a pair (see ``passes.direct_trips``) are compared with those that the same trajectories make when the
    times of each camera are dealt anew (unrelated vehicles), and when the cameras of all passes are (a vehicle's passes
    lie close in time, whatever the roads), each ``SHUFFLES`` times. A pair is linked if the fullest peak (``WIDTH``) of
    its durations is fuller than in both by a Poisson law, at ``LEVEL`` over all pairs and peaks.

    Args:
        passes: all with a time; others take no part.
        trajectory: ``(P,)`` such as ``alike`` gives; or vehicles, where they are known.
    """
    known = np.flatnonzero(~np.isnan(passes.first_s))
    seen = passes[known].sightings
    cameras = len(np.unique(seen.camera))
    if cameras < 2:
        return []
    observed = _durations(seen, trajectory[known])
    generator = np.random.default_rng(0)
    dealt = [_backgrounds(seen, trajectory[known], generator, what) for what in ("times", "cameras")]
    links = []
    for (origin, destination), values in sorted(observed.items()):
        start = values
        inside = np.searchsorted(values, start + WIDTH, side="right") - np.arange(len(values))
        best = int(inside.argmax())
        low, high = start[best], start[best] + WIDTH
        chances = [np.concatenate(by_pair.get((origin, destination), [np.empty(0)])) for by_pair in dealt]
        expected = max((((chance >= low) & (chance <= high)).sum() + 1) / SHUFFLES for chance in chances)
        if poisson.sf(inside[best] - 1, expected) * len(values) * cameras * (cameras - 1) < LEVEL:
            shares = np.exp(np.quantile(values, [0.5, 0.15, 0.85]))
            links.append(Link(origin, destination, len(values), float(expected), *map(float, shares)))
    return links


def _backgrounds(
    seen: Sightings, trajectory: np.ndarray, generator: np.random.Generator, what: str
) -> dict[tuple[int, int], list[np.ndarray]]:
    """Durations of each pair, as ``_durations``, of each deal of the times of each camera or of all cameras."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for _ in range(SHUFFLES):
        camera, time_s = seen.camera, seen.time_s.copy()
        if what == "cameras":
            camera = generator.permutation(camera)
        for one in np.unique(camera) if what == "times" else ():
            rows = np.flatnonzero(camera == one)
            time_s[rows] = time_s[generator.permutation(rows)]
        for pair, values in _durations(Sightings(camera, time_s), trajectory).items():
            found.setdefault(pair, []).append(values)
    return found


def _durations(seen: Sightings, trajectory: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Rising ln seconds of the trips of each ordered pair of cameras."""
    try:
        first, second = direct_trips(Sightings(seen.camera, seen.time_s, trajectory))
    except ValueError:  # no trajectory was seen by two cameras
        return {}
    gap = np.log(np.maximum(seen.time_s[second] - seen.time_s[first], 1.0))
    order = np.lexsort((gap, seen.camera[second], seen.camera[first]))
    pair, gap = np.stack([seen.camera[first], seen.camera[second]])[:, order], gap[order]
    cut = np.flatnonzero((np.diff(pair, axis=1) != 0).any(axis=0)) + 1
    ends = pair[:, np.r_[0, cut]].T.tolist()
    return {(int(a), int(b)): values for (a, b), values in zip(ends, np.split(gap, cut), strict=True)}
