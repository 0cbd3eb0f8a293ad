"""Pages of an evaluation and of a search: what goes into ``report.page``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.evaluation import TOP, Result, best_matches
from torchreid_dfrst.evaluation.card import UNNAMED
from torchreid_dfrst.gallery import Gallery, Hits
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.inference.extraction import input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.messages import numbered
from torchreid_dfrst.models.explain import explain
from torchreid_dfrst.report.canvas import small, spread
from torchreid_dfrst.report.page import LIMIT, Page
from torchreid_dfrst.retrieval import normalise
from torchreid_dfrst.retrieval.transit import transits
from torchreid_dfrst.sightings import Sightings, same_vehicle

TRIP = "its trip, by time"
QUERIES, EXPLAINED = 200, 40
"""Queries of a page, and how many of them have their first hits explained."""


def page_of_result(
    result: Result, weights: str | Path | None = None, queries: int = QUERIES, limit: int = LIMIT
) -> Page:
    """Queries at equal steps through all of them, each with its lists by every row of the result.

    Args:
        result: what ``evaluation.score`` gave.
        weights: the network behind the features, to explain first hits; None leaves that out.
        queries: how many, at most.
        limit: bytes of the page.

    Raises:
        ValueError: the features were made with other weights, or the network cannot be explained.
    """
    query, gallery = result.ranked.query, result.ranked.gallery
    chosen = spread(len(query), queries)
    rows = list(result.draws)
    notes = [result.protocol.describe(), "junk (the query's own vehicle by its own camera) is removed"]
    if len(chosen) < len(query):
        notes.append(f"{len(chosen)} of {len(query):,} queries, at equal steps")
    page = Page(str(result.ranked.source.get("data") or UNNAMED), rows, notes, result.ranked.network, limit)
    reason = None if weights is None else Reason(weights, result.ranked.source)
    explained = set(chosen[spread(len(chosen), EXPLAINED)].tolist()) if reason is not None else set()
    if reason is not None and len(explained) < len(chosen):
        page.notes.append(f"the first hits of {len(explained)} queries, at equal steps, are taken apart")
    one, all_of_them = normalise(query.embedding), normalise(gallery.embedding)
    lists = {row: best_matches(result, row, min(TOP, len(gallery))) for row in rows}
    transit = None if result.transit is None else result.transit.transit(query.sightings, gallery.sightings)
    weight = (result.choices.get("spacetime") or {}).get("weight")
    for k in chosen.tolist():
        shown = []
        for index, distance in lists.values():
            hits = index[k][index[k] >= 0]
            apart = np.linalg.norm(one[k].astype(np.float64) - all_of_them[hits], axis=1)
            trip = None if transit is None else transits(transit, np.full(len(hits), k), hits)
            shown.append(
                [
                    _hit_on_page(query.sightings, k, gallery.sightings, g, float(d))
                    | {"appearance": float(a)}
                    | ({} if trip is None else {"transit": float(trip[r]), "weight": weight})
                    for r, (g, d, a) in enumerate(zip(hits.tolist(), distance[k], apart, strict=False))
                ]
            )
        if reason is not None and k in explained:
            for one_list in shown:
                for hit in one_list[:1]:
                    hit["why"] = reason.of(str(query.sightings.path[k]), hit["name"])
        page.add(_image_on_page(query.sightings, k), shown)
    return page


def page_of_hits(gallery: Gallery, queries: Sightings, hits: Hits, limit: int = LIMIT) -> Page:
    """What a search of a gallery found, query by query.

    Args:
        gallery: that was searched; small images come from it where the files are not here.
        queries: rows of the query, their paths name images.
        hits: what was found.
        limit: bytes of the page.
    """
    kept, content = gallery.thumbnails(hits), gallery.content.spacetime
    network = None if content is None else Trips.load(content).model.network
    columns = hits.columns
    joined = any(trip is not None for trip in columns["trip"])
    rows_shown = [TRIP, hits.by] if joined else [hits.by]
    page = Page(f"search in {gallery.store.address}", rows_shown, list(hits.notes), network, limit)
    page.read = lambda name: kept[name] if name in kept else small(name)
    rows = np.array(columns["query"], dtype=np.int64)
    named = {"name": "path", "camera": "camera", "time": "time_s", "vehicle": "identity"}
    for query in range(len(queries)):
        about, found = _image_on_page(queries, query), []
        for k in np.flatnonzero(rows == query).tolist():
            hit = {name: columns[column][k] for name, column in named.items()}
            hit |= {name: columns[name][k] for name in ("distance", "appearance", "probability", "trip")}
            both = hit["vehicle"] and about["vehicle"]
            found.append({**hit, "right": hit["vehicle"] == about["vehicle"] if both else None})
        trip = sorted((hit for hit in found if hit["trip"] == 0), key=lambda hit: hit["time"] or 0.0)
        page.add(about, [trip, found] if joined else [found])
    page.notes += [numbered("{count} [image|images] in all windows together", int(hits.candidates.sum()))]
    return page


class Reason:
    """Why pairs of image files are alike, for a page.

    Args:
        weights: the network behind the features.
        source: what made the features.

    Raises:
        ValueError: they were made with other weights.
    """

    def __init__(self, weights: str | Path, source: dict[str, Any]):
        self.model, about = open_network(weights)
        if about["weights_sha256"] != source.get("weights_sha256"):
            raise ValueError(f"{weights} is not the network that made these features: pass the one that did")
        self.transform = input_transform(about)

    def of(self, first: str, second: str) -> dict[str, Any]:
        """Branches and their parts of the similarity, and what places bring, as whole numbers up to 127."""
        told = explain(self.model, *(self.transform(read_image(path)) for path in (first, second)))
        sides = [torch.stack([*side.values()]).sum(0).float().cpu().numpy() for side in (told.first, told.second)]
        most = max(float(np.abs(side).max()) for side in sides) or 1.0
        one, two = ([round(127 * value / most) for value in side.ravel().tolist()] for side in sides)
        branches = [[name, round(value, 5)] for name, value in told.branches.items()]
        return {
            "similarity": told.similarity,
            "branches": branches,
            "first": one,
            "second": two,
            "size": list(sides[0].shape),
        }


def _image_on_page(part: Sightings, row: int) -> dict[str, Any]:
    time_s, one = float(part.time_s[row]), part[[row]]
    return {
        "name": str(part.path[row]) or f"row {row}",
        "camera": one.camera_called(part.camera[row]),
        "time": None if np.isnan(time_s) else time_s,
        "vehicle": one.vehicle_called(part.identity[row]) if part.known[row] else "",
    }


def _hit_on_page(query: Sightings, row: int, gallery: Sightings, place: int, distance: float) -> dict[str, Any]:
    known = bool(query.known[row] and gallery.known[place])
    right = bool(same_vehicle(query.identity[row], gallery.identity[place])) if known else None
    return {**_image_on_page(gallery, place), "distance": distance, "right": right}
