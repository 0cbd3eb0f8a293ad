"""Pictures of trips: who was where when, the network with its travel times, and travel time by hour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from cycler import cycler

from torchreid_dfrst.association import Association
from torchreid_dfrst.report.camera_map import layout
from torchreid_dfrst.report.canvas import BLUE, LINES, figure, write
from torchreid_dfrst.sightings import CameraNetwork, Sightings

LONGEST, BUSIEST = 12, 6
FEWEST = 0.02
"""Share of the trips of the busiest pair from which on a pair is drawn."""
BEND, LABEL = 0.15, 0.35
"""How far an arrow bends, and where on it its label stands, of its length."""
HOUR_S = 3600.0
Legs = Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]


def time_space(trips: Association, sightings: Sightings, network: CameraNetwork | None, path: str | Path) -> Path:
    """Cameras, by place along the longest way across the roads if known, against time: the trips of most passes."""
    passes = trips.passes
    labels = np.unique(passes.camera)
    along = "camera" if network is None else "camera, in order along the roads"
    if network is not None:
        labels = labels[np.argsort(layout(labels, network)[:, 0], kind="stable")]
    place = (passes.camera[:, None] == labels).argmax(axis=1)
    size = np.bincount(trips.trajectory[~np.isnan(passes.first_s)], minlength=trips.trajectory.max() + 1)
    made = figure(11, 1.5 + 0.3 * len(labels))
    axes = made.subplots()
    axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * LINES)
    start = np.nanmin(passes.first_s)
    longest = [one for one in np.argsort(-size, kind="stable")[:LONGEST] if size[one]]
    for one in sorted(longest, key=lambda trip: np.nanmin(passes.first_s[trips.trajectory == trip])):
        rows = np.flatnonzero((trips.trajectory == one) & ~np.isnan(passes.first_s))
        rows = rows[np.argsort(passes.first_s[rows])]
        ends = np.stack([passes.first_s[rows], passes.last_s[rows]], axis=1).ravel() - start
        axes.plot(ends / 60, np.repeat(place[rows], 2), ms=3, lw=0.9, label=int(one))
    axes.set_yticks(range(len(labels)), [sightings.camera_called(camera) for camera in labels.tolist()], fontsize=7)
    axes.set(xlabel="minutes since the first pass", ylabel=along, title=f"the {LONGEST} trips of most passes")
    axes.legend(title="trip", fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return write(made, path)


def network_times(legs: Legs, sightings: Sightings, network: CameraNetwork | None, path: str | Path) -> Path:
    """Cameras laid out by road distance, joined where trips were seen; median seconds on the busiest of these."""
    labels = np.unique([camera for pair in legs for camera in pair])
    xy = layout(labels, network)
    made = figure(8, 8)
    axes = made.subplots()
    axes.set_aspect("equal", "datalim")
    pairs = [(a, b) for a, b in legs if a != b]
    most = max((len(legs[pair][1]) for pair in pairs), default=1)
    for rank, (a, b) in enumerate(sorted(pairs, key=lambda pair: -len(legs[pair][1]))):
        seconds = legs[a, b][1]
        if len(seconds) < FEWEST * most:
            break
        begin, end = xy[np.searchsorted(labels, [a, b])]
        style = {"arrowstyle": "->", "lw": 0.4 + 3 * len(seconds) / most, "color": BLUE, "alpha": 0.5}
        style |= {"connectionstyle": f"arc3,rad={BEND}"}
        axes.annotate("", end, begin, arrowprops=style)
        if rank < 4 * BUSIEST:
            across, up = end - begin
            # on the arc, nearer to its begin: the way back has its own
            spot = begin + LABEL * (end - begin) + 2 * LABEL * (1 - LABEL) * BEND * np.array([up, -across])
            words = f"{np.median(seconds):.0f} s"
            white = {"fc": "white", "ec": "none", "pad": 0.5}
            axes.text(spot[0], spot[1], words, fontsize=6, ha="center", va="center", bbox=white)
    axes.scatter(xy[:, 0], xy[:, 1], s=40, color="white", edgecolor="black", zorder=3)
    for camera, spot in zip(labels.tolist(), xy, strict=True):
        name = sightings.camera_called(camera)
        axes.annotate(name, spot, (0, 6), textcoords="offset points", ha="center", fontsize=7, weight="bold", zorder=4)
    axes.set(title="trips between cameras, median travel time", xticks=[], yticks=[])
    axes.margins(0.1)
    return write(made, path)


def by_hour(legs: Legs, sightings: Sightings, path: str | Path) -> Path:
    """Travel time against the hour in which a leg began, median and 15th to 85th percentile, of the busiest pairs."""
    pairs = sorted((pair for pair in legs if pair[0] != pair[1]), key=lambda pair: -len(legs[pair][1]))[:BUSIEST]
    first = min((legs[pair][0].min() for pair in pairs), default=0.0)
    made = figure(9, 4.5)
    axes = made.subplots()
    axes.set_prop_cycle(LINES)
    for rank, (a, b) in enumerate(pairs):
        starts, seconds = legs[a, b]
        hour = np.floor((starts - first) / HOUR_S)
        hours = np.unique(hour)
        low, middle, high = np.array([np.quantile(seconds[hour == h], [0.15, 0.5, 0.85]) for h in hours]).T
        name = " to ".join(sightings.camera_called(camera) for camera in (a, b))
        beside = hours + 0.06 * (rank - (len(pairs) - 1) / 2)
        axes.errorbar(beside, middle, [middle - low, high - middle], ms=4, lw=0.9, capsize=2, label=name)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="hours since the first trip", ylabel="travel time, s", ylim=(0, None))
    if pairs:
        axes.legend(frameon=False, fontsize=8)
    return write(made, path)
