"""How good probabilities and refusals are where some vehicles that are asked for are not in the gallery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torchreid_dfrst import retrieval
from torchreid_dfrst.evaluation.calibration import Calibration, comparable
from torchreid_dfrst.evaluation.card import SAMPLES, Result
from torchreid_dfrst.evaluation.intervals import FEWEST, bootstrap, interval, middle
from torchreid_dfrst.evaluation.weight import SEED
from torchreid_dfrst.retrieval import Features
from torchreid_dfrst.retrieval.logistic import sigmoid
from torchreid_dfrst.sightings import same_vehicle
from torchreid_dfrst.spatiotemporal import GapModel, by_pairs

STRANGERS = 0.2
BINS = 10
EDGES = np.linspace(-30, 30, 6001)
"""Evidence of pairs of two vehicles is counted between these, in nats."""
FALSE_MATCHES = (0.1, 0.01, 0.001)
FALSE_ALARMS = (0.01, 0.1)


class _SeenPairs:
    """What is noted while blocks of distances go by: of pairs by vehicle and probability, of queries their first hits.

    ``count`` and ``sure`` are ``(2, V, BINS)``, pairs of two vehicles and of one: how many, and their probabilities at
    even odds added up.
    """

    def __init__(self, vehicle: np.ndarray) -> None:
        self.vehicle = vehicle
        self.count, self.sure = np.zeros((2, 2, int(vehicle.max(initial=-1)) + 1, BINS))
        self.impostors = np.zeros(len(EDGES) - 1)
        self.genuine: list[tuple[np.ndarray, np.ndarray]] = []
        self.top, self.right = np.full(len(vehicle), -np.inf), np.zeros(len(vehicle), dtype=bool)
        self.candidates = np.zeros(len(vehicle), dtype=np.int64)
        self.alike = np.full((len(vehicle), 2), np.nan)

    def note(self, value: np.ndarray, usable: np.ndarray, same: np.ndarray, start: int) -> None:
        """Note the evidence of all pairs of some queries, ``(rows, G)``, from query ``start`` on."""
        row, column = np.nonzero(same)
        self.genuine.append((row + start, value[row, column]))
        self.impostors += np.histogram(value[usable & ~same].clip(EDGES[0], EDGES[-1]), EDGES)[0]
        sure = sigmoid(value)
        place = self.vehicle[start : start + len(value)][:, None] * BINS + _bin(sure)
        for kind, count, total in zip((usable & ~same, same), self.count, self.sure, strict=True):
            count += np.bincount(place[kind], minlength=count.size).reshape(count.shape)
            total += np.bincount(place[kind], sure[kind], total.size).reshape(total.shape)


def measure(
    calibration: Calibration,
    query: Features,
    gallery: Features,
    model: GapModel | None = None,
    strangers: float = STRANGERS,
    seed: int = SEED,
) -> dict[str, Any]:
    """Measures of probabilities and refusals, JSON types; shares in [0, 1], each with its interval over vehicles.

    Never of re-ranked distances: the same threshold means something else when queries come one by one. Images without
    an identity are left out.

    Args:
        calibration: of the network that made the features.
        query: images asked for.
        gallery: images that are found.
        model: the fitted space-time model of the calibration, for images that all have a time.
        strangers: share of the vehicles asked for that is taken out of the gallery, drawn with ``seed``, beside those
            that are not there anyway.
        seed: of that draw.

    Returns:
        ``reliability``: probability, share of one vehicle and number of pairs by groups at even odds; ``pairs_ece`` and
        ``hits_ece``: expected calibration error of pairs and of first hits; ``FNMR``: share of pairs of one vehicle
        below a threshold that so many pairs of two pass; ``TPIR``: share of queries whose first hit is right and passes
        a threshold that so many strangers pass; ``look_alikes``: share of the nearest images of another vehicle that
        evidence takes for the query's; ``F1`` and ``TNR`` of refusing first hits below 1/2. None: there are too few.
    """
    query, gallery = query[query.sightings.known], gallery[gallery.sightings.known]
    label, vehicle = np.unique(query.sightings.identity, return_inverse=True)
    there = np.isin(label, gallery.sightings.identity)
    chosen = np.random.default_rng(seed).permutation(label[there])[: round(strangers * there.sum())]
    seen = _watch_pairs(calibration, query, gallery, model, chosen, vehicle)
    absent = np.isin(query.sightings.identity, chosen) | ~there[vehicle]
    sure = sigmoid(seen.top + calibration.prior(seen.candidates, float(absent.mean())))
    sure[seen.candidates == 0] = 0.0
    return {
        "vehicles": len(label),
        "strangers": {"queries": int(absent.sum()), "share": round(float(absent.mean()), 4), "seed": seed},
        "reliability": _reliability(seen),
        "pairs_ece": _with_interval(lambda w: _pairs_ece(seen, w), len(label)),
        "hits_ece": _with_interval(lambda w: _hits_ece(sure, seen.right & ~absent, vehicle, w), len(label)),
        "FNMR": {f"at FMR {rate:g}": _fnmr(seen, rate) for rate in FALSE_MATCHES},
        "TPIR": {f"at FPIR {rate:g}": _tpir(seen, absent, rate) for rate in FALSE_ALARMS},
        "look_alikes": _look_alikes(seen, vehicle),
        **_measure_refusals(sure, seen.right, absent, vehicle, len(label)),
    }


def of_result(calibration: Calibration, result: Result) -> dict[str, Any]:
    """``measure`` of what an evaluation ranked first, before any re-ranking, and the name of that row."""
    ranked = result.ranked
    model = result.transit if calibration.transit is not None else None
    row = "appearance" if model is None else "+ ST"
    return {"row": row, **measure(calibration, ranked.query, ranked.gallery, model)}


def _watch_pairs(
    calibration: Calibration,
    query: Features,
    gallery: Features,
    model: GapModel | None,
    gone: np.ndarray,
    vehicle: np.ndarray,
) -> _SeenPairs:
    q, g, seen, start = query.sightings, gallery.sightings, _SeenPairs(vehicle), 0
    shown = ~np.isin(g.identity, gone)
    transit = None if model is None else by_pairs(model).transit(q, g)
    rows, columns = (retrieval.normalise(part.embedding) for part in (query, gallery))
    for distance in retrieval.distance_blocks(rows, columns) if len(query) and len(gallery) else ():
        part, each = slice(start, start + len(distance)), np.arange(len(distance))
        block = None if transit is None else transit.block(part, slice(0, len(gallery)))
        look, way = calibration.evidence(distance, block)
        value = look + way
        usable = comparable(q[part], g)
        same = same_vehicle(q.identity[part][:, None], g.identity) & usable
        seen.note(value, usable, same, start)
        other = np.where(usable & ~same, distance, np.inf)
        nearest = each, other.argmin(axis=1)
        both = np.stack([look[nearest], value[nearest]], axis=1)
        seen.alike[part] = np.where(np.isfinite(other[nearest])[:, None], both, np.nan)
        free = np.where(usable & shown, value, -np.inf)
        best = each, free.argmax(axis=1)
        seen.top[part], seen.right[part] = free[best], same[best]
        seen.candidates[part] = (usable & shown).sum(axis=1)
        start = part.stop
    return seen


def _bin(sure: np.ndarray) -> np.ndarray:
    return np.minimum((sure * BINS).astype(np.int64), BINS - 1)


def _balanced(seen: _SeenPairs, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of one vehicle, mean probability and weight of each group where both kinds of pairs weigh the same."""
    other, same = weight @ seen.count
    two, one = (0.5 / max(count.sum(), 1e-12) for count in (other, same))
    total = np.maximum(one * same + two * other, 1e-12)
    sure_other, sure_same = weight @ seen.sure
    mean = (one * sure_same + two * sure_other) / total
    return one * same / total, mean, total


