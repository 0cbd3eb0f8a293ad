"""Everything about a city before the first pixel: who lives there, where the cameras are, who is seen when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.city.travel import Passage, Roads, looks, make_roads, travel
from torchreid_dfrst.city.vehicles import Vehicle, make_vehicles

REACH_M = 9.0
MOST_IDENTITIES, MOST_CAMERAS = 9999, 999
VEHICLES, ROADS, TRIPS, SPLIT, QUERIES, STREETS, PICTURES = range(7)  # independent streams of random numbers


@dataclass(frozen=True)
class Settings:
    """What defines a city; two cities with equal settings are equal byte for byte.

    Args:
        identities: number of vehicles, 4 to 9,999.
        cameras: number of cameras, 3 to 999.
        seed: of everything.
        hours: length of the recording. Fewer hours put more vehicles on the road at a time, so time says less.
        passages: about how often a vehicle passes a camera.
        images_per_track: images at most of one passage.
        models: number of makes and models that the vehicles share; 0 means a quarter of ``identities``, at least 9.
        twins: share of vehicles that copy another one and differ by one detail.
        test_share: share of the identities that are for testing.

    Raises:
        ValueError: a value is out of its range.
    """

    identities: int = 100
    cameras: int = 10
    seed: int = 0
    hours: float = 2.0
    passages: int = 4
    images_per_track: int = 3
    models: int = 0
    twins: float = 0.35
    test_share: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges: dict[str, tuple[float, float]] = {
            "identities": (4, MOST_IDENTITIES),
            "cameras": (3, MOST_CAMERAS),
            "seed": (0, 2**63 - 1),
            "hours": (0.25, 1000.0),
            "passages": (3, 1000),
            "images_per_track": (1, 20),
            "models": (0, MOST_IDENTITIES),
            "twins": (0.0, 0.95),
            "test_share": (0.05, 0.95),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(getattr(Settings, name), int) and not isinstance(value, int):
                raise ValueError(f"a city cannot have {name}={value!r}: give a whole number")
            if not low <= value <= high:
                raise ValueError(f"a city cannot have {name}={value!r}: choose between {low} and {high}")

    def stream(self, which: int, number: int = 0) -> np.random.Generator:
        """The random numbers for one purpose and one thing, independent of all others."""
        return np.random.default_rng([self.seed, which, number])


@dataclass(frozen=True)
class Shot:
    """One image to be taken.

    Args:
        identity: vehicle.
        passage: during which it is taken.
        frame: of the video, 25 a second.
        past_m: metres past the middle of the junction.
        number: index of the box in that frame.
    """

    identity: int
    passage: Passage
    frame: int
    past_m: float
    number: int = 0

    @property
    def camera(self) -> int:
        """Number of the camera, from 1."""
        return self.passage.camera

    @property
    def name(self) -> str:
        """File name as VeRi-776 has it."""
        return f"{self.identity:04d}_c{self.camera:03d}_{self.frame:08d}_{self.number}.jpg"


@dataclass(frozen=True, eq=False)
class Plan:
    """A city on paper.

    Args:
        settings: what it was made from.
        vehicles: identity k is ``vehicles[k - 1]``.
        roads: with the cameras.
        camera_order: camera numbers in the order of the rows of ``camera_Dist.txt``.
        shots: all images, sorted by name.
        tracks: images of one vehicle passing one camera once, in the order of time.
        test: identities for testing.
        queries: one shot per test identity and camera, sorted by name.
    """

    settings: Settings
    vehicles: list[Vehicle]
    roads: Roads
    camera_order: list[int]
    shots: list[Shot]
    tracks: list[list[Shot]]
    test: frozenset[int]
    queries: list[Shot]


def plan_city(settings: Settings) -> Plan:
    """Decide everything but the pixels."""
    models = settings.models or max(9, settings.identities // 4)
    vehicles = make_vehicles(settings.identities, settings.stream(VEHICLES), models=models, twins=settings.twins)
    roads = make_roads(settings.cameras, settings.stream(ROADS))
    tracks = []
    for vehicle in vehicles:
        rng = settings.stream(TRIPS, vehicle.identity)
        for passage in travel(roads, settings.hours, settings.passages, rng):
            track = looks(passage, settings.images_per_track, REACH_M, rng)
            tracks.append([Shot(vehicle.identity, passage, frame, past_m) for frame, past_m in track])
    tracks = _numbered(tracks)
    test = _split(vehicles, settings)
    order = [int(k) + 1 for k in settings.stream(ROADS, 1).permutation(settings.cameras)]
    if order == sorted(order):
        order = order[::-1]  # the point is that readers must not assume the natural order
    shots = sorted((shot for track in tracks for shot in track), key=lambda shot: shot.name)
    queries = _queries([shot for shot in shots if shot.identity in test], settings.stream(QUERIES))
    return Plan(settings, vehicles, roads, order, shots, tracks, test, queries)


def _numbered(tracks: list[list[Shot]]) -> list[list[Shot]]:
    """Count the boxes of every frame of every camera."""
    seen: defaultdict[tuple[int, int], int] = defaultdict(int)
    result = []
    for track in tracks:
        numbered = []
        for shot in track:
            key = (shot.camera, shot.frame)
            numbered.append(Shot(shot.identity, shot.passage, shot.frame, shot.past_m, seen[key]))
            seen[key] += 1
        result.append(numbered)
    return result


def _split(vehicles: Sequence[Vehicle], settings: Settings) -> frozenset[int]:
    """Identities for testing; a vehicle and its twins stay together, or telling them apart would be no task."""
    families: defaultdict[int, list[int]] = defaultdict(list)
    for vehicle in vehicles:
        families[vehicle.twin_of or vehicle.identity].append(vehicle.identity)
    wanted = max(2, round(settings.test_share * len(vehicles)))
    test: list[int] = []
    for key in settings.stream(SPLIT).permutation(sorted(families)):
        if len(test) + len(families[int(key)]) <= wanted:
            test += families[int(key)]
    return frozenset(test)


def _queries(shots: list[Shot], rng: np.random.Generator) -> list[Shot]:
    """One image of every identity in every camera."""
    groups: defaultdict[tuple[int, int], list[Shot]] = defaultdict(list)
    for shot in shots:
        groups[shot.identity, shot.camera].append(shot)
    return sorted((group[int(rng.integers(len(group)))] for group in groups.values()), key=lambda shot: shot.name)
