"""Transition times: one log-normal law for each ordered camera pair (OIN)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, learned
from torchreid_dfrst.spatiotemporal.gap_transit import NATS, Law, distance_of
from torchreid_dfrst.spatiotemporal.passes import direct_trips, one_per_pass, rows_by_label

NORMAL = 1.4826  # a normal law's deviation over its median absolute deviation


def _median_deviation(values: np.ndarray) -> float:
    return float(NORMAL * np.median(np.abs(values - np.median(values))))


Estimate = Callable[[np.ndarray], float]
# name -> mu and sigma of a list of logarithms
ESTIMATES: dict[str, tuple[Estimate, Estimate]] = {
    "median": (np.median, _median_deviation),
    "likelihood": (np.mean, np.std),
}


@dataclass(eq=False, kw_only=True)
class Transition(GapModel):
    """``-ln p(|gap|)`` with ``p`` the log-normal density of trips from the earlier camera to the later one.

    ``passes.direct_trips`` says what counts as a trip: a vehicle that comes back an hour later did not take an hour.
    In tenths of nats below the highest density of any pair, cut at ``depth``: ``[0, depth / 10]``. OIN turns ``p`` into
    a distance by a logistic whose constants are not published; the logarithm ranks the same way and keeps apart what
    the logistic flattens. A pair of cameras with fewer than ``min_trips`` trips takes the law of all trips,
    carried over by the distance: ln(gap / distance) has one mu and one sigma. One camera and itself is no trip: the
    largest distance. An image without a time gets the distance of the median trip of all.

    Args:
        estimate: of mu and sigma: ``"median"`` takes the median and the median absolute deviation, on which a detour
            weighs no more than any other trip; ``"likelihood"`` (OIN) mean and standard deviation.
        min_trips: fewest trips for a law of its own.
        floor_s: shorter gaps count as this, seconds.
        floor_m: shorter distances count as this, metres, in the law of all trips.
        sigma_floor: smallest deviation of ln seconds, so that a handful of equal trips is no certainty.
        depth: how many nats below the best still make a difference.

    Raises:
        ValueError: an option is out of range.
        KeyError: an unknown estimate.
    """

    name: ClassVar[str] = "transition"
    estimate: str = "median"
    min_trips: int = 10
    floor_s: float = 1.0
    floor_m: float = 10.0
    sigma_floor: float = 0.05
    depth: float = 9.0
    mu: np.ndarray = learned("cameras", "cameras")
    sigma: np.ndarray = learned("cameras", "cameras", positive=True)
    seen: np.ndarray = learned("cameras", "cameras", count=True)
    median_s: float = learned(positive=True)

    def __post_init__(self) -> None:
        """Check the options."""
        self._require_choice("estimate", ESTIMATES)
        self._require_positive("min_trips", "floor_s", "floor_m", "sigma_floor", "depth")

    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        seen, count = one_per_pass(sightings), len(network)
        row, (start, end) = network.rows(seen.camera), direct_trips(seen)
        pair = row[start] * count + row[end]
        log = np.log(np.maximum(seen.time_s[end] - seen.time_s[start], self.floor_s))
        metres = np.log(np.maximum(network.distance_m, self.floor_m)).ravel()
        middle, spread = ESTIMATES[self.estimate]

        # the law of all trips is one of pace: ln(gap / distance)
        pace = log - metres[pair]
        mu, sigma = metres + middle(pace), np.full(count**2, spread(pace))
        for own in rows_by_label(pair):
            if len(own) >= self.min_trips:
                mu[pair[own[0]]], sigma[pair[own[0]]] = middle(log[own]), spread(log[own])
        self.mu, self.sigma = mu.reshape(count, count), np.maximum(sigma, self.sigma_floor).reshape(count, count)
        self.seen = np.bincount(pair, minlength=count**2).reshape(count, count)
        self.median_s = float(np.exp(np.median(log)))

    def _law(self, network: CameraNetwork) -> Law:
        count = len(network)
        same, every = np.eye(count, dtype=bool), np.arange(count**2)
        self._same = same.ravel()
        mode = np.where(same, -np.inf, self.sigma**2 / 2 - self.mu - np.log(self.sigma))
        self._top = float(mode.max() - np.log(np.sqrt(2 * np.pi)))
        # a negative gap is a trip from the gallery camera to the query camera
        self._mu = np.stack([self.mu.T.ravel(), self.mu.ravel()])
        self._sigma = np.stack([self.sigma.T.ravel(), self.sigma.ravel()])
        middle = self.log_density(every, np.full(count**2, self.median_s))[~self._same].mean()
        unknown = float(distance_of(middle, self._top, self._top - self.depth))
        # every trip has one direction, whoever asks; only two sightings at one instant have none
        now = self.curve(every, np.zeros(count**2)).astype(np.float32).reshape(count, count)
        return Law(network, self.curve, unknown, (0.0, self.depth / NATS), symmetric=np.array_equal(now, now.T))

    def log_density(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``ln p`` per second of a signed gap between the cameras of pair ``number = row * C + column``."""
        forth = (gap_s >= 0).astype(np.int64)
        mu, sigma = self._mu[forth, number], self._sigma[forth, number]
        log = np.log(np.maximum(np.abs(gap_s), self.floor_s))
        return -(((log - mu) / sigma) ** 2) / 2 - log - np.log(sigma * np.sqrt(2 * np.pi))

    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``-ln p`` above its smallest value, in tenths of nats."""
        bottom = self._top - self.depth
        evidence = np.where(self._same[number], bottom, self.log_density(number, gap_s))
        return distance_of(evidence, self._top, bottom)

    def describe(self) -> str:
        """How many pairs have a law of their own, and the quickest and slowest of them."""
        own = self.seen >= self.min_trips
        pairs = len(own) * (len(own) - 1)
        return (
            f"transition (log-normal per ordered camera pair): {own.sum()} of {pairs} pairs of cameras have a law of "
            f"their own, {pairs - own.sum()} take the law of all trips\n"
            f"  median trips from {np.exp(self.mu[own].min()):.0f} to {np.exp(self.mu[own].max()):.0f} s, "
            f"sigma from {self.sigma[own].min():.2f} to {self.sigma[own].max():.2f}"
            if own.any()
            else f"transition: no pair of cameras was seen {self.min_trips} times, all take the law of all trips"
        )
