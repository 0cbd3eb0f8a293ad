"""All kinds and levels of contamination on one sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tools.studies.contamination.damage import KINDS, LEVELS, Contamination
from torchreid_dfrst.city import make_vehicles, render
from torchreid_dfrst.report.canvas import figure, write

VEHICLE = 2  # of several colours, so that every kind of damage shows


def contact_sheet(path: str | Path, image: Image.Image | None = None, seed: int = 0) -> Path:
    """Draw one image with every kind of contamination, a row each, at every level of the paper.

    Args:
        path: picture to write.
        image: what is damaged; None draws a vehicle of our own city.
        seed: of the damage.
    """
    image = image or _vehicle()
    width, height = image.size
    drawn = figure(9, 9 / len(LEVELS) * height / width * len(KINDS) + 0.7)
    grid = drawn.subplots(len(KINDS), len(LEVELS), squeeze=False)
    for row, kind in enumerate(KINDS):
        for column, level in enumerate(LEVELS):
            axes = grid[row, column]
            axes.imshow(np.asarray(Contamination(kind, level, seed)(image, "contact sheet")), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if not row:
                axes.set_title(f"{level} %", fontsize=11)
        grid[row, 0].set_ylabel(kind, fontsize=11)
    drawn.suptitle("share of damaged pixels", fontsize=11)
    return write(drawn, path, dpi=100)


def _vehicle() -> Image.Image:
    vehicle = make_vehicles(6, np.random.default_rng(7), models=6, twins=0.0)[VEHICLE]
    return Image.fromarray(np.ascontiguousarray(render(vehicle, azimuth=40, size=(256, 192))[..., ::-1]))
