"""Times and distances that contradict each other."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.data.veri_network import known_orders
from torchreid_dfrst.doctor.findings import ERROR, NOTE, WARNING, Finding, finding
from torchreid_dfrst.doctor.traffic import SEARCH, Order, camera_order, clock_offsets, fast_delays, trips
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import check_network, check_speed

OFFSET_S = 10.0  # VeRi-776's cameras seem up to 7 s apart, which may be their fields of view
SIGMAS = 5.0
SLACK_S = 15.0  # fields of view overlap and have a length
FAST = 40.0  # m/s


def check_times(sightings: dict[str, Sightings], network: CameraNetwork | None) -> list[Finding]:
    """Look at units, clocks, and distances, as far as times and distances are there.

    Args:
        sightings: split to its sightings; all are looked at together, nothing is fitted for a model.
        network: road distances, or None.
    """
    everyone = Sightings.concatenate(
        # the query images are in VeRi's gallery already
        [part for split, part in sightings.items() if split != "query"]
    )
    missing = np.isnan(everyone.time_s)
    if missing.all():
        text = "no image has a time: appearance can be trained, space and time cannot be used"
        return [Finding(NOTE, "times", text, len(everyone), [], "")]
    found = finding(
        WARNING,
        "missing times",
        "{count} of " + str(len(everyone)) + " images [has|have] no time",
        everyone.path[missing],
        "space and time refuse to work on them: supply the times or leave the images out",
    )
    if network is None:
        return [
            *found,
            Finding(NOTE, "distances", "there are no camera distances: space and time need them", 0, [], ""),
        ]
    unknown = np.setdiff1d(everyone.camera, network.cameras)
    if len(unknown):
        cameras = [f"camera {camera}" for camera in unknown]
        return [
            *found,
            *finding(ERROR, "distances", "{count} [camera has|cameras have] no distances", cameras, "add their rows"),
        ]
    known = everyone[~missing & (everyone.identity != UNKNOWN)]
    try:
        check_network(network)
        check_speed(known, network)
    except ValueError as error:
        found.append(Finding(ERROR, "units", str(error), 1, [], "convert times to seconds and distances to metres"))
        return found
    found += _order(camera_order(trips(known), network, known_orders(network)), network)
    if not any(entry.severity == ERROR for entry in found):
        found += _too_fast(known, network)
        found += _clocks(known, network)
    unused = np.setdiff1d(network.cameras, everyone.camera)
    return found + finding(
        NOTE,
        "unused cameras",
        "{count} [camera|cameras] with distances [has|have] no image",
        [f"camera {c}" for c in unused],
        "",
    )


def _order(order: Order | None, network: CameraNetwork) -> list[Finding]:
    check = "camera order"
    if order is None:
        text = "too few trips between cameras to compare distances with travel times"
        return [Finding(NOTE, check, text, 0, [], "")]
    measured = f"rank correlation of distance and travel time over {order.pairs} camera pairs: {order.correlation:.2f}"
    if order.wrong:
        numbers = " ".join(str(camera + 1) for camera in order.best)
        if order.best_name == SEARCH:
            hint = f", as whoever measured the distances knows it; a hint only, for others may fit as well: {numbers}"
        else:
            hint = f"; {order.best_name} it reads {numbers}"
        return [
            Finding(
                ERROR,
                check,
                f"wrong camera order: the rows of the distance matrix do not belong to the cameras they are given to "
                f"({measured}; {order.best_name}: {order.best_correlation:.2f})",
                order.pairs,
                [],
                f"write the camera of each row into camera_ID.txt (of a table: into the header of distances.csv){hint}",
            )
        ]
    if order.correlation < 0.5:
        advice = "check the distances, their order and the vehicle numbers; space and time will help little"
        return [Finding(WARNING, check, f"distances hardly explain travel times ({measured})", order.pairs, [], advice)]
    return [Finding(NOTE, check, measured, order.pairs, [], "")]


def _too_fast(known: Sightings, network: CameraNetwork) -> list[Finding]:
    impossible = []
    for (a, b), delay in fast_delays(trips(known), directed=False).items():
        metres = float(network.between(np.array([a]), np.array([b]))[0, 0])
        if metres / (delay + SLACK_S) > FAST:
            impossible.append(f"cameras {a + 1} and {b + 1}: {metres:.0f} m in {delay:.0f} s")
    return finding(
        WARNING,
        "distances too long",
        "{count} [pair of cameras is|pairs of cameras are] passed at more than " + f"{FAST * 3.6:.0f} km/h",
        impossible,
        "correct these distances, or the clocks of these cameras (cameras are counted from 1 here)",
    )


def _clocks(known: Sightings, network: CameraNetwork) -> list[Finding]:
    offsets = clock_offsets(known, network)
    wrong = [
        f"camera {camera + 1}: {offset:+.0f} s (give or take {error:.0f} s)"
        for camera, (offset, error) in offsets.items()
        if abs(offset) > max(OFFSET_S, SIGMAS * error)
    ]
    sure = sum(SIGMAS * error < 3 * OFFSET_S for _, error in offsets.values())
    if not wrong:
        text = "clocks could not be compared: no camera has enough two-way traffic to see half a minute"
        if sure:
            text = f"no clock is off; {sure} of {len(network)} cameras have enough two-way traffic to see half a minute"
        return [Finding(NOTE, "clock offsets", text, 0, [], "")]
    return finding(
        WARNING,
        "clock offsets",
        "{count} [camera has|cameras have] a clock that differs from the others', by traffic that goes both ways",
        wrong,
        "subtract the offset from the times of that camera (cameras are counted from 1 here)",
    )
