"""How much transit counts beside appearance, chosen on training vehicles that play query and gallery."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from torchreid_dfrst import retrieval
from torchreid_dfrst.checks import within
from torchreid_dfrst.evaluation.leaks import check_leaks
from torchreid_dfrst.retrieval import Extraction, Features, evaluate
from torchreid_dfrst.retrieval.logistic import logistic
from torchreid_dfrst.sightings import CameraNetwork, Sightings, same_vehicle
from torchreid_dfrst.spatiotemporal import GapModel, fuse

PAPER_WEIGHT = 0.2
HELD_OUT, TRAINED_ON = "held out", "trained on"  # the vehicles of ``Extraction.train_features``
CHOSEN_BY = {"auto": "map", "calibrated": "calibrated"}

logger = logging.getLogger(__name__)

SEED = 776
# around the paper's 0.2, each 2^(1/3) of the one before
OMEGAS = (0.0, *(0.2 * 2 ** (np.arange(-9, 18) / 3)).round(4).tolist())
FOLDS = 3
SAMPLES = 100_000
MOST = 100.0  # omegas; the largest that "map" tries is 10
SAME = 1e-3  # appearance distances: float32 knows no less of small ones
QUERIES, GALLERY = 1000, 200
PAIR = 40  # bytes that a pair of images takes while weights are compared


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of a training list, int64."""

    fit: np.ndarray
    """To learn from, none of a vehicle that is asked for."""
    query: np.ndarray
    """One image of each vehicle asked for and camera."""
    gallery: np.ndarray
    """Those of ``query`` among them."""


def held_out(sightings: Sightings, folds: int = 3, most: int = 200, parts: int = 1, seed: int = SEED) -> Iterator[Fold]:
    """Folds over vehicles, each built as VeRi-776 builds its test.

    Args:
        sightings: training images; those without an identity are in no fold.
        folds: number of disjoint groups of vehicles; the images of a group are a gallery.
        most: most vehicles in one gallery; the others of its group are only learned from.
        parts: how many times each gallery is yielded, each time asked for another part of its vehicles; only these are
            left out of ``fit``.
        seed: decides the groups and the query images.

    Raises:
        ValueError: fewer than two vehicles for each fold.
    """
    vehicles = sightings.vehicles
    if len(vehicles) < 2 * folds:
        raise ValueError(f"{len(vehicles)} training vehicles are too few for {folds} folds: {2 * folds} needed")
    generator = np.random.default_rng(seed)
    for group in np.array_split(generator.permutation(vehicles), folds):
        gallery = np.flatnonzero(np.isin(sightings.identity, group[:most]))
        shuffled = generator.permutation(gallery)
        key = np.stack([sightings.identity[shuffled], sightings.camera[shuffled]])
        query = shuffled[np.unique(key, axis=1, return_index=True)[1]]
        for asked in np.array_split(group[:most], min(parts, len(group[:most]))):
            out = np.isin(sightings.identity, asked)
            yield Fold(np.flatnonzero(~out & sightings.known), query[out[query]], gallery)


