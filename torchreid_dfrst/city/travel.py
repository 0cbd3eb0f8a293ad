"""Roads and trips: who passes which camera when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree

FPS = 25
STEP = 5  # frames between looks: five a second, as in VeRi-776
MEDIAN_SPEED = 9.5  # m/s, free-flowing
SPEED_SPREAD = 0.25  # standard deviation of the logarithm, from trip to trip
LINK_SPREAD = 0.12  # the same, from road to road within a trip
RED_LIGHT = 0.45  # chance to be stopped at a junction
LONGEST_RED_S = 55.0
RETURN_TRIP = 0.55  # chance to drive back the way it came
SHORTEST_STOP_S, MEDIAN_STOP_S = 40.0, 100.0  # between two trips
DETOUR_SPREAD = 0.2  # standard deviation of the logarithm of what a driver thinks a road costs


@dataclass(frozen=True, eq=False)
class Roads:
    """A road graph with cameras at some of its junctions.

    Args:
        place: ``(J, 2)`` metres.
        length_m: ``(J, J)`` road lengths, symmetric; 0 where two junctions are not joined.
        camera_at: ``(C,)`` junction of camera 1, 2, …
    """

    place: np.ndarray
    length_m: np.ndarray
    camera_at: np.ndarray

    @cached_property
    def graph(self) -> csr_matrix:
        """The roads as SciPy's graph functions take them."""
        return csr_matrix(self.length_m)

    @property
    def camera_distance_m(self) -> np.ndarray:
        """``(C, C)`` shortest way between cameras along the roads, symmetric."""
        distance = dijkstra(self.graph, indices=self.camera_at)[:, self.camera_at]
        return (distance + distance.T) / 2

    def bearing(self, origin: int, target: int) -> float:
        """Direction of travel from one junction to another, radians from the x axis."""
        step = self.place[target] - self.place[origin]
        return float(np.arctan2(step[1], step[0]))


def make_roads(cameras: int, rng: np.random.Generator) -> Roads:
    """A town of blocks: a bent grid that has lost some of its roads.

    Args:
        cameras: number of cameras; about twice as many junctions are made.
        rng: source of randomness.
    """
    side = int(np.ceil(np.sqrt(2.0 * cameras)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    place = (grid + rng.uniform(-0.22, 0.22, grid.shape)) * rng.uniform(190, 260, 2)
    edges = [(k, k + 1) for k in range(side**2) if (k + 1) % side] + [(k, k + side) for k in range(side * (side - 1))]
    pairs = np.array(edges)
    metres = np.linalg.norm(place[pairs[:, 0]] - place[pairs[:, 1]], axis=1) * rng.uniform(1.0, 1.18, len(pairs))
    shape = (side**2, side**2)
    tree = minimum_spanning_tree(csr_matrix((rng.uniform(0.5, 1.0, len(pairs)), pairs.T), shape=shape)).toarray() > 0
    spare = np.flatnonzero(~tree[pairs[:, 0], pairs[:, 1]])  # roads nobody needs to get everywhere
    lost = rng.permutation(spare)[: len(pairs) // 6]
    length = np.zeros(shape)
    for k in np.setdiff1d(np.arange(len(pairs)), lost):
        a, b = pairs[k]
        length[a, b] = length[b, a] = metres[k]
    return Roads(place, length, rng.permutation(side**2)[:cameras])


@dataclass(frozen=True)
class Passage:
    """A vehicle passes a camera.

    Args:
        camera: from 1.
        time_s: when it is at the middle of the junction, seconds on the clock of all cameras.
        speed: metres per second there.
        come: direction of travel before the junction, radians from the x axis.
        leave: direction of travel after it.
    """

    camera: int
    time_s: float
    speed: float
    come: float
    leave: float


def drive(roads: Roads, way: Sequence[int], start_s: float, rng: np.random.Generator) -> tuple[list[Passage], float]:
    """One trip along junctions ``way``, with its own speed and its own red lights.

    Returns:
        Passages in the order of time, and the time of arrival. The time at a camera is when the vehicle drives
        through, after any wait there.
    """
    camera_of = {int(junction): number for number, junction in enumerate(roads.camera_at, start=1)}
    speed = MEDIAN_SPEED * np.exp(SPEED_SPREAD * rng.standard_normal())
    bearings = [roads.bearing(a, b) for a, b in pairwise(way)]
    passages, time = [], start_s
    for k, junction in enumerate(way):
        link_speed = speed * np.exp(LINK_SPREAD * rng.standard_normal())
        if k:
            time += roads.length_m[way[k - 1], junction] / link_speed
            if k < len(way) - 1 and rng.random() < RED_LIGHT:
                time += rng.uniform(4.0, LONGEST_RED_S)
        come, leave = bearings[max(k - 1, 0)], bearings[min(k, len(bearings) - 1)]
        if junction in camera_of:
            passages.append(Passage(camera_of[junction], time, 0.8 * link_speed, come, leave))
    return passages, time


def travel(roads: Roads, hours: float, passages: int, rng: np.random.Generator) -> list[Passage]:
    """What one vehicle does in the recorded time: errands, ways back, and pauses between them.

    Args:
        roads: the town.
        hours: length of the recording.
        passages: roughly how many passages to record; driving stops when there are as many.
        rng: source of randomness.

    Returns:
        At least two passages, by at least two cameras, in the order of time, all within the recording.
    """
    last = hours * 3600.0 - 10.0
    while True:
        found: list[Passage] = []
        time, home = rng.uniform(10.0, 0.8 * last), int(rng.integers(len(roads.place)))
        while time < last and len(found) < passages:
            way = _way(roads, home, rng)
            back = rng.random() < RETURN_TRIP
            for leg in (way, way[::-1]) if back else (way,):
                seen, time = drive(roads, leg, time, rng)
                found += seen
                time += SHORTEST_STOP_S + float(rng.lognormal(np.log(MEDIAN_STOP_S), 0.8))
            home = way[0] if back else way[-1]
        found = [passage for passage in found if passage.time_s < last][: passages + 1]
        if len({passage.camera for passage in found}) >= min(3, len(roads.camera_at)):
            return found


def _way(roads: Roads, home: int, rng: np.random.Generator) -> list[int]:
    """Junctions of a trip to a random far place, by the roads this driver believes to be short."""
    believed = roads.graph.copy()
    believed.data *= np.exp(DETOUR_SPREAD * rng.standard_normal(believed.nnz))
    cost, before = dijkstra(believed, indices=home, return_predecessors=True)
    far = np.flatnonzero(cost > np.median(cost))
    way = [int(rng.choice(far))]
    while way[-1] != home:
        way.append(int(before[way[-1]]))
    return way[::-1]


def looks(passage: Passage, count: int, reach_m: float, rng: np.random.Generator) -> list[tuple[int, float]]:
    """Frames at which a passing vehicle is cut out.

    Args:
        passage: the passage.
        count: how many at most.
        reach_m: how far before and after the middle of the junction the vehicle can be seen.
        rng: source of randomness.

    Returns:
        ``(frame, metres past the middle)`` in the order of time; frames are different multiples of ``STEP``.
    """
    middle, around = passage.time_s * FPS, reach_m / passage.speed * FPS
    first, last = int(np.ceil((middle - around) / STEP)), int((middle + around) // STEP)
    steps = np.arange(max(first, 0), max(last, first, 0) + 1)
    chosen = np.sort(rng.choice(steps, size=min(count, len(steps)), replace=False)) * STEP
    return [(int(frame), (float(frame) - middle) / FPS * passage.speed) for frame in chosen]
