"""Pictures of one evaluation: what was found for some queries, and where the network looked."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.evaluation import TOP, Result, best_matches
from torchreid_dfrst.evaluation.card import UNNAMED
from torchreid_dfrst.features import require_weights
from torchreid_dfrst.inference.extraction import input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.report.attention import attention_maps, reasons
from torchreid_dfrst.report.canvas import spread
from torchreid_dfrst.report.ranked_lists import ranked_lists

logger = logging.getLogger(__name__)


def show_rankings(result: Result, folder: Path, count: int) -> list[Path]:
    """Draw the ten best matches of the same queries once for every row of the result (paper, Fig. 6).

    Args:
        result: what ``evaluation.score`` gave.
        folder: where the pictures go.
        count: number of queries, taken at equal steps through the list of those that count.

    Returns:
        The pictures written.
    """
    extraction, chosen = result.ranked, some_queries(result, count)
    data = extraction.source.get("data") or UNNAMED
    unknown = "" if extraction.gallery.sightings.known.all() else ", grey not known"
    written = []
    for row in result.metrics:
        index, distance = best_matches(result, row, min(TOP, len(extraction.gallery)))
        name = row.replace("+", "and").replace(" ", "-").strip("-").removeprefix("and-")
        written.append(
            ranked_lists(
                folder / f"ranked-{name}.png",
                extraction.query.sightings[chosen],
                extraction.gallery.sightings,
                index[chosen],
                distance[chosen],
                title=f"{data}: {row}; blue is the query, green right, red wrong{unknown}; junk removed",
            )
        )
    return written


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

    Raises:
        ValueError: the features were made with other weights.

    Returns:
        The picture written; nothing for a network that cannot say, such as torchreid's own.
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
