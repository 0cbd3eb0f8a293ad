"""Two pictures of one evaluation in the middle of training: ranked lists, and where the network looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from torchreid_dfrst.embedding import Embedded
from torchreid_dfrst.report.attention import activations, attention_maps
from torchreid_dfrst.report.canvas import spread
from torchreid_dfrst.report.ranking import ranked_lists
from torchreid_dfrst.retrieval import first
from torchreid_dfrst.sightings import Sightings


def ranking_picture(
    path: Path, query: Embedded, gallery: Embedded, distance: np.ndarray, title: str, queries: int = 5
) -> Path:
    """A few queries with their ten best images, junk (same identity and camera) left out.

    Args:
        path: picture to write.
        query: ``Q`` images.
        gallery: ``G`` images.
        distance: ``(Q, G)``.
        title: printed above.
        queries: rows of the picture.
    """
    rows = spread(len(query.path), queries)
    shown, everyone = _sightings(query)[rows], _sightings(gallery)
    junk = (shown.identity[:, None] == everyone.identity) & (shown.camera[:, None] == everyone.camera)
    index = first(distance[rows], 10, leave_out=junk)
    values = np.take_along_axis(distance[rows], np.maximum(index, 0), axis=1)
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
    labels = [f"{images.identity[row]}\ncam {images.camera[row]}" for row in rows]
    return attention_maps(path, paths, maps, labels)


def _sightings(images: Embedded) -> Sightings:
    return Sightings(camera=images.camera, identity=images.identity, path=images.path)