def _pairs_ece(seen: _SeenPairs, weight: np.ndarray) -> float:
    share, mean, total = _balanced(seen, weight)
    return float((total * np.abs(share - mean)).sum())


def _reliability(seen: _SeenPairs) -> list[dict[str, float]]:
    share, mean, _ = _balanced(seen, np.ones(seen.count.shape[1]))
    count = seen.count.sum(axis=(0, 1))
    rows = zip(mean.tolist(), share.tolist(), count.tolist(), strict=True)
    return [{"probability": round(p, 4), "share": round(s, 4), "pairs": int(n)} for p, s, n in rows if n]


def _hits_ece(sure: np.ndarray, right: np.ndarray, vehicle: np.ndarray, weight: np.ndarray) -> float:
    each = weight[vehicle]
    gap = np.bincount(_bin(sure), each * (sure - right), BINS)
    return float(np.abs(gap).sum() / each.sum())


def _fnmr(seen: _SeenPairs, rate: float) -> dict[str, Any] | None:
    """Of pairs of one vehicle, at the threshold that a share of pairs of two passes."""
    total, count = seen.impostors.sum(), sum(len(row) for row, _ in seen.genuine)
    if total * rate < 1 or not count:
        return None
    row, value = (np.concatenate([pair[k] for pair in seen.genuine]) for k in (0, 1))
    above = np.cumsum(seen.impostors[::-1])[::-1] / total
    threshold = float(EDGES[:-1][above <= rate].min(initial=EDGES[-1]))
    return {**_mean_over_vehicles(value < threshold, seen.vehicle[row]), "threshold": round(threshold, 2)}


