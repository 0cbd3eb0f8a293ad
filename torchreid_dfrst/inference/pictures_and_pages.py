"""Pictures and pages of one evaluation, and pages of a search: what goes into those of ``report``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.evaluation import Result
from torchreid_dfrst.evaluation.card import UNNAMED
from torchreid_dfrst.features import require_weights
from torchreid_dfrst.gallery import Gallery, Hits
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.inference.extraction import input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.messages import numbered
from torchreid_dfrst.models.explain import explain
from torchreid_dfrst.report.attention import attention_maps, reasons
from torchreid_dfrst.report.canvas import small, spread
from torchreid_dfrst.report.page import Page
from torchreid_dfrst.report.ranked_lists import ranked_lists
from torchreid_dfrst.retrieval import normalise
from torchreid_dfrst.retrieval.transit import transits
from torchreid_dfrst.sightings import Sightings, same_vehicle

logger = logging.getLogger(__name__)
SHOWN = 8
"""Matches beside each query on a picture."""
TRIP = "its trip, by time"
QUERIES, EXPLAINED = 200, 40
"""Queries of a page, and how many of them have their first hits explained."""


def show_rankings(
    result: Result, folder: Path, count: int, rows: Sequence[str] = (), queries: np.ndarray | None = None
) -> list[Path]:
    """Draw the best matches of some queries, every ranking of one query below the other (paper, Fig. 6).

    Args:
        result: what ``evaluation.score`` gave.
        folder: where the picture, which is returned, goes.
        count: number of queries, taken at equal steps through the list of those that count.
        rows: of the result; those there are by default.
        queries: their rows, where they were chosen in another way.
    """
    extraction, rows = result.ranked, tuple(rows) or tuple(result.metrics)
    chosen = some_queries(result, count) if queries is None else queries
    top = min(SHOWN, len(extraction.gallery))
    index = np.stack([result.best[row].index[chosen, :top] for row in rows], axis=1).reshape(-1, top)
    asked = extraction.query.sightings[np.repeat(chosen, len(rows))]
    data = extraction.source.get("data") or UNNAMED
    title = f"{data}: {len(chosen)} of {len(extraction.query)} queries; junk removed"
    return [
        ranked_lists(folder / "ranked.png", asked, extraction.gallery.sightings, index, title, [*rows] * len(chosen))
    ]


def show_attention(
    weights: str | Path, result: Result, folder: Path, count: int, seed: int | None = None
) -> list[Path]:
    """Draw what makes some queries and the first right match of each alike, branch by branch (paper, Fig. 7).

    Args:
        weights: the network behind the features, see ``inference.open_network``.
        result: what ``evaluation.score`` gave.
        folder: where the picture goes.
        count: number of queries.
        seed: of the draw of queries; None takes them at equal steps.

    Returns:
        The picture; nothing for a network that cannot say, such as torchreid's own.

    Raises:
        ValueError: the features were made with other weights.
    """
    extraction = result.ranked
    model, about = open_network(weights)
    require_weights(weights, extraction.source)
    chosen = some_queries(result, count, seed)
    found = list(result.best.values())[-1]
    query, gallery = extraction.query.sightings[chosen], extraction.gallery.sightings
    paths, labels = [], []
    for row, (match, rank) in enumerate(zip(found.match[chosen], found.rank[chosen], strict=True)):
        paths += [str(query.path[row]), str(gallery.path[match])]
        labels += [
            f"query: vehicle {query.vehicle_called(query.identity[row])}\ncam {query.camera_called(query.camera[row])}",
            f"its match, rank {rank}\ncam {gallery.camera_called(gallery.camera[match])}",
        ]
    maps = reasons(model, paths, input_transform(about))
    if maps is None:
        logger.warning("no attention maps: %s is no network whose similarity can be taken apart", type(model).__name__)
        return []
    return [attention_maps(folder / "attention.png", paths, maps, labels)]


def missing_images(result: Result) -> str:
    """Why no picture can be drawn of these features, empty if one can: names of images are optional in them."""
    paths = np.concatenate([result.ranked.query.sightings.path, result.ranked.gallery.sightings.path])
    if (paths == "").any():
        return "the features do not say which image each row is of"
    lost = next((path for path in paths.tolist() if not Path(split_name(path)[0]).is_file()), "")
    return f"there is no image at {lost}, where the features say it is" if lost else ""


def some_queries(result: Result, count: int, seed: int | None = None) -> np.ndarray:
    """Rows of ``count`` queries that have a match, at equal steps or drawn with a seed, so that nobody picked them."""
    valid = np.flatnonzero(next(iter(result.metrics.values())).first_match > 0)
    if seed is None:
        return valid[spread(len(valid), count)]
    return np.sort(np.random.default_rng(seed).choice(valid, min(count, len(valid)), replace=False))


def page_of_result(result: Result, weights: str | Path | None = None, queries: int = QUERIES) -> Page:
    """Queries at equal steps through all of them, each with its lists by every row of the result.

    Args:
        result: what ``evaluation.score`` gave.
        weights: the network behind the features, to explain first hits; None leaves that out.
        queries: how many, at most.

    Raises:
        ValueError: the features were made with other weights, or the network cannot be explained.
    """
    query, gallery = result.ranked.query, result.ranked.gallery
    chosen = spread(len(query), queries)
    notes = [result.protocol.describe(), "junk (the query's own vehicle by its own camera) is removed"]
    if len(chosen) < len(query):
        notes.append(f"{len(chosen)} of {len(query):,} queries, at equal steps")
    page = Page(str(result.ranked.source.get("data") or UNNAMED), list(result.draws), notes, result.ranked.network)
    why = None if weights is None else _explainer(weights, result.ranked.source)
    explained = set(chosen[spread(len(chosen), EXPLAINED)].tolist())
    if why is not None and len(explained) < len(chosen):
        page.notes.append(f"the first hits of {len(explained)} queries, at equal steps, are taken apart")
    one, all_of_them = normalise(query.embedding), normalise(gallery.embedding)
    transit = None if result.transit is None else result.transit.transit(query.sightings, gallery.sightings)
    weight = (result.choices.get("spacetime") or {}).get("weight")
    for k in chosen.tolist():
        shown = []
        for best in result.best.values():
            hits = best.index[k][best.index[k] >= 0]
            apart = np.linalg.norm(one[k].astype(np.float64) - all_of_them[hits], axis=1)
            trip = None if transit is None else transits(transit, np.full(len(hits), k), hits)
            shown.append(
                [
                    _hit_on_page(query.sightings, k, gallery.sightings, g, float(d))
                    | {"appearance": float(a)}
                    | ({} if trip is None else {"transit": float(trip[r]), "weight": weight})
                    for r, (g, d, a) in enumerate(zip(hits.tolist(), best.distance[k], apart, strict=False))
                ]
            )
        if why is not None and k in explained:
            for hit in (found[0] for found in shown if found):
                hit["why"] = why(str(query.sightings.path[k]), hit["name"])
        page.add(_image_on_page(query.sightings, k), shown)
    return page


def page_of_hits(gallery: Gallery, queries: Sightings, hits: Hits) -> Page:
    """What a search of a gallery found, query by query; small images come from it where the files are not here."""
    kept, content = gallery.thumbnails(hits), gallery.content.spacetime
    network = None if content is None else Trips.load(content).model.network
    columns = hits.columns
    joined = any(trip is not None for trip in columns["trip"])
    rows_shown = [TRIP, hits.by] if joined else [hits.by]
    page = Page(f"search in {gallery.store.address}", rows_shown, list(hits.notes), network)
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


def _explainer(weights: str | Path, source: Mapping[str, Any]) -> Callable[[str, str], dict[str, Any]]:
    """A function from two image files to why a network, the one behind features, finds them alike, for a page."""
    require_weights(weights, source)
    model, about = open_network(weights)
    transform = input_transform(about)

    def explained(first: str, second: str) -> dict[str, Any]:
        """Branches and their parts of the similarity, and what places bring, as whole numbers up to 127."""
        told = explain(model, *(transform(read_image(path)) for path in (first, second)))
        sides = [torch.stack([*side.values()]).sum(0).float().cpu().numpy() for side in (told.first, told.second)]
        most = max(float(np.abs(side).max()) for side in sides) or 1.0
        one, two = ([round(127 * value / most) for value in side.ravel().tolist()] for side in sides)
        branches = [[name, round(value, 5)] for name, value in told.branches.items()]
        size = list(sides[0].shape)
        return {"similarity": told.similarity, "branches": branches, "first": one, "second": two, "size": size}

    return explained


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
