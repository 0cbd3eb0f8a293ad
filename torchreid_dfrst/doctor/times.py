"""Times and distances that contradict each other."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.data.veri776 import known_orders
from torchreid_dfrst.doctor.camera_order import SEARCH, Delays, Order, camera_order, delays, fast_delays
from torchreid_dfrst.doctor.clock_offsets import clock_offsets, shifted
from torchreid_dfrst.doctor.findings import ERROR, NOTE, WARNING, Finding, finding
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.clocks import Clock, corrected, odd_clocks, start_anew_s
from torchreid_dfrst.spatiotemporal.habits import contradictions, habits, other_gaps
from torchreid_dfrst.spatiotemporal.passes import one_per_pass
from torchreid_dfrst.spatiotemporal.speeds import check_network, check_speed

OFFSET_S = 10.0  # VeRi-776's cameras seem up to 7 s apart, which may be their fields of view
SIGMAS = 5.0
SLACK_S = 15.0  # fields of view overlap and have a length
FAST = 40.0  # m/s
ORDER, CLOCKS, ONE = "camera order", "clock offsets", "one camera"  # the last: the rows of all others fit
UNITS_ADVICE = "convert times to seconds and distances to metres"


def check_times(parts: dict[str, Sightings], network: CameraNetwork | None) -> list[Finding]:
    """Look at units, clocks, and distances, as far as they are there, of all splits together."""
    # the query images are in VeRi's gallery already
    everyone = Sightings.concatenate([part for split, part in parts.items() if split != "query"])
    missing = np.isnan(everyone.time_s)
    if missing.all():
        text = "no image has a time: appearance can be trained, space and time cannot be used"
        return [Finding(NOTE, "times", text, len(everyone), [], "")]
    found = finding(
        WARNING,
        "missing times",
        f"{{count}} of {len(everyone)} images [has|have] no time",
        everyone.path[missing],
        "space and time refuse to work on them: supply the times or leave the images out",
    )
    if network is None:
        text = "there are no camera distances: space and time need them"
        return [*found, Finding(NOTE, "distances", text, 0, [], "")]
    unknown = [f"camera {everyone.camera_called(c)}" for c in np.setdiff1d(everyone.camera, network.cameras)]
    if unknown:
        text = "{count} [camera has|cameras have] no distances"
        return found + finding(ERROR, "distances", text, unknown, "add their rows")
    other = _check_test(parts, network)
    checked = parts["train"] if other else everyone
    found += [*other, *_check_trips(one_per_pass(checked[~np.isnan(checked.time_s) & checked.known]), network)]
    unused = [f"camera {network.called(c)}" for c in np.setdiff1d(network.cameras, everyone.camera)]
    return found + finding(
        NOTE, "unused cameras", "{count} [camera|cameras] with distances [has|have] no image", unused, ""
    )


def _check_test(parts: dict[str, Sightings], network: CameraNetwork) -> list[Finding]:
    """Whether vehicles take as long between two cameras in query and gallery as in training."""
    train, query, gallery = (parts.get(split) for split in ("train", "query", "gallery"))
    if train is None or query is None or gallery is None:
        return []
    fitted = habits(train, network)
    own, gaps = (other_gaps(fitted, part, network) for part in (train, Sightings.concatenate([query, gallery])))
    other = gaps.scaled or gaps.otherwise or (gaps.anew and not own.anew)
    return finding(
        WARNING,
        "test times",
        "the times of query and gallery do not fit those of training",
        contradictions(fitted, query, gallery, network) if other else [],
        "correct the times of query and gallery, or space and time mislead there",
    )


def _check_trips(seen: Sightings, network: CameraNetwork) -> list[Finding]:
    """Clocks come first: where they explain the traffic, neither the order of the cameras nor the unit is to blame."""
    try:
        check_network(network)
    except ValueError as error:
        return [Finding(ERROR, "units", str(error), 1, [], UNITS_ADVICE)]
    clocks = odd_clocks(seen, network)
    right, _ = corrected(seen, clocks, seen.camera)
    if units := _check_units(seen, right, network):
        return units
    if span := start_anew_s(right, network):
        text = f"all counters start anew together, about every {span:.0f} s: trips across a start take no usual time"
        return [Finding(ERROR, CLOCKS, text, 1, [], "add what was counted before each start")]
    order, offsets = _check_order(delays(right), network), clock_offsets(right, network)
    if order.severity == ERROR:
        told = _check_order(delays(shifted(right, offsets)), network)
        if told.severity == ERROR and clocks:  # corrected times explain nothing as long as the rows are wrong
            told = _check_order(delays(seen), network)
        order = told if told.severity != ERROR or clocks else order
    if order.severity != ERROR:
        return [order, *_check_speeds(delays(right), network), *_check_clocks(network, clocks, offsets)]
    odd = _check_clocks(network, clocks, offsets) if order.check == ONE else []
    return [order, *(one for one in odd if one.severity != NOTE)]


def _check_units(seen: Sightings, right: Sightings, network: CameraNetwork) -> list[Finding]:
    try:
        check_speed(right, network)
        return []
    except ValueError as error:
        units = [Finding(ERROR, "units", str(error), 1, [], UNITS_ADVICE)]
    order = camera_order(delays(seen), network, known_orders(network))
    if order is None or not order.wrong:
        return units
    try:
        check_speed(seen, CameraNetwork(order.best, network.distance_m))
    except ValueError:
        return units
    return [_describe_order(order, network)]


def _check_order(trips: Delays, network: CameraNetwork) -> Finding:
    order = camera_order(trips, network, known_orders(network))
    if order is None:
        return Finding(NOTE, ORDER, "too few trips between cameras to compare distances with travel times", 0, [], "")
    return _describe_order(order, network)


def _describe_order(order: Order, network: CameraNetwork) -> Finding:
    measured = f"rank correlation of distance and travel time over {order.pairs} camera pairs: {order.correlation:.2f}"
    if order.of_one:
        odd = f"camera {network.called(order.without)}"
        text = f"the times of {odd}, or its distances, contradict the others ({measured}; without it: "
        advice = f"correct the times of {odd}, or its row of the distances"
        return Finding(ERROR, ONE, f"{text}{order.without_correlation:.2f})", order.pairs, [], advice)
    if order.wrong:
        names = ", ".join(network.called(camera) for camera in order.best)
        hint = f"; {order.best_name} it reads {names}"
        if order.best_name == SEARCH:
            hint = f", as whoever measured the distances knows it; a hint only, for others may fit as well: {names}"
        text = "wrong camera order: the rows of the distance matrix do not belong to the cameras they are given to "
        text += f"({measured}; {order.best_name}: {order.best_correlation:.2f})"
        advice = "write the camera of each row into camera_ID.txt (of a table: into the header of distances.csv)"
        return Finding(ERROR, ORDER, text, order.pairs, [], advice + hint)
    if order.correlation < 0.5:
        advice = "check the distances, their order and the vehicle numbers; space and time will help little"
        return Finding(WARNING, ORDER, f"distances hardly explain travel times ({measured})", order.pairs, [], advice)
    return Finding(NOTE, ORDER, measured, order.pairs, [], "")


def _check_speeds(trips: Delays, network: CameraNetwork) -> list[Finding]:
    impossible = []
    for (a, b), delay in fast_delays(trips, directed=False).items():
        metres = float(network.between(np.array([a]), np.array([b]))[0, 0])
        if metres / (delay + SLACK_S) > FAST:
            impossible.append(f"cameras {network.called(a)} and {network.called(b)}: {metres:.0f} m in {delay:.0f} s")
    return finding(
        WARNING,
        "distances too long",
        f"{{count}} [pair of cameras is|pairs of cameras are] passed at more than {FAST * 3.6:.0f} km/h",
        impossible,
        "correct these distances, or the clocks of these cameras",
    )


def _check_clocks(network: CameraNetwork, odd: list[Clock], offsets: dict[int, tuple[float, float]]) -> list[Finding]:
    """Clocks minutes off or of another rate, then those seconds off, as corrected for the first."""
    others, far = np.setdiff1d(network.cameras, [clock.camera for clock in odd]), []
    middle = float(np.median([offset for camera, (offset, _) in offsets.items() if camera in others] or [0.0]))
    offsets = {camera: (offset - middle, error) for camera, (offset, error) in offsets.items()}
    for clock in odd:
        rest, error = offsets.pop(clock.camera, (0.0, 0.0))
        if clock.rate == 1 and SIGMAS * error < max(3 * OFFSET_S, abs(rest)):
            clock = clock._replace(offset_s=clock.offset_s + rest)
        far.append(f"camera {network.called(clock.camera)}: {clock.describe()}")
    most = "the others" if len(others) >= len(odd) else f"camera {', '.join(map(network.called, others))}"
    found = finding(
        ERROR,
        CLOCKS,
        f"{{count}} [camera has|cameras have] another clock than {most}",
        far,
        "correct the times of that camera (subtract the offset or the jump, divide by the rate, add what was counted "
        "before it started anew), or space and time mislead there",
    )
    wrong = [
        f"camera {network.called(camera)}: {offset:+.0f} s (give or take {error:.0f} s)"
        for camera, (offset, error) in offsets.items()
        if abs(offset) > max(OFFSET_S, SIGMAS * error)
    ]
    found += finding(
        WARNING,
        CLOCKS,
        "{count} [camera has|cameras have] a clock that differs from the others', by traffic that goes both ways",
        wrong,
        "subtract the offset from the times of that camera",
    )
    if found:
        return found
    sure = sum(SIGMAS * error < 3 * OFFSET_S for _, error in offsets.values())
    text = "clocks could not be compared: no camera has enough two-way traffic to see half a minute"
    if sure:
        text = f"no clock is off; {sure} of {len(network)} cameras have enough two-way traffic to see half a minute"
    return [Finding(NOTE, CLOCKS, text, 0, [], "")]
