"""Trips as tables that open in a spreadsheet or on a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from torchreid_dfrst.association.associate import Association
from torchreid_dfrst.association.topology import Link
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings

SPEED = 3.6


def trips_table(trips: Association, sightings: Sightings) -> list[Sequence[Any]]:
    """A heading and a row for each pass, trajectory by trajectory in order of time; names are those of the images."""
    rows: list[Sequence[Any]] = [
        ("trajectory", "vehicle", "camera", "first_s", "last_s", "images", "probability", "link_probability")
    ]
    passes, first = trips.passes, np.unique(trips.label, return_index=True)[1]
    member = trips.membership() if trips.evidence is not None else np.full(len(passes), np.nan)
    link = np.full(len(passes), np.nan)
    if trips.evidence is not None:
        link[trips.links[1]] = trips.link_probability()
    for one in np.lexsort((passes.first_s, trips.trajectory)):
        identity = int(sightings.identity[first[one]])
        rows.append(
            (
                int(trips.trajectory[one]),
                "" if identity == UNKNOWN else sightings.vehicle_called(identity),
                sightings.camera_called(int(passes.camera[one])),
                *(_rounded_cell(value, 3) for value in (passes.first_s[one], passes.last_s[one])),
                int(passes.images[one]),
                *(_rounded_cell(value, 4) for value in (member[one], link[one])),
            )
        )
    return rows


def legs(trips: Association) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Start and duration, in seconds, of all legs from one camera to the next, by ordered pair of camera labels.

    A leg goes from the end of one pass to the beginning of the next; the two may be at one camera (a return).
    """
    passes, (earlier, later) = trips.passes, trips.links
    start, seconds = passes.last_s[earlier], np.maximum(passes.first_s[later] - passes.last_s[earlier], 0.0)
    ends, place = np.unique(np.stack([passes.camera[earlier], passes.camera[later]]), axis=1, return_inverse=True)
    found = {}
    for number, (a, b) in enumerate(ends.T.tolist()):
        here = (place.ravel() == number) & ~np.isnan(seconds)
        if here.any():
            found[a, b] = start[here], seconds[here]
    return found


def travel_table(
    trips: Association, sightings: Sightings, network: CameraNetwork | None, links: Iterable[Link]
) -> list[Sequence[Any]]:
    """A heading and a row for each ordered pair of cameras between which a vehicle was joined."""
    rows: list[Sequence[Any]] = [
        ("from", "to", "trips", "median_s", "p15_s", "p85_s", "distance_m", "median_km_h", "above_chance")
    ]
    linked = {(link.origin, link.destination) for link in links}
    for (a, b), (_, seconds) in legs(trips).items():
        metres = np.nan if network is None else float(network.between(np.array([a]), np.array([b]))[0, 0])
        median, low, high = np.quantile(seconds, [0.5, 0.15, 0.85])
        speed = SPEED * metres / median if metres > 0 and median > 0 else np.nan
        names = [sightings.camera_called(camera) for camera in (a, b)]
        shares = [_rounded_cell(value, 1) for value in (median, low, high, metres, speed)]
        rows.append((*names, len(seconds), *shares, "yes" if (a, b) in linked else "no"))
    return rows


def origin_destination(trips: Association, sightings: Sightings) -> list[Sequence[Any]]:
    """A square: where trajectories of two passes or more begin (rows) and end (columns)."""
    order = np.lexsort((trips.passes.first_s, trips.trajectory))
    label = trips.trajectory[order]
    edge = np.flatnonzero(np.diff(label, prepend=-1, append=-1))
    first, last = order[edge[:-1]], order[edge[1:] - 1]
    moved = first != last
    labels, place = np.unique(trips.passes.camera, return_inverse=True)
    count = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(count, (place[first[moved]], place[last[moved]]), 1)
    names = [sightings.camera_called(camera) for camera in labels.tolist()]
    return [("from", *names), *((name, *line) for name, line in zip(names, count.tolist(), strict=True))]


def geojson(trips: Association, sightings: Sightings, positions: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Trajectories of two passes or more as lines through ``positions``: camera name to longitude and latitude."""
    require_positions(sightings, positions)
    order, features = np.lexsort((trips.passes.first_s, trips.trajectory)), []
    for rows in np.split(order, np.flatnonzero(np.diff(trips.trajectory[order])) + 1):
        if len(rows) > 1:
            cameras = [sightings.camera_called(camera) for camera in trips.passes.camera[rows].tolist()]
            times = [_rounded_cell(value, 3) for value in trips.passes.first_s[rows]]
            about = {"trajectory": int(trips.trajectory[rows[0]]), "cameras": cameras, "first_s": times}
            line = {"type": "LineString", "coordinates": [list(positions[name]) for name in cameras]}
            features.append({"type": "Feature", "properties": about, "geometry": line})
    return {"type": "FeatureCollection", "features": features}


def require_positions(sightings: Sightings, positions: Mapping[str, tuple[float, float]]) -> None:
    """Refuse with a ``KeyError`` positions that lack a camera."""
    lost = sorted({sightings.camera_called(camera) for camera in np.unique(sightings.camera).tolist()} - set(positions))
    if lost:
        raise KeyError(f"no position for camera {', '.join(lost)}: give one for each, or leave --positions out")


def _rounded_cell(value: float, digits: int) -> float | str:
    return "" if np.isnan(value) else round(float(value), digits)
