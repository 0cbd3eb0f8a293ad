"""How much of a score is owed to space and time, and what is left of it when times or cameras are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from torchreid_dfrst.evaluation.weight import PAPER_WEIGHT, SEED
from torchreid_dfrst.retrieval import Metrics, evaluate
from torchreid_dfrst.sightings import CameraNetwork, Sightings, same_vehicle
from torchreid_dfrst.spatiotemporal import GapModel, fuse

SKEWS_S = (2.0, 5.0, 15.0, 30.0, 60.0)
WRONG = (0.1, 0.25, 0.5)
UNSEEN = (1, 4, 8)


def rank(distance: np.ndarray, query: Sightings, gallery: Sightings, seed: int = SEED) -> Metrics:
    """Score a distance matrix by the junk rule, with ties in an order that knows nothing of identity.

    Space and time leave many of the ``(Q, G)`` distances equal, and galleries are sorted by identity. The gallery is
    shuffled first, so that a tie is decided by a seeded draw.
    """
    order = np.random.default_rng(seed).permutation(len(gallery))
    dealt, columns = np.ascontiguousarray(distance[:, order]), gallery[order]
    return evaluate(dealt, query.identity, columns.identity, query.camera, columns.camera)


def tie_bounds(distance: np.ndarray, query: Sightings, gallery: Sightings) -> tuple[Metrics, Metrics]:
    """The score if every tie were decided against the query's identity, and if all were decided for it."""
    place = np.empty(distance.shape, dtype=np.float32)
    for row, values in zip(place, distance, strict=True):
        row[:] = 2 * np.unique(values, return_inverse=True)[1]
    wrong = ~same_vehicle(query.identity[:, None], gallery.identity)
    return rank(place + ~wrong, query, gallery), rank(place + wrong, query, gallery)


def percent(metrics: Metrics) -> dict[str, float]:
    """``mAP``, ``R1`` and ``R5`` in percent, two digits."""
    shares = {"mAP": metrics.mAP, "R1": metrics.rank(1), "R5": metrics.rank(5)}
    return {name: round(100 * share, 2) for name, share in shares.items()}


def alone(model: GapModel, query: Sightings, gallery: Sightings) -> dict[str, Any]:
    """Score of a fitted model by time and camera alone, with the bounds of its mAP over all orders of ties."""
    distance = model.distance(query, gallery)
    bounds = [percent(metrics)["mAP"] for metrics in tie_bounds(distance, query, gallery)]
    return {**percent(rank(distance, query, gallery)), "mAP_ties": bounds}


