"""Whether the rows of the distance matrix belong to the cameras they are given to: the traffic says. Arrays only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import pairs_within

QUANTILE = 0.1  # of the delays between two cameras: trips without a stop, not those by way of a car park
SEARCH = "found by search"
MIN_TRIPS = 5
MIN_PAIRS = 8
GOOD_CORRELATION = 0.75


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


def camera_order(found: Delays, network: CameraNetwork, known: dict[str, np.ndarray]) -> Order | None:
    """Compare the order of the rows of the distance matrix with others: ``known`` ones, and the best of a search.

    On VeRi-776 the right order has a rank correlation of 0.94 and the natural one 0.62; on data with few trips the
    search may find an order that is better than the one it has to find, so it is a hint, not a proof.

    Args:
        found: all delays.
        network: distances with the rows as the data set names them.
        known: name to cameras row by row, of orders to try.

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
        rng = np.random.default_rng(0)
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