@dataclass(frozen=True)
class Weight:
    """A chosen omega of Eq. 6 and why.

    Args:
        value: omega.
        method: ``"map"`` or ``"calibrated"``.
        folds: how many times a model was fitted without the vehicles that were asked for.
        vehicles: how many vehicles were asked for.
        seed: of the folds.
        curve: ``{omega: mAP in percent}``, mean over all queries; empty for ``"calibrated"``.
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


def choose_weight(
    model: GapModel,
    train: Sightings,
    features: Features,
    network: CameraNetwork,
    *,
    method: str = "map",
    memory_limit: int | None = None,
) -> Weight:
    """The omega that serves held-out training vehicles best.

    For each fold a copy of ``model`` is fitted without the vehicles that are asked for and ranks a gallery of up to
    200 vehicles by ``Da + omega * transit``. A network knows the vehicles it was trained on better than new ones, and
    the weight comes out too small: better ``features`` are of vehicles held out (``data.validation_identities``).

    Args:
        model: gives name and options; need not be fitted.
        train: all training sightings, to fit on.
        features: embeddings of (some) training images with identities and times.
        network: road distances.
        method: ``"map"`` tries ``OMEGAS`` and takes the best mean average precision, refined by a parabola through it
            and its neighbours. ``"calibrated"`` turns both distances into log-likelihood ratios by a logistic
            regression on pairs of held-out images of two cameras and takes the ratio of their slopes.
        memory_limit: bytes; where the distances of a fold need more, fewer of its queries are asked, which is logged.

    Raises:
        KeyError: unknown method.
        ValueError: too few vehicles with features, features that say nothing, or the model cannot be fitted.
    """
    if method not in CHOSEN_BY.values():
        raise KeyError(f"no method {method!r} to choose a weight, there are {', '.join(CHOSEN_BY.values())}")
    cameras = np.unique(features.sightings.camera)
    if len(cameras) < 2:
        seen = ", ".join(map(features.sightings.camera_called, cameras)) or "none"
        raise ValueError(
            "a weight is chosen on matches between cameras, but the training images with features are all of camera "
            f"{seen}: extract those of others too, or give a number"
        )
    scores, used, pairs, vehicles = [], [], [], []
    for fold in _folds_of_training(features.sightings):
        asked = np.unique(features.sightings.identity[fold.query])
        vehicles.append(len(asked))
        # every n-th query: enough to compare weights with each other
        step = -(-len(fold.query) // QUERIES)
        held = PAIR * len(fold.gallery) * (FOLDS if method == "calibrated" else 1)
        if memory_limit is not None and held * -(-len(fold.query) // step) > memory_limit:
            if held > memory_limit:
                raise ValueError(
                    f"a memory limit of {memory_limit} bytes is too small to choose a weight: {held} are needed"
                )
            step = -(-len(fold.query) * held // memory_limit)
            logger.warning("a weight is chosen on every %dth held-out query only, within the limit of memory", step)
        query, gallery = features[fold.query[::step]], features[fold.gallery]
        copy = type(model)(**model.options).fit(train[~np.isin(train.identity, asked)], network)
        appearance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (query, gallery)))
        q, g = query.sightings, gallery.sightings
        transit = copy.distance(q, g)
        across = q.camera[:, None] != g.camera
        if np.ptp(appearance[across]) < SAME:
            raise ValueError(
                f"embeddings of training images by different cameras are all {appearance[across].mean():.4g} apart: no "
                "weight can be chosen on them; extract them again, or give a number"
            )
        if method == "map":
            labels = q.identity, g.identity, q.camera, g.camera
            found = [evaluate(fuse(appearance, transit, omega), *labels) for omega in OMEGAS]
            scores.append([metrics.mAP for metrics in found])
            used.append(found[0].used)
        else:
            pairs.append((appearance[across], transit[across], same_vehicle(q.identity[:, None], g.identity)[across]))
    asked_for = method, len(vehicles), sum(vehicles), SEED
    if method == "calibrated":
        appearance, transit, same = (np.concatenate(column) for column in zip(*pairs, strict=True))
        bias, a, t = _weight_by_logistic(appearance, transit, same)
        if t > MOST * max(a, 0.0):
            raise ValueError(
                f"appearance says next to nothing of which training images show one vehicle ({a:.3g} nats a unit of "
                f"distance, {t:.3g} a unit of transit): no weight can be chosen on them; give a number"
            )
        return Weight(max(t, 0.0) / max(a, 1e-6), *asked_for, {}, {"bias": bias, "appearance": a, "transit": t})
    mean = 100 * np.average(scores, axis=0, weights=used)
    curve = {str(omega): round(float(value), 3) for omega, value in zip(OMEGAS, mean, strict=True)}
    return Weight(_peak_of_scores(OMEGAS, mean), *asked_for, curve, {})


def _folds_of_training(sightings: Sightings) -> Iterator[Fold]:
    """Galleries as large as a test's, as far as there are vehicles; in small lists each is asked in several parts."""
    vehicles = len(sightings.vehicles)
    galleries = min(FOLDS, -(-vehicles // GALLERY)) or 1
    return held_out(sightings, galleries, most=GALLERY, parts=-(-FOLDS // galleries))


def _peak_of_scores(omegas: Sequence[float], score: np.ndarray) -> float:
    """Where the parabola through the best score and its two neighbours, over ln omega, has its top."""
    best = int(score.argmax())
    if best < 2 or best == len(score) - 1:  # omega 0 has no logarithm
        return omegas[best]
    below, here, above = (float(value) for value in score[best - 1 : best + 2])
    bend = below + above - 2 * here
    shift = (below - above) / (2 * bend) if bend < 0 else 0.0
    step = omegas[best] / omegas[best - 1] if shift < 0 else omegas[best + 1] / omegas[best]
    return round(float(omegas[best] * step**shift), 4)


def _weight_by_logistic(appearance: np.ndarray, transit: np.ndarray, same: np.ndarray) -> list[float]:
    """Logistic regression on a seeded draw of same and different pairs: bias, and what a unit of each is worth."""
    generator = np.random.default_rng(SEED)
    drawn = [
        generator.choice(rows, min(SAMPLES, len(rows)), replace=False)
        for rows in (np.flatnonzero(same), np.flatnonzero(~same))
    ]
    rows = np.concatenate(drawn)
    columns = np.stack([-appearance[rows], -transit[rows]], axis=1)
    return logistic(columns, same[rows].astype(np.float64)).tolist()


def transit_weight(
    extraction: Extraction, model: GapModel, weight: float | str | None = None, memory_limit: int | None = None
) -> tuple[float, str | dict[str, Any]]:
    """Omega of Eq. 6 beside a space-time model, and where it comes from.

    Args:
        extraction: features, of training images too if the weight is to be chosen.
        model: the space-time model.
        weight: a number; ``"auto"``: the one with the best mAP on held-out training vehicles; ``"calibrated"``: the
            one that a logistic regression on pairs of held-out training vehicles gives; None: the paper's 0.2.
        memory_limit: see ``choose_weight``.

    Returns:
        Omega, and ``"the paper"``, ``"given"``, or for a chosen one the fields of ``Weight`` and ``network``: whether
        its vehicles were ``"held out"`` of the network's training or ``"trained on"``; None if not known.

    Raises:
        ValueError: not one of these, out of range, or training features are missing.
    """
    if weight is None:
        return PAPER_WEIGHT, "the paper"
    if not isinstance(weight, str):
        within("spacetime.weight", weight, below=np.inf)
        return float(weight), "given"
    if weight not in CHOSEN_BY:
        raise ValueError(f"spacetime.weight is {weight!r}: a number, or {' or '.join(CHOSEN_BY)}")
    train, known, network = extraction.train, extraction.train_features, extraction.network
    if train is None or network is None or known is None:
        raise ValueError(
            f"spacetime.weight {weight} is chosen on training vehicles, but there are no features of training images: "
            "extract with --train, or give a number"
        )
    wide, other = extraction.query.embedding.shape[1], known.embedding.shape[1]
    if wide != other:
        raise ValueError(
            f"spacetime.weight {weight}: query embeddings have {wide} dimensions, those of training images {other}: "
            "extract both with one network, or give a number"
        )
    check_leaks(extraction, refuse=True)
    chosen = choose_weight(model, train, known, network, method=CHOSEN_BY[weight], memory_limit=memory_limit)
    seen = extraction.source.get("train_features")
    if seen != HELD_OUT:
        logger.warning(
            "spacetime.weight %s is chosen on vehicles that the network %s trained on%s: it knows such vehicles too "
            "well, and the weight comes out too small; train with data.validation_identities and extract again",
            weight,
            *(("was", "") if seen == TRAINED_ON else ("may have been", ", nothing says that they were held out")),
        )
    return chosen.value, {**asdict(chosen), "network": seen}
