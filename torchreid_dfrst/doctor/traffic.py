"""What the traffic itself says about camera distances and camera clocks. Arrays only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.clocks import peak
from torchreid_dfrst.spatiotemporal.passes import pairs_within
from torchreid_dfrst.spatiotemporal.speeds import LEG_M

QUANTILE = 0.1  # of the delays between two cameras: trips without a stop, not those by way of a car park
SEARCH = "found by search"
MIN_TRIPS = 5
MIN_PAIRS = 8
GOOD_CORRELATION = 0.75
NEAR_S = 150.0  # two passes of one trip through neighbouring cameras lie within this


class Delays(NamedTuple):
    """Pairs of passes of one vehicle by two different cameras, the earlier one first."""

    start: np.ndarray  # (T,) int64 camera of the earlier pass
    end: np.ndarray  # (T,) int64 camera of the later pass
    seconds: np.ndarray  # (T,) between the two, above 0


class Order(NamedTuple):
    """How well road distances explain travel times."""

    pairs: int  # camera pairs with enough trips
    correlation: float  # Spearman's, of distance and fast travel time, with the rows as they are
    best_name: str  # what the best other order of the rows is
    best: np.ndarray  # its cameras, row by row
    best_correlation: float
    without: int  # the camera without which the rows as they are explain most
    without_correlation: float

    @property
    def of_one(self) -> bool:
        """The rows explain little, and all is well without a single camera: its times or distances are wrong."""
        return self.correlation < GOOD_CORRELATION <= self.without_correlation > self.best_correlation

    @property
    def wrong(self) -> bool:
        """The rows explain little, and another order explains much more."""
        return self.correlation < GOOD_CORRELATION and self.best_correlation > self.correlation + 0.15


def delays(seen: Sightings) -> Delays:
    """Every pair of passes in ``seen``: one sighting for each, with times and identities, see ``one_per_pass``."""
    seen = seen[np.lexsort((seen.time_s, seen.identity))]
    first, second = pairs_within(seen.identity)
    seconds = seen.time_s[second] - seen.time_s[first]
    kept = (seen.camera[first] != seen.camera[second]) & (seconds > 0)
    return Delays(seen.camera[first[kept]], seen.camera[second[kept]], seconds[kept])


def fast_delays(found: Delays, directed: bool) -> dict[tuple[int, int], float]:
    """Lower decile of the delays of each pair of cameras with at least ``MIN_TRIPS``, in seconds.

    Without ``directed`` both directions count together, under the smaller camera first.
    """
    pair = np.stack([found.start, found.end])
    pair = pair if directed else np.sort(pair, axis=0)
    order = np.lexsort(pair[::-1])
    new = (np.diff(pair[:, order], axis=1) != 0).any(axis=0)
    groups = np.split(order, np.flatnonzero(new) + 1) if len(order) else []
    return {
        (int(pair[0, g[0]]), int(pair[1, g[0]])): float(np.quantile(found.seconds[g], QUANTILE))
        for g in groups
        if len(g) >= MIN_TRIPS
    }


def camera_order(found: Delays, network: CameraNetwork, known: dict[str, np.ndarray], seed: int = 0) -> Order | None:
    """Compare the order of the rows of the distance matrix with others: ``known`` ones, and the best of a search.

    On VeRi-776 the right order has a rank correlation of 0.94 and the natural one 0.62; on data with few trips the
    search may find an order that is better than the one it has to find, so it is a hint, not a proof.

    Args:
        found: all delays.
        network: distances with the rows as the data set names them.
        known: name to cameras row by row, of orders to try.
        seed: of the search.

    Returns:
        None if fewer than eight camera pairs have five trips each: nothing can be said.
    """
    have, count = set(network.cameras.tolist()), len(network)
    fast = {pair: delay for pair, delay in fast_delays(found, directed=False).items() if set(pair) <= have}
    if len(fast) < MIN_PAIRS:
        return None
    delay = np.array(list(fast.values()))
    a, b = (network.rows(np.array(end)) for end in zip(*fast, strict=True))

    def correlation(row_of: np.ndarray, part: slice | np.ndarray = slice(None)) -> float:
        metres = rankdata(network.distance_m[row_of[a], row_of[b]][part])
        return float(np.corrcoef(rankdata(delay[part]), metres)[0, 1]) if np.ptp(metres) else 0.0

    rows = np.arange(count)
    here = correlation(rows)
    rest = {c: kept for c in rows.tolist() if (kept := (a != c) & (b != c)).sum() >= MIN_PAIRS}
    without, alone = max(((correlation(rows, kept), c) for c, kept in rest.items()), default=(here, 0))
    # the row that each camera, in the order of network.cameras, has if the rows are `cameras`
    rows_of = {
        name: np.argsort(cameras)[np.searchsorted(np.sort(cameras), network.cameras)]
        for name, cameras in known.items()
        if set(cameras.tolist()) == have
    }
    scored = [(correlation(row_of), name) for name, row_of in rows_of.items()]
    if max([(here, ""), *scored])[0] < GOOD_CORRELATION:
        rng = np.random.default_rng(seed)
        starts = [np.arange(count), *rows_of.values(), *(rng.permutation(count) for _ in range(3))]
        top, rows_of[SEARCH] = max(
            (_climb_by_swapping_rows(correlation, start) for start in starts), key=lambda pair: pair[0]
        )
        scored.append((top, SEARCH))
    if not scored:
        return Order(len(fast), here, "none", network.cameras, here, int(network.cameras[alone]), without)
    top, name = max(scored, key=lambda pair: pair[0])
    cameras = np.empty(count, dtype=np.int64)
    cameras[rows_of[name]] = network.cameras
    return Order(len(fast), here, name, cameras, top, int(network.cameras[alone]), without)


def clock_offsets(
    seen: Sightings, network: CameraNetwork, samples: int = 12, seed: int = 0
) -> dict[int, tuple[float, float]]:
    """How far each camera's clock is ahead of the others, from traffic that goes both ways between two cameras.

    Between two cameras the fastest trips take equally long in both directions, so half the difference of the recorded
    delays is the difference of the clocks. One-way streets break that: their pairs are left out, for the *sum* of both
    delays, in which the clocks cancel, is too long for the distance. Offsets of single cameras follow by robust least
    squares; the times are corrected and the trips paired again until nothing moves.

    Args:
        seen: one sighting for each pass, with times and identities, no camera minutes off, see ``clocks.odd_clocks``.
        network: distances of all their cameras.
        samples: vehicles are drawn anew this often for the standard errors.
        seed: of the samples.

    Returns:
        camera to (offset, uncertainty), in seconds, offsets of median 0; only for cameras that two-way traffic joins
        to at least two others, in the largest group so joined; empty if there are none. The uncertainty is the larger
        of the bootstrap's standard error and of how much the camera's partners disagree (median absolute deviation):
        where return trips take another road they disagree, and nothing can be said.
    """
    found = _fine_clock_offsets(seen, network)
    rng, vehicles = np.random.default_rng(seed), np.unique(seen.identity)
    drawn: dict[int, list[float]] = {camera: [] for camera in found}
    rows_of = {v: np.flatnonzero(seen.identity == v) for v in vehicles} if found else {}
    for _ in range(samples if found else 0):
        chosen = [rows_of[v] for v in rng.choice(vehicles, len(vehicles))]
        identity = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        sample = replace(seen[np.concatenate(chosen)], identity=identity)
        for camera, (value, _) in _fine_clock_offsets(sample, network).items():
            if camera in drawn:
                drawn[camera].append(value)
    enough = {c: float(np.std(values, ddof=1)) if len(values) > 5 else np.inf for c, values in drawn.items()}
    return {c: (offset, max(spread, enough[c])) for c, (offset, spread) in found.items()}


def _fine_clock_offsets(seen: Sightings, network: CameraNetwork) -> dict[int, tuple[float, float]]:
    cameras, at = np.unique(seen.camera, return_inverse=True)
    offset = _coarse_clock_offsets(seen, at, len(cameras))
    joined, spread = np.zeros(len(cameras), dtype=bool), np.zeros(len(cameras))
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


def _coarse_clock_offsets(seen: Sightings, at: np.ndarray, count: int) -> np.ndarray:
    """Offsets of minutes: where a camera's passes cluster around those of the same vehicle elsewhere."""
    order = np.argsort(seen.identity, kind="stable")
    first, second = (order[rows] for rows in pairs_within(seen.identity[order]))
    here, there = np.concatenate([first, second]), np.concatenate([second, first])
    here, there = here[at[here] != at[there]], there[at[here] != at[there]]
    offset = np.zeros(count)
    for camera in range(count):
        gap = (seen.time_s[here] - seen.time_s[there])[at[here] == camera]
        if len(gap):
            middle, share = peak(gap, np.full(len(gap), NEAR_S))
            # ``clocks.odd_clocks`` has told those that are farther off: traffic that comes back looks like one, too
            far = abs(middle) > NEAR_S
            if not far and share > 1.5 * np.mean(np.abs(gap) <= NEAR_S) and share * len(gap) >= 20:
                offset[camera] = middle
    return offset


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


def _climb_by_swapping_rows(score: Callable[[np.ndarray], float], order: np.ndarray) -> tuple[float, np.ndarray]:
    """Swap two rows as long as that helps."""
    best = score(order)
    while True:
        swaps = []
        for i in range(len(order)):
            for j in range(i):
                other = order.copy()
                other[[i, j]] = other[[j, i]]
                swaps.append((score(other), i, j, other))
        top, *_, other = max(swaps, key=lambda swap: swap[:3], default=(best, 0, 0, order))
        if top <= best + 1e-9:
            return best, order
        best, order = top, other
