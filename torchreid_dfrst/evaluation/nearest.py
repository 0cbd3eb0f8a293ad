"""What is nearest to each query, as a table: no identity is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from torchreid_dfrst.checks import within
from torchreid_dfrst.evaluation.calibration import FEWEST, Calibration, fit
from torchreid_dfrst.evaluation.scoring import APPEARANCE, FUSED, ROWS, fit_transit, rankings, settings
from torchreid_dfrst.evaluation.weight import transit_weight
from torchreid_dfrst.names import last_part
from torchreid_dfrst.retrieval import Extraction, normalise
from torchreid_dfrst.retrieval.distances import exact
from torchreid_dfrst.retrieval.embeddings import Stack
from torchreid_dfrst.retrieval.metrics import Best
from torchreid_dfrst.retrieval.transit import transits
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import GapModel, by_pairs


def rank(
    extraction: Extraction,
    top: int = 10,
    spacetime: Mapping[str, Any] | None = None,
    rerank: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    strangers: float | None = None,
) -> tuple[str, dict[str, list[Any]]]:
    """The nearest gallery images of each query, by the last row that ``score`` would give.

    Args:
        extraction: query and gallery features.
        top: how many for each query; the query's own image in the gallery is not listed.
        spacetime: as ``score``.
        rerank: as ``score``.
        evaluate: as ``score``; only its ``rerank`` has a say.
        strangers: gives each line the ``probability`` that it is the query's vehicle, where this share of queries has
            none in the gallery; None for no probabilities.

    Returns:
        The row's name, and ``query``, ``rank`` (from 1), ``gallery`` and ``distance``, one value a line. An image
        without a name is called ``row N``, from 0.

    Raises:
        ValueError, KeyError: as ``score``; ``top`` is below 1; probabilities of re-ranked distances, or without
            training images to calibrate on.
    """
    within("top", top, lowest=1)
    options, parameters, chosen = settings(spacetime, rerank, evaluate)
    query, gallery, asked = extraction.query, extraction.gallery, options.pop("weight", None)
    model = fit_transit(extraction, **options)
    weight = 0.0 if model is None else transit_weight(extraction, model, asked)[0]
    row = ROWS[(model is not None) + 2 * chosen.get("rerank", True)]
    calibration = None if strangers is None else _calibration(extraction, model, row)
    best = Best(query.sightings, gallery.sightings, min(top, len(gallery)), junk=False)
    for _, blocks, _ in rankings(query, gallery, model, weight, parameters, only=row):
        for block in _without_own_image(blocks, query.sightings, gallery.sightings):
            best.note(block)
    asked, place = np.nonzero(best.index >= 0)
    shown = best.index[asked, place]
    names, others = _names_of_images(query.sightings), _names_of_images(gallery.sightings)
    columns: dict[str, list[Any]] = {
        "query": [names[row] for row in asked.tolist()],
        "rank": (place + 1).tolist(),
        "gallery": [others[row] for row in shown.tolist()],
        "distance": best.distance[asked, place].tolist(),
    }
    if calibration is not None and strangers is not None:
        one, two = (Stack(normalise(part.embedding)) for part in (query, gallery))
        trip = None
        if model is not None:
            trip = transits(by_pairs(model).transit(query.sightings, gallery.sightings), asked, shown)
        sure = calibration.probability(exact(one, two, asked, shown), trip, len(gallery), strangers)
        columns["probability"] = sure.tolist()
    return row, columns


def _calibration(extraction: Extraction, model: GapModel | None, row: str) -> Calibration:
    if row not in (APPEARANCE, FUSED):
        raise ValueError(
            f"no probability of re-ranked distances (row {row!r}): they depend on everything else that is asked at the "
            "time, so a threshold means nothing; add `evaluate.rerank false`"
        )
    found = fit(extraction, model)
    if found is None:
        raise ValueError(f"no probability without {FEWEST} training vehicles to calibrate on: extract with --train")
    return found


def _names_of_images(part: Sightings) -> list[str]:
    return [path or f"row {row}" for row, path in enumerate(part.path.tolist())]


def _own_image_keys(part: Sightings) -> list[tuple[str, ...]]:
    """What tells an image from others: name, camera and time (a copy may lie in another folder), or its path."""
    columns = part.path.tolist(), part.camera.tolist(), part.time_s.tolist()
    return [
        (path,) if time != time else (last_part(path), str(camera), str(time)) if path else ()
        for path, camera, time in zip(*columns, strict=True)
    ]


def _without_own_image(blocks: Iterable[np.ndarray], query: Sightings, gallery: Sightings) -> Iterator[np.ndarray]:
    """Blocks of distances, infinite between a query and its own image in the gallery."""
    place: dict[tuple[str, ...], list[int]] = {}
    for column, (path, key) in enumerate(zip(gallery.path.tolist(), _own_image_keys(gallery), strict=True)):
        if path:
            place.setdefault(key, []).append(column)
    asked, done = [place.get(key, []) for key in _own_image_keys(query)], 0
    for row, found in enumerate(asked):
        if len(found) > 1:  # the last part of the name does not tell images apart
            asked[row] = [column for column in found if gallery.path[column] == query.path[row]]
    for block in blocks:
        own = asked[done : done + len(block)]
        done += len(block)
        if any(own):
            block = block.copy()
            for line, columns in zip(block, own, strict=True):
                line[columns] = np.inf
        yield block
