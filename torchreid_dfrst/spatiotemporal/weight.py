"""How much transit counts beside appearance, chosen on training vehicles that were held out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from torchreid_dfrst import retrieval
from torchreid_dfrst.retrieval.features import Features
from torchreid_dfrst.retrieval.metrics import evaluate
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.fusion import fuse
from torchreid_dfrst.spatiotemporal.holdout import SEED, held_out
from torchreid_dfrst.spatiotemporal.model import GapModel

OMEGAS = (0.0, *(0.025 * 2 ** (2 * np.arange(14) / 3)).round(3).tolist())
METHODS = ("map", "calibrated")
SAMPLES = 100_000
QUERIES = 400


@dataclass(frozen=True)
class Weight:
    """A chosen omega of Eq. 6 and why.

    Args:
        value: omega.
        method: ``"map"`` or ``"calibrated"``.
        folds: how many groups of training vehicles were held out.
        vehicles: how many vehicles they held together.
        seed: of the folds.
        curve: ``{omega: mAP in percent}``, mean over the folds; empty for ``"calibrated"``.
        evidence: for ``"calibrated"``, what one unit of appearance distance is worth in nats, what one unit of transit
            distance is, and the log-odds at 0; ``P(same) = 1 / (1 + exp(-(bias - a * Da - t * transit)))``.
    """

    value: float
    method: str
    folds: int
    vehicles: int
    seed: int
    curve: dict[str, float]
    evidence: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """For the result card."""
        return asdict(self)


def choose_weight(
    model: GapModel,
    train: Sightings,
    features: Features,
    network: CameraNetwork,
    *,
    method: str = "map",
    folds: int = 3,
    seed: int = SEED,
) -> Weight:
    """The omega that serves held-out training vehicles best.

    For each fold a copy of ``model`` is fitted without the held-out vehicles and ranks them by
    ``Da + omega * transit``. Test vehicles are never looked at. An appearance model knows the vehicles
    it was trained on better than new ones, and the weight comes out too small: better ``features`` are of vehicles it
    was not trained on.

    Args:
        model: gives name and options; need not be fitted.
        train: all training sightings, to fit on.
        features: embeddings of (some) training images with identities and times.
        network: road distances.
        method: ``"map"`` tries ``OMEGAS`` and takes the best mean average precision. ``"calibrated"`` turns both
            distances into log-likelihood ratios by a logistic regression on pairs of held-out images of two cameras
            and takes the ratio of their slopes.
        folds: groups of vehicles.
        seed: of the folds.

    Raises:
        KeyError: unknown method.
        ValueError: too few vehicles with features, or the model cannot be fitted without the held-out ones.
    """
    if method not in METHODS:
        raise KeyError(f"no method {method!r} to choose a weight, there are {', '.join(METHODS)}")
    scores, pairs, vehicles = [], [], 0
    for fold in held_out(features.sightings, folds, seed=seed):
        # every n-th query: enough to compare weights with each other
        query, gallery = features[fold.query[:: 1 + len(fold.query) // QUERIES]], features[fold.gallery]
        vehicles += len(np.unique(gallery.sightings.identity))
        known = ~np.isin(train.identity, np.unique(gallery.sightings.identity)) | (train.identity == UNKNOWN)
        copy = type(model)(**model.options).fit(train[known], network)
        appearance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (query, gallery)))
        transit = copy.distance(query.sightings, gallery.sightings)
        q, g = query.sightings, gallery.sightings
        if method == "map":
            scores.append(
                [
                    evaluate(fuse(appearance, transit, omega), q.identity, g.identity, q.camera, g.camera).mAP
                    for omega in OMEGAS
                ]
            )
        else:
            across = q.camera[:, None] != g.camera
            same = (q.identity[:, None] == g.identity)[across]
            pairs.append((appearance[across], transit[across], same))
    if method == "calibrated":
        appearance, transit, same = (np.concatenate(column) for column in zip(*pairs, strict=True))
        bias, a, t = _logistic(appearance, transit, same, seed)
        evidence = {"bias": bias, "appearance": a, "transit": t}
        return Weight(max(t, 0.0) / max(a, 1e-6), method, folds, vehicles, seed, {}, evidence)
    mean = 100 * np.mean(scores, axis=0)
    curve = {str(omega): round(float(value), 3) for omega, value in zip(OMEGAS, mean, strict=True)}
    return Weight(OMEGAS[int(mean.argmax())], method, folds, vehicles, seed, curve, {})


def _logistic(appearance: np.ndarray, transit: np.ndarray, same: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Logistic regression by Newton's method on a seeded draw with as many same as different pairs."""
    generator = np.random.default_rng(seed)
    drawn = [
        generator.choice(rows, min(SAMPLES, len(rows)), replace=False)
        for rows in (np.flatnonzero(same), np.flatnonzero(~same))
    ]
    rows = np.concatenate(drawn)
    x = np.stack([np.ones(len(rows)), -appearance[rows], -transit[rows]], axis=1).astype(np.float64)
    weight = np.concatenate([np.full(len(d), 0.5 / max(len(d), 1)) for d in drawn])
    beta, y = np.zeros(3), same[rows]
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(3)
        step = np.linalg.solve(hessian, x.T @ (weight * (y - p)) - 1e-9 * beta)
        beta += step * min(1.0, 5 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[0]), float(beta[1]), float(beta[2])
