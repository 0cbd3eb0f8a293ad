"""Figures without pyplot: no window, no global state, the same bytes on a server and on a desk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from torchreid_dfrst import files
from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.images import read_image

QUALITY = 75
GREEN, RED, BLUE, GREY = "#009e73", "#d55e00", "#0072b2", "#888888"
"""Of Okabe and Ito, whose colours also those tell apart who see fewer."""
LINES = cycler(
    color=[BLUE, RED, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "black"], marker=["o", "s", "^", "D", "v", "P", "x"]
)
"""For ``Axes.set_prop_cycle``: lines that differ in more than their colour."""


def figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, with a canvas of its own."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def write(made: Figure, path: str | Path, dpi: int = 110) -> Path:
    """Save as a picture, whole or not at all, making the folder if needed; returns the path."""
    path, drawn = Path(path), io.BytesIO()
    made.savefig(drawn, dpi=dpi, format=path.suffix[1:])
    files.write({path: drawn.getvalue()})
    return path


def letterbox(path: str | Path, side: int = 160) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """An image in a white ``side x side`` square, its shape kept, and where it lies: left, top, right, bottom."""
    fitted = ImageOps.contain(read_image(path), (side, side))
    left, top = (side - fitted.width) // 2, (side - fitted.height) // 2
    square = Image.new("RGB", (side, side), "white")
    square.paste(fitted, (left, top))
    return square, (left, top, left + fitted.width, top + fitted.height)


def spread(count: int, wanted: int) -> np.ndarray:
    """``wanted`` of the row numbers below ``count``, or all, at equal steps, so that nobody picked them."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))


def small(path: str, side: int = 96) -> bytes | None:
    """A small JPEG of an image, or of the box in it that its name says; None where there is no such file."""
    if not path or not Path(split_name(path)[0]).is_file():
        return None
    out = io.BytesIO()
    ImageOps.contain(read_image(path), (side, side)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
