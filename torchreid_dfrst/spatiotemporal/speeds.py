"""How fast vehicles go from camera to camera, and whether times and distances are in the right units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import one_per_pass

EARTH_M = 4.0e7
PLAUSIBLE_SPEED = (1.0, 70.0)  # m/s: 4 to 250 km/h
USUAL_SPEED = 10.0
LEG_M = 100.0
MIN_LEGS = 20
SHORT_M = 20.0  # cameras of one network are farther apart, unless their distances are in kilometres
ANYWAY = "If this is right, pass check_units=False (in a configuration: spacetime.options {check_units: false})"
UNITS = {
    "milliseconds": 1e-3,
    "frames at 30 a second": 1 / 30,
    "frames at 25 a second": 1 / 25,
    "frames at 10 a second": 1 / 10,
    "minutes": 60.0,
    "hours": 3600.0,
}


class Legs(NamedTuple):
    """From one pass of a vehicle to its next one, where another camera saw that: ``(L,)`` each."""

    start: np.ndarray  # int64 row of the network
    end: np.ndarray
    seconds: np.ndarray  # 0 or more
    identity: np.ndarray


def legs(sightings: Sightings, network: CameraNetwork) -> Legs:
    """Those of all known vehicles, of rows with a time."""
    seen = one_per_pass(sightings[sightings.known & ~np.isnan(sightings.time_s)])
    seen = seen[np.lexsort((seen.time_s, seen.identity))]
    leg = np.flatnonzero((np.diff(seen.identity) == 0) & (np.diff(seen.camera) != 0))
    row = network.rows(seen.camera)
    return Legs(row[leg], row[leg + 1], np.diff(seen.time_s)[leg], seen.identity[leg])


def leg_speeds(sightings: Sightings, network: CameraNetwork) -> np.ndarray:
    """Speeds in m/s over legs of at least ``LEG_M`` metres.

    Where no road is that long, as in a small network or one given in kilometres, over all of them.
    """
    least = LEG_M if network.distance_m.max() >= LEG_M else 0.0
    found = legs(sightings, network)
    metres = network.distance_m[found.start, found.end]
    far = (metres >= least) & (metres > 0) & (found.seconds > 0)
    return metres[far] / found.seconds[far]


def usual_speed(speeds: np.ndarray) -> float:
    """The upper quartile, for that of traffic that does not stop."""
    return float(np.quantile(speeds, 0.75))


def check_speed(sightings: Sightings, network: CameraNetwork) -> None:
    """Refuse times in another unit than seconds, or distances in another than metres.

    Fewer than ``MIN_LEGS`` legs say nothing of the times; then only a network shorter than ``SHORT_M`` is refused.

    Raises:
        ValueError: the ``usual_speed`` is impossible; the message names the unit that would make it usual.
    """
    speeds, longest = leg_speeds(sightings, network), network.distance_m.max()
    if len(speeds) < MIN_LEGS:
        if longest < SHORT_M:
            raise ValueError(
                f"the cameras farthest from each other are {longest:.3g} m apart by road: the distances look like "
                f"kilometres (then {1000 * longest:.0f} m); they must be metres. {ANYWAY}"
            )
        return
    speed = usual_speed(speeds)
    if PLAUSIBLE_SPEED[0] <= speed <= PLAUSIBLE_SPEED[1]:
        return
    unit, seconds = min(UNITS.items(), key=lambda item: abs(np.log(speed / item[1] / USUAL_SPEED)))
    ratio = speed / USUAL_SPEED
    others = {"kilometres": 1e3, "centimetres": 1e-2, "miles": 1609.344}
    metre, metres = min(others.items(), key=lambda item: abs(np.log(ratio * item[1])))
    hints = [f"the times look like {unit} (then {speed / seconds:.1f} m/s)"]
    if abs(np.log(ratio * metres)) < np.log(4):
        hints.append(f"the distances look like {metre} (then {speed * metres:.1f} m/s)")
    if longest < SHORT_M:
        hints.reverse()
    raise ValueError(
        f"vehicles would drive {speed:.3g} m/s between cameras (upper quartile of {len(speeds)} legs), outside "
        f"{PLAUSIBLE_SPEED[0]:g} to {PLAUSIBLE_SPEED[1]:g}: {', or '.join(hints)}; times must be seconds and distances "
        f"metres. {ANYWAY}"
    )


def check_network(network: CameraNetwork) -> None:
    """Refuse distances that no road has.

    Raises:
        ValueError: fewer than two cameras, no distance above 0, or one longer than the Earth is round.
    """
    if len(network) < 2:
        raise ValueError(f"a network of {len(network)} cameras has no trips: space and time need at least two")
    if not network.distance_m.any():
        raise ValueError(
            f"all distances between the {len(network)} cameras are 0: give the metres by road from each to each other"
        )
    if network.distance_m.max() > EARTH_M:
        i, j = np.unravel_index(int(network.distance_m.argmax()), network.distance_m.shape)
        raise ValueError(
            f"distance from camera {network.called(network.cameras[i])} to {network.called(network.cameras[j])} is "
            f"{network.distance_m[i, j]:.6g} m, more than once round the Earth: give metres"
        )
