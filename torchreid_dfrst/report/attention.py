"""Where each branch looks, as heat over the image (paper, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.report.canvas import figure, letterbox, write

SIDE = 160  # pixels
CELL, GAP, LEFT, TOP, BOTTOM = 1.3, 0.08, 0.4, 0.3, 0.55  # inches


def activations(model: nn.Module, images: Sequence[str | Path], transform: Any) -> dict[str, np.ndarray] | None:
    """Activation maps of image files, or None for a network that does not offer them, such as torchreid's own.

    Args:
        model: one of ours has ``activation_maps``; left in the mode it was in.
        images: ``N`` image files.
        transform: the test transform.

    Returns:
        Name to ``(N, H, W)`` float32 ``>= 0``.
    """
    look = getattr(model, "activation_maps", None)
    if look is None:
        return None
    batch = torch.stack([transform(read_image(image)) for image in images])
    mode = model.training
    model.eval()
    maps = look(batch.to(next(model.parameters()).device))
    model.train(mode)
    return {name: values.float().cpu().numpy() for name, values in maps.items()}


def attention_maps(
    path: str | Path, images: Sequence[str | Path], maps: Mapping[str, np.ndarray], labels: Sequence[str]
) -> Path:
    """Draw every image, then the same image under the heat of each map.

    The network saw each image squeezed to its input size; here the image has its own shape, and its map, which covers
    all of it, is stretched with it.

    Args:
        path: picture to write.
        images: ``N`` image files, as they were before resizing.
        maps: name to ``(N, H, W)`` activations ``>= 0``; each is stretched to its own maximum.
        labels: ``N`` captions.

    Raises:
        ValueError: a map is not of ``N`` images.
    """
    for name, values in maps.items():
        if values.ndim != 3 or len(values) != len(images):
            raise ValueError(f"map {name!r} has shape {values.shape}, expected ({len(images)}, H, W)")
    drawn, grid = _grid(len(images), len(maps) + 1)
    for row, image in enumerate(images):
        square, (left, top, right, bottom) = letterbox(image, SIDE)
        grid[row, 0].set_ylabel(labels[row], fontsize=6)
        for axes in grid[row]:
            axes.imshow(square, extent=(0, SIDE, SIDE, 0))
        for axes, (name, values) in zip(grid[row, 1:], maps.items(), strict=True):
            heat = values[row] / max(values[row].max(), np.finfo(np.float32).tiny)
            shown = axes.imshow(
                heat,
                cmap="jet",
                alpha=0.45,
                vmin=0,
                vmax=1,
                extent=(left, right, bottom, top),
                interpolation="bilinear",
            )
            if row == 0:
                axes.set_title(name, fontsize=7, pad=4)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(0, SIDE), ylim=(SIDE, 0))
    grid[0, 0].set_title("image", fontsize=7, pad=4)
    if maps:
        height = drawn.get_figheight()
        bar = drawn.colorbar(
            shown, cax=drawn.add_axes((0.3, 0.35 / height, 0.4, 0.1 / height)), orientation="horizontal", ticks=[0, 1]
        )
        bar.ax.set_xticklabels(["no activation", "strongest of its map"], fontsize=6)
    return write(drawn, path)


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Square cells with room for labels at the left, headings above and the colour bar below."""
    width, height = LEFT + columns * (CELL + GAP), TOP + rows * (CELL + GAP) + BOTTOM
    drawn = figure(width, height)
    drawn.set_layout_engine("none")
    around = {
        "left": LEFT / width,
        "right": 1 - GAP / width,
        "top": 1 - TOP / height,
        "bottom": (BOTTOM + GAP) / height,
    }
    return drawn, drawn.subplots(
        rows, columns, squeeze=False, gridspec_kw={**around, "wspace": GAP / CELL, "hspace": GAP / CELL}
    )
