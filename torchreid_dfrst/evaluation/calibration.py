"""From distances to the probability that two images show one vehicle: log-likelihood ratios and prior odds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from torchreid_dfrst import files, retrieval
from torchreid_dfrst.checks import check, expected_types, within
from torchreid_dfrst.evaluation.weight import HELD_OUT, SEED, held_out
from torchreid_dfrst.features import network_of
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.retrieval.logistic import logistic, sigmoid
from torchreid_dfrst.sightings import CameraNetwork, Sightings, same_vehicle
from torchreid_dfrst.spatiotemporal import GapModel, by_pairs

FORMAT, VERSION = "torchreid_dfrst calibration", 2
AGAIN = "`dfrst evaluate`, or `dfrst gallery fit` for a gallery"
FOLDS = 4
FEWEST = 8
"""Vehicles without which nothing is fitted."""
SAMPLES = 100_000
MOST_NATS = 12.0
"""Evidence of appearance is cut there: so few pairs say nothing beyond."""
KNOTS = 256
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
PASSING = 10
"""Pairs of two vehicles that a rate of false matches rests on, at least."""
SHARE = 0.1
"""Weight of pairs of one vehicle in a fit: first hits are judged where such pairs are rare."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What distances of one network say.

    Evidence is ``ln p(distance | one vehicle) - ln p(distance | two)``, in nats: that of appearance, and what space and
    time add to it. Distances after re-ranking depend on everything else in the gallery and have no such law.

    Args:
        network: what made the embeddings, see ``features.network_of``.
        cosine: ``(K,)`` rising cosines at which the evidence of appearance is known, linear in between.
        nats: ``(K,)`` that evidence.
        transit: bias, slope of the evidence of appearance, and slope of minus a transit distance; None without.
        spacetime: name and options of the model of these distances.
        matches: images of its vehicle that a query finds in a gallery, by other cameras, on average.
        vehicles: how many it was fitted on.
        held_out: whether the network was trained without them; None where nobody knows.
        shape: ``logistic`` or ``isotonic``, the better one on vehicles left out.
        false_matches: for falling rates: the rate, and the evidence that as many pairs of two vehicles reach, of
            appearance alone and with space and time.
    """

    network: dict[str, Any]
    cosine: tuple[float, ...]
    nats: tuple[float, ...]
    transit: tuple[float, float, float] | None
    spacetime: dict[str, Any] | None
    matches: float
    vehicles: int
    held_out: bool | None
    shape: str
    false_matches: tuple[tuple[float, float, float], ...] = ()

    def evidence(self, appearance: np.ndarray, transit: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Evidence of appearance, and what space and time add to it, each elementwise in nats.

        Of Euclidean distances of embeddings of unit length, in [0, 2], and of transit distances by pairs of the model
        in ``spacetime``, NaN where not known.
        """
        cosine = 1 - np.asarray(appearance, dtype=np.float64) ** 2 / 2
        own = np.interp(cosine, self.cosine, self.nats)
        if transit is None or self.transit is None:
            return own, np.zeros_like(own)
        bias, look, trip = self.transit
        more = bias + (look - 1) * own - trip * np.asarray(transit, dtype=np.float64)
        return own, np.where(np.isnan(more), 0.0, more)

    def prior(self, candidates: np.ndarray | float, strangers: float) -> np.ndarray:
        """Log odds, before anything is seen, that one of ``candidates`` images shows the query's vehicle.

        With a share of ``strangers`` the vehicle is not there at all; else ``matches`` of them do.
        """
        within("strangers", strangers, below=1)
        share = (1 - strangers) * np.minimum(self.matches / np.maximum(candidates, 1), 1.0)
        share = np.clip(share, 1e-12, 1 - 1e-6)
        return np.log(share / (1 - share))

    def threshold(self, rate: float, fused: bool) -> float:
        """Evidence, in nats, that a share ``rate`` of pairs of two vehicles reach; ``fused``: with space and time.

        Raises:
            ValueError: a rate beyond those that the pairs behind the calibration tell.
        """
        rates = [row[0] for row in self.false_matches]
        if not rates or not rates[-1] <= rate <= rates[0]:
            known = f"{rates[-1]:g} to {rates[0]:g}" if rates else "none"
            raise ValueError(f"a false-match rate of {rate:g}: this calibration knows {known}")
        nats = [row[2 if fused else 1] for row in self.false_matches]
        return float(np.interp(np.log(rate), np.log(rates[::-1]), nats[::-1]))

    def probability(
        self, appearance: np.ndarray, transit: np.ndarray | None, candidates: np.ndarray | float, strangers: float
    ) -> np.ndarray:
        """Probability that each pair shows one vehicle; see ``evidence`` and ``prior``."""
        return sigmoid(sum(self.evidence(appearance, transit)) + self.prior(candidates, strangers))

    def require(self, source: Mapping[str, Any]) -> None:
        """Refuse embeddings of another network.

        Raises:
            ValueError: with both.
        """
        if network_of(source) != self.network:
            one, other = (f"{n.get('network')} ({str(n.get('weights_sha256'))[:8]})" for n in (self.network, source))
            raise ValueError(f"the calibration is of the network {one}, not of {other}: make one with that network")

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all."""
        files.write({Path(path): json.dumps(self.content, indent=1).encode()})

    @property
    def content(self) -> dict[str, Any]:
        """What ``save`` writes, JSON types."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def of(cls, content: Mapping[str, Any], where: str = "what the gallery keeps") -> Calibration:
        """What ``content`` gave; a ``ValueError`` names ``where`` if it has another form or version."""
        held = dict(content)
        if held.pop("format", None) != FORMAT or held.pop("version", None) != VERSION:
            raise ValueError(f"{where} is no calibration of this version: make it anew with {AGAIN}")
        try:
            found = cls(**held)
        except TypeError as error:
            raise ValueError(f"{where} lacks something ({error}): make it anew with {AGAIN}") from error
        for name, kind in expected_types(cls).items():
            check(f"{where}: {name}", getattr(found, name), kind)
        return found

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what ``save`` wrote; raises ``FileNotFoundError``, or ``ValueError`` for another file or version."""
        missing = f"no calibration at {path}: `dfrst evaluate` writes one from features with training images (--train)"
        files.require_file(path, missing)
        return cls.of(files.read_json(path, "calibration", "make it anew with `dfrst evaluate`"), str(path))


def fit(extraction: Extraction, model: GapModel | None) -> Calibration | None:
    """Fit on training vehicles that play query and gallery, best ones that the network was not trained on.

    Of a space-time model, the distance of pairs alone counts (``spatiotemporal.by_pairs``): relays depend on the rest
    of the gallery, as re-ranking does.

    Args:
        extraction: features of training images, and for the model all training sightings and road distances.
        model: gives name and options of a space-time model, which is fitted without the vehicles that are asked for;
            None for appearance alone.

    Returns:
        None where fewer than ``FEWEST`` training vehicles have features.

    Raises:
        ValueError: no vehicle was seen by two cameras, or the model cannot be fitted.
    """
    features, seen = extraction.train_features, extraction.source.get("train_features")
    vehicles = 0 if features is None else len(features.sightings.vehicles)
    if features is None or vehicles < FEWEST:
        return None
    timed = model is not None and not np.isnan(features.sightings.time_s).all()
    model = by_pairs(model) if model is not None and timed else None
    drawn, matches = _pairs_to_calibrate_on(features, model, extraction.train, extraction.network)
    cosine, transit, same, fold = (np.concatenate(column) for column in zip(*drawn, strict=True))
    if not same.any():
        raise ValueError("no training vehicle with features was seen by two cameras: there is nothing to calibrate on")
    shape, knots, nats = _curve_of_appearance(cosine, same, fold)
    known = ~np.isnan(transit)
    trip = None
    if model is not None and same[known].any():
        both = np.column_stack([np.interp(cosine, knots, nats), -transit])[known]
        bias, *slopes = logistic(both, same[known].astype(np.float64), SHARE).tolist()
        trip = (bias, max(slopes[0], 0.0), max(slopes[1], 0.0))
    made = Calibration(
        network=network_of(extraction.source),
        cosine=tuple(knots),
        nats=tuple(nats),
        transit=trip,
        spacetime=None if model is None else {"model": model.name, "options": model.options},
        matches=matches,
        vehicles=vehicles,
        held_out=None if seen is None else seen == HELD_OUT,
        shape=shape,
    )
    return replace(made, false_matches=_false_matches(made, cosine[~same], transit[~same]))


def comparable(query: Sightings, gallery: Sightings) -> np.ndarray:
    """``(Q, G)`` whether a pair says something: both vehicles known, and not one vehicle by one camera."""
    own = same_vehicle(query.identity[:, None], gallery.identity) & (query.camera[:, None] == gallery.camera)
    return query.known[:, None] & gallery.known & ~own


def _false_matches(
    made: Calibration, cosine: np.ndarray, transit: np.ndarray
) -> tuple[tuple[float, float, float], ...]:
    """``Calibration.false_matches`` of pairs of two vehicles: rates that ``PASSING`` of the pairs reach or more."""
    look, trip = made.evidence(np.sqrt(np.maximum(2 - 2 * cosine, 0)), transit)
    rates = [rate for rate in RATES if rate * len(look) >= PASSING]
    by_both = (np.quantile(value, 1 - np.array(rates)).tolist() for value in (look, look + trip))
    return tuple(zip(rates, *by_both, strict=True))


def _pairs_to_calibrate_on(
    features: Features, model: GapModel | None, train: Sightings | None, network: CameraNetwork | None
) -> tuple[list[tuple[np.ndarray, ...]], float]:
    """Cosine, transit distance, whether it is one vehicle, and fold of pairs drawn from each fold; matches a query."""
    generator = np.random.default_rng(SEED)
    drawn: list[tuple[np.ndarray, ...]] = []
    matches = []
    for number, fold in enumerate(held_out(features.sightings, FOLDS)):
        query, gallery = features[fold.query], features[fold.gallery]
        q, g = query.sightings, gallery.sightings
        distance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (query, gallery)))
        transit = np.full(distance.shape, np.nan, dtype=np.float32)
        if model is not None and train is not None and network is not None:
            others = train[~np.isin(train.identity, np.unique(g.identity))]
            transit = type(model)(**model.options).fit(others, network).distance(q, g)
            transit[np.isnan(q.time_s)[:, None] | np.isnan(g.time_s)] = np.nan
        usable = comparable(q, g)
        same = same_vehicle(q.identity[:, None], g.identity) & usable
        matches.append(same.sum(axis=1))
        for kind in (same, usable & ~same):
            row, column = np.nonzero(kind)
            some = generator.permutation(len(row))[:SAMPLES]
            row, column = row[some], column[some]
            ones = np.full(len(row), kind is same)
            cosine = 1 - distance[row, column].astype(np.float64) ** 2 / 2
            drawn.append((cosine, transit[row, column], ones, np.full(len(row), number)))
    counts = np.concatenate(matches)
    return drawn, float(counts[counts > 0].mean()) if counts.any() else 0.0


def _curve_of_appearance(
    cosine: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> tuple[str, list[float], list[float]]:
    """The evidence of appearance at some cosines, by the shape that serves vehicles left out better."""
    loss = {}
    for shape, make in SHAPES.items():
        total = 0.0
        for number in np.unique(fold):
            out = fold == number
            if not (same[out].any() and same[~out].any()):
                continue
            value = np.interp(cosine[out], *make(cosine[~out], same[~out]))
            sign = np.where(same[out], -1.0, 1.0)
            cost = np.logaddexp(0, sign * value)
            total += cost[same[out]].mean() + cost[~same[out]].mean()
        loss[shape] = total
    best = "isotonic" if loss["isotonic"] < loss["logistic"] else "logistic"
    knots, nats = SHAPES[best](cosine, same)
    return best, knots.tolist(), nats.tolist()


def _logistic_curve(cosine: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bias, slope = logistic(cosine[:, None], same.astype(np.float64), SHARE)
    knots = np.linspace(-1, 1, KNOTS + 1)
    return knots, np.clip(bias + max(slope, 0.0) * knots, -MOST_NATS, MOST_NATS)


def _isotonic_curve(cosine: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rising curve nearest to shares in equal groups of pairs; a pair of each kind more, so that none is 0 or 1."""
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    order = np.argsort(cosine, kind="stable")
    groups = np.array_split(order, min(KNOTS, max(1, len(order) // 8)))
    middle = np.array([cosine[group].mean() for group in groups])
    one = np.array([weight[group][same[group]].sum() for group in groups]) + 0.5 / same.sum()
    two = np.array([weight[group][~same[group]].sum() for group in groups]) + 0.5 / (~same).sum()
    share = isotonic_regression(one / (one + two), weights=one + two).x
    keep = np.r_[True, np.diff(middle) > 0]
    return middle[keep], np.clip(np.log(share / (1 - share)), -MOST_NATS, MOST_NATS)[keep]


SHAPES = {"logistic": _logistic_curve, "isotonic": _isotonic_curve}
