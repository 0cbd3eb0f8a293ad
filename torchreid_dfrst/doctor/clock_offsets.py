"""Clocks seconds to a minute apart, from traffic that goes both ways between two cameras. Arrays only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from torchreid_dfrst.doctor.camera_order import delays, fast_delays
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.speeds import LEG_M

DRAWS = 12  # of vehicles, for the standard errors


def clock_offsets(seen: Sightings, network: CameraNetwork) -> dict[int, tuple[float, float]]:
    """How far each camera's clock is ahead of the others.

    Between two cameras the fastest trips take equally long in both directions, so half the difference of the recorded
    delays is the difference of the clocks. One-way streets break that: their pairs are left out, for the *sum* of both
    delays, in which the clocks cancel, is too long for the distance. Offsets of single cameras follow by robust least
    squares; the times are corrected and the trips paired again until nothing moves.

    Args:
        seen: one sighting for each pass, with times and identities, no camera minutes off, see ``clocks.odd_clocks``.
        network: distances of all their cameras.

    Returns:
        camera to (offset, uncertainty), in seconds, offsets of median 0; only for cameras that two-way traffic joins
        to at least two others, in the largest group so joined. The uncertainty is the larger of the bootstrap's
        standard error and of how much the camera's partners disagree (median absolute deviation): where return trips
        take another road they disagree, and nothing can be said.
    """
    found = _offsets_and_spread(seen, network)
    rng, vehicles = np.random.default_rng(0), np.unique(seen.identity)
    drawn: dict[int, list[float]] = {camera: [] for camera in found}
    rows_of = {v: np.flatnonzero(seen.identity == v) for v in vehicles} if found else {}
    for _ in range(DRAWS if found else 0):
        chosen = [rows_of[v] for v in rng.choice(vehicles, len(vehicles))]
        identity = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        sample = replace(seen[np.concatenate(chosen)], identity=identity)
        for camera, (value, _) in _offsets_and_spread(sample, network).items():
            if camera in drawn:
                drawn[camera].append(value)
    error = {c: float(np.std(values, ddof=1)) if len(values) > 5 else np.inf for c, values in drawn.items()}
    return {c: (offset, max(spread, error[c])) for c, (offset, spread) in found.items()}


def shifted(seen: Sightings, offsets: dict[int, tuple[float, float]]) -> Sightings:
    """The sightings with each camera's offset taken off."""
    time_s = seen.time_s.copy()
    for camera, (offset, _) in offsets.items():
        time_s[seen.camera == camera] -= offset
    return replace(seen, time_s=time_s)


def _offsets_and_spread(seen: Sightings, network: CameraNetwork) -> dict[int, tuple[float, float]]:
    cameras, at = np.unique(seen.camera, return_inverse=True)
    offset, spread, joined = np.zeros(len(cameras)), np.zeros(len(cameras)), np.zeros(len(cameras), dtype=bool)
    for _ in range(8):
        fast = fast_delays(delays(replace(seen, time_s=seen.time_s - offset[at])), directed=True)
        both = [(a, b, delay, fast[b, a]) for (a, b), delay in fast.items() if a < b and (b, a) in fast]
        if not both:
            return {}
        a, b, there, back = (np.array(column) for column in zip(*both, strict=True))
        pace = (there + back) / 2 / np.maximum(network.distance_m[network.rows(a), network.rows(b)], LEG_M)
        direct = pace <= 1.5 * np.median(pace)
        difference = (there - back)[direct] / 2
        a, b = np.searchsorted(cameras, a[direct]), np.searchsorted(cameras, b[direct])
        step = _robust_least_squares(a, b, difference, len(cameras))
        group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(cameras),) * 2), directed=False)[1]
        largest = group == np.bincount(group).argmax()
        joined = largest & (np.bincount(np.concatenate([a, b]), minlength=len(cameras)) >= 2)
        if not joined.any():
            return {}
        rest = np.abs(difference - (step[b] - step[a]))
        spread[joined] = [1.4826 * np.median(rest[(a == c) | (b == c)]) for c in np.flatnonzero(joined)]
        offset[largest] += step[largest]
        offset[largest] -= np.median(offset[largest])
        if np.abs(step[largest]).max() < 0.5:
            break
    return {int(cameras[c]): (float(offset[c]), float(spread[c])) for c in np.flatnonzero(joined)}


def _robust_least_squares(a: np.ndarray, b: np.ndarray, difference: np.ndarray, count: int) -> np.ndarray:
    """Solve ``x[b] - x[a] = difference`` with Huber weights; 0 for a camera without pairs."""
    design = np.zeros((len(a), count))
    design[np.arange(len(a)), b], design[np.arange(len(a)), a] = 1, -1
    weight, x = np.ones(len(a)), np.zeros(count)
    for _ in range(20):
        x = np.linalg.pinv(design * weight[:, None]) @ (difference * weight)
        rest = np.abs(difference - design @ x)
        scale = max(float(1.4826 * np.median(rest)), 0.1)
        weight = np.sqrt(np.minimum(1, 1.5 * scale / np.maximum(rest, 1e-9)))
    return x
