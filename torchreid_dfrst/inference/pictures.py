"""Pictures of one evaluation: what was found for some queries, and where the network looked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.evaluation import Result
from torchreid_dfrst.evaluation.card import UNNAMED
from torchreid_dfrst.features import require_weights
from torchreid_dfrst.inference.extraction import input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.report.attention import attention_maps, reasons
from torchreid_dfrst.report.canvas import spread
from torchreid_dfrst.report.ranked_lists import ranked_lists

logger = logging.getLogger(__name__)
SHOWN = 8
"""Matches beside each query."""


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