def _tpir(seen: _SeenPairs, absent: np.ndarray, rate: float) -> dict[str, Any] | None:
    """Of queries whose vehicle is there, at the threshold that a share of strangers' first hits passes."""
    strangers = np.sort(seen.top[absent])[::-1]
    passing = int(rate * len(strangers))
    if passing < 1 or absent.all():
        return None
    threshold = strangers[passing] if passing < len(strangers) else -np.inf
    found = seen.right & (seen.top > threshold)
    return _mean_over_vehicles(found[~absent], seen.vehicle[~absent])


def _look_alikes(seen: _SeenPairs, vehicle: np.ndarray) -> dict[str, Any]:
    there = ~np.isnan(seen.alike[:, 0])
    names = ("by appearance", "by all")
    if not there.any():
        return dict.fromkeys(names)
    return {name: _mean_over_vehicles(seen.alike[there, k] > 0, vehicle[there]) for k, name in enumerate(names)}


def _measure_refusals(
    sure: np.ndarray, right: np.ndarray, absent: np.ndarray, vehicle: np.ndarray, count: int
) -> dict[str, Any]:
    answered = sure >= 0.5
    good = answered & right & ~absent

    def f1(weight: np.ndarray) -> float:
        each = weight[vehicle]
        hits, wrong, missed = (float(each[kind].sum()) for kind in (good, answered & ~good, ~answered & ~absent))
        return 2 * hits / max(2 * hits + wrong + missed, 1e-12)

    refused = _mean_over_vehicles(~answered[absent], vehicle[absent]) if absent.any() else None
    return {"F1": _with_interval(f1, count), "TNR": refused}


def _mean_over_vehicles(value: np.ndarray, vehicle: np.ndarray) -> dict[str, Any]:
    """A mean over queries or pairs with its interval over vehicles, None for few."""
    mean, few = float(value.mean()), len(np.unique(vehicle)) < FEWEST
    ends = None if few else interval(bootstrap(value.astype(np.float64), vehicle, SAMPLES), mean)
    return {"value": round(mean, 4), "interval": ends and [round(end, 4) for end in ends]}


def _with_interval(of: Callable[[np.ndarray], float], vehicles: int) -> dict[str, Any]:
    """What is no mean, with its interval: vehicles get weights from a gamma law."""
    value = of(np.ones(vehicles))
    if vehicles < FEWEST:
        return {"value": round(value, 4), "interval": None}
    weights = np.random.default_rng(SEED).gamma(1.0, size=(SAMPLES, vehicles))
    ends = middle([of(weight) for weight in weights])
    return {"value": round(value, 4), "interval": [round(float(end), 4) for end in ends]}
