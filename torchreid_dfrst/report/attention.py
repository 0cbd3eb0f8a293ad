"""Where each branch looks, as heat over the image (paper, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.report.canvas import figure, thumbnail, write


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
    drawn = figure(1.3 * (len(maps) + 1), 1.4 * len(images) + 0.3)
    grid = drawn.subplots(len(images), len(maps) + 1, squeeze=False)
    for row, image in enumerate(images):
        # the network saw the image stretched to a square, so the picture is stretched as well
        seen = read_image(image).resize((160, 160))
        grid[row, 0].imshow(thumbnail(image))
        grid[row, 0].set_ylabel(labels[row], fontsize=6)
        for column, (name, values) in enumerate(maps.items(), start=1):
            grid[row, column].imshow(seen)
            heat = values[row] / max(values[row].max(), np.finfo(np.float32).tiny)
            shown = grid[row, column].imshow(
                heat, cmap="jet", alpha=0.45, vmin=0, vmax=1, extent=(0, 160, 160, 0), interpolation="bilinear"
            )
            if row == 0:
                grid[row, column].set_title(name, fontsize=7)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    if maps:
        bar = drawn.colorbar(shown, ax=grid, orientation="horizontal", shrink=0.4, aspect=40, ticks=[0, 1])
        bar.ax.set_xticklabels(["no activation", "strongest of its map"], fontsize=6)
    return write(drawn, path)
