"""Pictures of one evaluation by an engine: ranked lists, and where the network looks."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torchreid
from torch import nn

from torchreid_dfrst.report.attention import activations, attention_maps
from torchreid_dfrst.report.canvas import spread
from torchreid_dfrst.report.ranking import ranked_lists
from torchreid_dfrst.retrieval.metrics import best_matches
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.training.embedding import Embedded

logger = logging.getLogger(__name__)

Measure = Callable[[np.ndarray, np.ndarray], Iterable[np.ndarray]]
"""Distances of embeddings ``(Q, D)`` to ``(G, D)`` in blocks of consecutive queries."""


def draw(
    save_dir: Path,
    name: str,
    epoch: int,
    query: Embedded,
    gallery: Embedded,
    measure: Measure,
    model: nn.Module,
    transform: Any,
) -> dict[str, Path]:
    """The pictures of one evaluation while training, into ``save_dir/pictures``.

    Args:
        save_dir: the run's folder.
        name: the data set.
        epoch: epochs trained.
        query: ``Q`` images.
        gallery: ``G`` images.
        measure: by appearance.
        model: see ``attention_picture``.
        transform: the test transform.

    Returns:
        ``ranking``, and ``attention`` where the network offers it, to the file.
    """
    folder, label = save_dir / "pictures", f"{name}-epoch-{epoch:03d}"
    title = f"{name} after epoch {epoch}, by appearance"
    ranking = ranking_picture(folder / f"{label}-ranking.png", query, gallery, measure, title)
    looks = attention_picture(folder / f"{label}-attention.png", model, query, transform)
    return {"ranking": ranking, **({"attention": looks} if looks is not None else {})}


def ranking_picture(
    path: Path, query: Embedded, gallery: Embedded, measure: Measure, title: str, queries: int = 5
) -> Path:
    """A few queries with their ten best images, junk (same identity and camera) left out.

    Args:
        path: picture to write.
        query: ``Q`` images.
        gallery: ``G`` images.
        measure: by what they rank.
        title: printed above.
        queries: rows of the picture.
    """
    rows = spread(len(query.path), queries)
    shown, everyone = _sightings(query)[rows], _sightings(gallery)
    distance = np.concatenate(list(measure(query.embedding[rows], gallery.embedding)))
    index, values = best_matches(distance, shown, everyone, 10)
    return ranked_lists(path, shown, everyone, index, values, title)


def attention_picture(path: Path, model: nn.Module, images: Embedded, transform: Any, count: int = 4) -> Path | None:
    """Activation maps of a few images, or None for a network that does not offer them.

    Args:
        path: picture to write.
        model: one of ours has ``activation_maps``; left in the mode it was in.
        images: whose files are shown.
        transform: the test transform.
        count: rows of the picture.
    """
    rows = spread(len(images.path), count)
    paths = list(images.path[rows])
    maps = activations(model, paths, transform)
    if maps is None:
        return None
    labels = [f"vehicle {images.identity[row]}\ncam {images.camera[row]}" for row in rows]
    return attention_maps(path, paths, maps, labels)


def torchreids_pictures(
    folder: Path, query: Embedded, gallery: Embedded, far: Iterable[np.ndarray], topk: int, width: int, height: int
) -> None:
    """Draw torchreid's ``visrank``: one picture per query, with its best gallery images.

    Args:
        folder: where they go.
        query: ``Q`` images.
        gallery: ``G`` images.
        far: distances, in blocks of consecutive queries ``(rows, G)``.
        topk: length of each list.
        width: of each image, pixels.
        height: of each image, pixels.
    """
    queries, images = (list(zip(part.path, part.identity, part.camera, strict=True)) for part in (query, gallery))
    done = 0
    for block in far:
        some = queries[done : done + len(block)], images
        done += len(block)
        with contextlib.redirect_stdout(io.StringIO()):
            torchreid.utils.visualize_ranked_results(
                block, some, "image", width=width, height=height, save_dir=str(folder), topk=topk
            )
    logger.info("ranked lists of %d queries are in %s", len(query.path), folder)


def _sightings(images: Embedded) -> Sightings:
    return Sightings(camera=images.camera, identity=images.identity, path=images.path)
