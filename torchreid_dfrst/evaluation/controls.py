"""Controls that a gain by space and time must pass: what is left of it when times or cameras are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.model import GapModel, fuse

SKEWS_S = (2.0, 5.0, 15.0, 30.0, 60.0)
WRONG = (0.1, 0.25, 0.5)
UNSEEN = (1, 4, 8)

Score = Callable[[np.ndarray], dict[str, float]]


def shuffled(query: Sightings, gallery: Sightings, what: str, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with times, cameras or both dealt anew among all their images.

    An image that is in both lists (one path) stays one image. Only what the model sees is changed; the junk rule keeps
    the true cameras.

    Args:
        query: the rows.
        gallery: the columns.
        what: ``"times"``, ``"cameras"`` or ``"both"`` (each dealt for itself).
        seed: of the deal.
    """
    generator, everyone = np.random.default_rng(seed), Sightings.concatenate([query, gallery])
    name = np.where(everyone.path == "", np.arange(len(everyone)).astype(str), everyone.path)
    _, first, image = np.unique(name, return_index=True, return_inverse=True)
    camera, time_s = everyone.camera[first], everyone.time_s[first]
    if what in ("times", "both"):
        time_s = generator.permutation(time_s)
    if what in ("cameras", "both"):
        camera = generator.permutation(camera)
    # tracks no longer hold together what they did
    return _split(Sightings(camera[image], time_s[image], everyone.identity, path=everyone.path), len(query))


def skewed(query: Sightings, gallery: Sightings, seconds: float, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with every camera's clock wrong by its own uniform draw from ``-seconds`` to ``seconds``."""
    everyone = Sightings.concatenate([query, gallery])
    labels, place = np.unique(everyone.camera, return_inverse=True)
    error = np.random.default_rng(seed).uniform(-seconds, seconds, len(labels))
    time_s = np.round(everyone.time_s + error[place], 1)
    return _split(_with_times(everyone, time_s), len(query))


def wrong_times(query: Sightings, gallery: Sightings, share: float, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with a share of the tracks at a time drawn from the whole span, the images of a track together."""
    generator, everyone = np.random.default_rng(seed), Sightings.concatenate([query, gallery])
    key = np.where(everyone.track >= 0, everyone.track, everyone.track.max(initial=0) + 1 + np.arange(len(everyone)))
    labels, place = np.unique(key, return_inverse=True)
    hit = generator.random(len(labels)) < share
    first, last = np.nanmin(everyone.time_s), np.nanmax(everyone.time_s)
    start = np.full(len(labels), np.inf)
    np.minimum.at(start, place, everyone.time_s)
    moved = np.round(generator.uniform(first, last, len(labels)), 1)
    time_s = np.where(hit[place], moved[place] + everyone.time_s - start[place], everyone.time_s)
    return _split(_with_times(everyone, time_s), len(query))


def run(
    model: GapModel,
    train: Sightings,
    query: Sightings,
    gallery: Sightings,
    network: CameraNetwork,
    appearance: np.ndarray | None = None,
    weight: float = 0.2,
    seed: int = 776,
) -> dict[str, Any]:
    """All controls of one model; JSON types only, scores in percent.

    Args:
        model: gives name and options; copies of it are fitted.
        train: training sightings.
        query: the rows.
        gallery: the columns.
        network: road distances.
        appearance: ``(Q, G)`` distances to fuse with; None scores space and time alone.
        weight: omega of the fusion.
        seed: of every draw.
    """

    def score(transit: np.ndarray) -> dict[str, float]:
        distance = transit if appearance is None else fuse(appearance, transit, weight)
        return audit.percent(audit.rank(distance, query, gallery))

    def fitted(rows: Sightings) -> GapModel:
        return type(model)(**model.options).fit(rows, network)

    own = fitted(train)
    whole = own.distance(query, gallery)
    result: dict[str, Any] = {"model": own.parameters, "weight": None if appearance is None else weight, "seed": seed}
    result["as it is"] = score(whole)
    if appearance is not None:
        result["appearance"] = score(np.zeros_like(appearance))
    result["shuffled"] = {
        what: score(own.distance(*shuffled(query, gallery, what, seed))) for what in ("times", "cameras", "both")
    }
    cameras = np.random.default_rng(seed).permutation(np.unique(gallery.camera))

    def without(count: int) -> np.ndarray:
        return fitted(train[~np.isin(train.camera, cameras[:count])]).distance(query, gallery)

    half = len(cameras) // 2
    changed = {
        "clock skew s": {f"{s:g}": score(own.distance(*skewed(query, gallery, s, seed))) for s in SKEWS_S},
        "wrong times": {f"{p:g}": score(own.distance(*wrong_times(query, gallery, p, seed))) for p in WRONG},
        "cameras without training": {str(n): score(without(n)) for n in UNSEEN if n <= half},
    }
    for kind, levels in changed.items():
        result[kind] = {"0": result["as it is"], **levels}
    result["reliability"] = reliability(whole, query, gallery)
    result["pairs"] = by_pair(whole, query, gallery)
    return result


def reliability(transit: np.ndarray, query: Sightings, gallery: Sightings, bins: int = 12) -> list[dict[str, float]]:
    """Pairs of two cameras sorted into bins by their distance: how many are of one vehicle in each.

    ``gain`` is the log of that share over the share among all pairs, in nats: evidence as it turned out to be.
    """
    across = query.camera[:, None] != gallery.camera
    distance, same = transit[across], (query.identity[:, None] == gallery.identity)[across]
    edges = np.unique(np.quantile(distance, np.concatenate([[0, 1e-4, 1e-3, 3e-3], np.geomspace(0.01, 1, bins - 3)])))
    place = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    hits = np.bincount(place, same, minlength=len(edges) - 1)
    mean = np.bincount(place, distance, minlength=len(edges) - 1)
    return [
        {
            "distance": round(float(mean[k] / count[k]), 4),
            "pairs": int(count[k]),
            "same": float(hits[k] / count[k]),
            "gain": round(float(np.log(max(hits[k], 0.5) / count[k] / same.mean())), 3),
        }
        for k in np.flatnonzero(count)
    ]


def by_pair(transit: np.ndarray, query: Sightings, gallery: Sightings) -> list[dict[str, Any]]:
    """For each ordered pair of cameras the mAP of ranking one camera's images for the other's queries, and by chance.

    Chance is the share of right images, which is what a random order reaches on average.
    """
    found = []
    for a in np.unique(query.camera):
        for b in np.unique(gallery.camera):
            rows, columns = np.flatnonzero(query.camera == a), np.flatnonzero(gallery.camera == b)
            q, g = query[rows], gallery[columns]
            rows, q = rows[np.isin(q.identity, g.identity)], q[np.isin(q.identity, g.identity)]
            if a == b or not len(rows):
                continue
            metrics = audit.rank(transit[np.ix_(rows, columns)], q, g)
            chance = float((q.identity[:, None] == g.identity).mean())
            found.append(
                {
                    "query": int(a),
                    "gallery": int(b),
                    "queries": len(rows),
                    "mAP": round(100 * metrics.mAP, 2),
                    "chance": round(100 * chance, 2),
                }
            )
    return found


def _with_times(sightings: Sightings, time_s: np.ndarray) -> Sightings:
    return Sightings(sightings.camera, time_s, sightings.identity, sightings.track, sightings.path)


def _split(sightings: Sightings, count: int) -> tuple[Sightings, Sightings]:
    return sightings[:count], sightings[count:]
