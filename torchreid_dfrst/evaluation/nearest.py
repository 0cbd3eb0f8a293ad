"""What is nearest to each query, as a table: no identity is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from torchreid_dfrst.checks import within
from torchreid_dfrst.evaluation.scoring import fit_transit, last_row, rankings, sections
from torchreid_dfrst.evaluation.weight import transit_weight
from torchreid_dfrst.retrieval import Extraction
from torchreid_dfrst.retrieval.metrics import Best
from torchreid_dfrst.sightings import Sightings


def rank(
    extraction: Extraction,
    top: int = 10,
    spacetime: Mapping[str, Any] | None = None,
    rerank: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, list[Any]]]:
    """The nearest gallery images of each query, by the last row that ``score`` would give.

    Args:
        extraction: query and gallery features.
        top: how many for each query; the query's own image in the gallery is not listed.
        spacetime: as ``score``.
        rerank: as ``score``.
        evaluate: as ``score``; of it, only ``rerank`` has a say.

    Returns:
        The row's name, and ``query``, ``rank`` (from 1), ``gallery`` and ``distance``, one value a line. An image
        without a name is called ``row N``, from 0.

    Raises:
        ValueError, KeyError: as ``score``; ``top`` is below 1.
    """
    within("top", top, lowest=1)
    options, query, gallery = dict(spacetime or {}), extraction.query, extraction.gallery
    asked = options.pop("weight", None)
    model = fit_transit(extraction, **options)
    weight = 0.0 if model is None else transit_weight(extraction, model, asked)[0]
    parameters = {**sections()["rerank"].defaults, **(rerank or {})}
    row = last_row(model, (evaluate or {}).get("rerank", True))
    best = Best(query.sightings, gallery.sightings, min(top, len(gallery)), junk=False)
    for _, blocks, _ in rankings(query, gallery, model, weight, parameters, only=row):
        for block in _without_own_image(blocks, query.sightings, gallery.sightings):
            best.note(block)
    names, others = _names_of_images(query.sightings), _names_of_images(gallery.sightings)
    found = [(q, r) for q, line in enumerate(best.index) for r in range(int((line >= 0).sum()))]
    return row, {
        "query": [names[q] for q, _ in found],
        "rank": [r + 1 for _, r in found],
        "gallery": [others[best.index[q, r]] for q, r in found],
        "distance": [float(best.distance[q, r]) for q, r in found],
    }


def _names_of_images(part: Sightings) -> list[str]:
    return [path or f"row {row}" for row, path in enumerate(part.path.tolist())]


def _own_image_keys(part: Sightings) -> list[tuple[str, ...]]:
    """What tells an image from others: name, camera and time (a copy may lie in another folder), or its path."""
    columns = part.path.tolist(), part.camera.tolist(), part.time_s.tolist()
    return [
        (path,) if time != time else (re.split(r"[/\\]", path)[-1], str(camera), str(time)) if path else ()
        for path, camera, time in zip(*columns, strict=True)
    ]


def _without_own_image(blocks: Iterable[np.ndarray], query: Sightings, gallery: Sightings) -> Iterator[np.ndarray]:
    """Blocks of distances, infinite between a query and its own image in the gallery."""
    place: dict[tuple[str, ...], list[int]] = {}
    for column, (path, key) in enumerate(zip(gallery.path.tolist(), _own_image_keys(gallery), strict=True)):
        if path:
            place.setdefault(key, []).append(column)
    asked, done = _own_image_keys(query), 0
    for block in blocks:
        own = [place.get(key, []) for key in asked[done : done + len(block)]]
        done += len(block)
        if any(own):
            block = block.copy()
            for line, columns in zip(block, own, strict=True):
                line[columns] = np.inf
        yield block
