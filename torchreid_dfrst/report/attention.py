"""Where two images are alike for each branch, and where attention looks, as heat over the image (paper, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.models.explain import EXACT, explain
from torchreid_dfrst.models.network import BranchNetwork
from torchreid_dfrst.report.canvas import figure, letterbox, write

SIDE = 160  # pixels
CELL, GAP, LEFT, TOP, BOTTOM = 1.3, 0.08, 0.4, 0.3, 0.55  # inches


def reasons(model: nn.Module, images: Sequence[str | Path], transform: Any) -> dict[str, np.ndarray] | None:
    """Where in pairs of images their likeness comes from, or None for a network that cannot say.

    Args:
        model: left in the mode it was in.
        images: ``2 N`` image files, the two of a pair one after the other.
        transform: the test transform.

    Returns:
        Name of each head, of all its parts together, to ``(2 N, H, W)`` float32: what each place brings to the
        similarity of its pair, see ``explain``. And ``spatial_attention``, where there is such a gate: the gate itself.
    """
    if not isinstance(model, BranchNetwork) or not {head.pool for head in model.groups.values()} <= set(EXACT):
        return None
    batch = torch.stack([transform(read_image(image)) for image in images])
    found: dict[str, list[torch.Tensor]] = {group: [] for group in model.groups}
    for first, second in batch.unflatten(0, (-1, 2)):
        told = explain(model, first, second)
        for side in (told.first, told.second):
            for group, head in model.groups.items():
                names = [group] if head.parts == 1 else [f"{group}_{part}" for part in range(head.parts)]
                found[group].append(torch.stack([side[name] for name in names]).sum(0))
    maps = {group: torch.stack(places) for group, places in found.items()}
    mode = model.training
    gate = model.eval().spatial_gate(batch.to(next(model.parameters()).device))
    model.train(mode)
    maps |= {} if gate is None else {"spatial_attention": gate}
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
        maps: name to ``(N, H, W)``, above 0 what speaks for one vehicle; each is stretched to its own largest value.
        labels: ``N`` captions.

    Raises:
        ValueError: a map is not of ``N`` images.
    """
    for name, values in maps.items():
        if values.ndim != 3 or len(values) != len(images):
            raise ValueError(f"map {name!r} has shape {values.shape}, expected ({len(images)}, H, W)")
    drawn, grid = _grid_of_axes(len(images), len(maps) + 1)
    for row, image in enumerate(images):
        square, (left, top, right, bottom) = letterbox(image, SIDE)
        grid[row, 0].set_ylabel(labels[row], fontsize=6)
        for axes in grid[row]:
            axes.imshow(square, extent=(0, SIDE, SIDE, 0))
        for axes, (name, values) in zip(grid[row, 1:], maps.items(), strict=True):
            heat = values[row] / max(np.abs(values[row]).max(), np.finfo(np.float32).tiny)
            look = {"cmap": "coolwarm", "alpha": 0.45, "vmin": -1, "vmax": 1, "interpolation": "bilinear"}
            shown = axes.imshow(heat, extent=(left, right, bottom, top), **look)
            if row == 0:
                axes.set_title(name, fontsize=7, pad=4)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(0, SIDE), ylim=(SIDE, 0))
    grid[0, 0].set_title("image", fontsize=7, pad=4)
    if maps:
        height = drawn.get_figheight()
        place = drawn.add_axes((0.3, 0.35 / height, 0.4, 0.1 / height))
        bar = drawn.colorbar(shown, cax=place, orientation="horizontal", ticks=[-1, 0, 1])
        bar.ax.set_xticklabels(["against one vehicle", "nothing", "for one vehicle"], fontsize=6)
    return write(drawn, path)


def _grid_of_axes(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Square cells with room for labels at the left, headings above and the colour bar below."""
    width, height = LEFT + columns * (CELL + GAP), TOP + rows * (CELL + GAP) + BOTTOM
    drawn = figure(width, height)
    drawn.set_layout_engine("none")
    around = {"left": LEFT / width, "right": 1 - GAP / width, "wspace": GAP / CELL, "hspace": GAP / CELL}
    around |= {"top": 1 - TOP / height, "bottom": (BOTTOM + GAP) / height}
    return drawn, drawn.subplots(rows, columns, squeeze=False, gridspec_kw=around)