def shuffled(query: Sightings, gallery: Sightings, what: str, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with times, cameras or both dealt anew among all their images.

    An image that is in both lists (one path) stays one image. Only what the model sees is changed; the junk rule keeps
    the true cameras. ``what`` is ``"times"``, ``"cameras"`` or ``"both"``, each dealt for itself.
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
    dealt = Sightings(camera[image], time_s[image], everyone.identity, path=everyone.path)
    return dealt[: len(query)], dealt[len(query) :]


def skewed(query: Sightings, gallery: Sightings, seconds: float, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with every camera's clock wrong by its own uniform draw from ``-seconds`` to ``seconds``."""
    everyone = Sightings.concatenate([query, gallery])
    labels, place = np.unique(everyone.camera, return_inverse=True)
    error = np.random.default_rng(seed).uniform(-seconds, seconds, len(labels))
    moved = replace(everyone, time_s=np.round(everyone.time_s + error[place], 1))
    return moved[: len(query)], moved[len(query) :]


def wrong_times(query: Sightings, gallery: Sightings, share: float, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with a share of the tracks at a time drawn from the whole span, the images of a track together."""
    generator, everyone = np.random.default_rng(seed), Sightings.concatenate([query, gallery])
    key = np.where(everyone.track >= 0, everyone.track, everyone.track.max(initial=0) + 1 + np.arange(len(everyone)))
    labels, place = np.unique(key, return_inverse=True)
    hit = generator.random(len(labels)) < share
    start = np.full(len(labels), np.inf)
    np.minimum.at(start, place, everyone.time_s)
    moved = np.round(generator.uniform(np.nanmin(everyone.time_s), np.nanmax(everyone.time_s), len(labels)), 1)
    time_s = np.where(hit[place], moved[place] + everyone.time_s - start[place], everyone.time_s)
    everyone = replace(everyone, time_s=time_s)
    return everyone[: len(query)], everyone[len(query) :]


def run(
    model: GapModel,
    train: Sightings,
    query: Sightings,
    gallery: Sightings,
    network: CameraNetwork,
    appearance: np.ndarray | None = None,
    weight: float = PAPER_WEIGHT,
    data: str = "",
) -> dict[str, Any]:
    """All controls of one model; JSON types only, scores in percent.

    ``model`` gives name and options, and copies of it are fitted. ``appearance`` are ``(Q, G)`` distances to fuse with
    by ``weight``, omega of Eq. 6; None scores space and time alone. ``data`` is what a warning calls the lists.
    """

    def scored(transit: np.ndarray) -> dict[str, float]:
        distance = transit if appearance is None else fuse(appearance, transit, weight)
        return percent(rank(distance, query, gallery))

    def fitted(rows: Sightings) -> GapModel:
        return type(model)(**model.options).fit(rows, network)

    own = fitted(train)
    own.check_use(query, gallery, data)
    whole = own.distance(query, gallery)
    result: dict[str, Any] = {"model": own.parameters, "weight": None if appearance is None else weight, "seed": SEED}
    result["as it is"] = scored(whole)
    if appearance is not None:
        result["appearance"] = scored(np.zeros_like(appearance))
    result["shuffled"] = {
        what: scored(own.distance(*shuffled(query, gallery, what, SEED))) for what in ("times", "cameras", "both")
    }
    cameras = np.random.default_rng(SEED).permutation(np.unique(gallery.camera))

    def without(count: int) -> np.ndarray:
        return fitted(train[~np.isin(train.camera, cameras[:count])]).distance(query, gallery)

    changed = {
        "clock skew s": {f"{s:g}": scored(own.distance(*skewed(query, gallery, s, SEED))) for s in SKEWS_S},
        "wrong times": {f"{p:g}": scored(own.distance(*wrong_times(query, gallery, p, SEED))) for p in WRONG},
        "cameras without training": {str(n): scored(without(n)) for n in UNSEEN if n <= len(cameras) // 2},
    }
    result |= {kind: {"0": result["as it is"], **levels} for kind, levels in changed.items()}
    result["reliability"] = reliability(whole, query, gallery)
    called = network.named(query, gallery, train).called
    result["cameras"] = [called(camera) for camera in network.cameras]
    return {**result, "pairs": by_pair(whole, query, gallery, called)}


def table(name: str, result: Mapping[str, Any]) -> str:
    """What ``run`` found of a model, for a screen: a row for each control, in percent."""
    rows = {"as it is": result["as it is"]}
    rows |= {"by appearance alone": result["appearance"]} if "appearance" in result else {}
    rows |= {f"{what} shuffled": score for what, score in result["shuffled"].items()}
    kinds = {"clock skew s": "clocks off by up to {} s", "wrong times": "share {} of the times wrong"}
    kinds |= {"cameras without training": "{} cameras without training"}
    for kind, words in kinds.items():
        rows |= {words.format(level): score for level, score in result[kind].items() if level != "0"}
    lines = [f"{name:32}{'mAP':>8}{'R1':>8}{'R5':>8}"]
    return "\n".join(
        lines
        + [f"  {row:30}" + "".join(f"{score[m]:8.2f}" for m in ("mAP", "R1", "R5")) for row, score in rows.items()]
    )


def reliability(transit: np.ndarray, query: Sightings, gallery: Sightings) -> list[dict[str, float]]:
    """Pairs of two cameras sorted into bins by their distance: how many are of one vehicle in each.

    ``gain`` is the log of that share over the share among all pairs, in nats: evidence as it turned out to be.
    """
    across = query.camera[:, None] != gallery.camera
    distance, same = transit[across], same_vehicle(query.identity[:, None], gallery.identity)[across]
    edges = np.unique(np.quantile(distance, np.concatenate([[0, 1e-4, 1e-3, 3e-3], np.geomspace(0.01, 1, 9)])))
    place = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, len(edges) - 2)
    count, hits, total = (np.bincount(place, of, minlength=len(edges) - 1) for of in (None, same, distance))
    return [
        {
            "distance": round(float(total[k] / count[k]), 4),
            "pairs": int(count[k]),
            "same": float(hits[k] / count[k]),
            "gain": round(float(np.log(max(hits[k], 0.5) / count[k] / same.mean())), 3),
        }
        for k in np.flatnonzero(count)
    ]


def by_pair(
    transit: np.ndarray, query: Sightings, gallery: Sightings, called: Callable[[int], str]
) -> list[dict[str, Any]]:
    """For each ordered pair of cameras the mAP of ranking one camera's images for the other's queries, and by chance.

    Chance is the share of right images, which is what a random order reaches on average. ``called`` names a camera.
    """
    found = []
    for a in np.unique(query.camera):
        for b in np.setdiff1d(gallery.camera, a):
            rows, columns = np.flatnonzero(query.camera == a), np.flatnonzero(gallery.camera == b)
            rows = rows[np.isin(query.identity[rows], gallery[columns].vehicles)]
            if not len(rows):
                continue
            q, g = query[rows], gallery[columns]
            shares = {
                "mAP": rank(transit[np.ix_(rows, columns)], q, g).mAP,
                "chance": float(same_vehicle(q.identity[:, None], g.identity).mean()),
            }
            ends = {"query": called(a), "gallery": called(b), "queries": len(rows)}
            found.append({**ends, **{name: round(100 * share, 2) for name, share in shares.items()}})
    return found
