"""Ranked lists as a picture (paper, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Patch

from torchreid_dfrst.report.canvas import BLUE, GREEN, GREY, RED, figure, letterbox, write
from torchreid_dfrst.sightings import Sightings, same_vehicle

WIDTH, FONT = 9.0, 7.0
"""Inches, so that a page 900 pixels wide shows it whole, and points."""
QUERY, RIGHT, WRONG, NOBODY = "the query", "the same vehicle", "another vehicle", "not known"
FRAMES = {QUERY: (BLUE, "-"), RIGHT: (GREEN, "-"), WRONG: (RED, ":"), NOBODY: (GREY, "--")}
"""Colour and line of the frame of each kind of image."""


def ranked_lists(
    path: str | Path,
    query: Sightings,
    gallery: Sightings,
    index: np.ndarray,
    title: str = "",
    rows: Sequence[str] = (),
) -> Path:
    """Draw each query with its best matches; camera and time gap stand under each, the legend below all.

    Args:
        path: picture to write.
        query: ``R`` queries, one row of the picture each.
        gallery: the whole gallery.
        index: ``(R, K)`` gallery rows, best first, junk already removed; -1 leaves a place empty.
        title: printed above.
        rows: a word for each row, such as how it is ranked; printed at its left.

    Raises:
        ValueError: the shapes do not agree.
    """
    if index.ndim != 2 or len(index) != len(query):
        raise ValueError(f"{len(query)} queries, but index {index.shape}: one row each")
    count, columns = index.shape
    drawn = figure(WIDTH, count * (WIDTH / (columns + 1) + 0.32) + 0.7)
    grid = drawn.subplots(count, columns + 1, squeeze=False)
    kinds = {QUERY}
    for row in range(count):
        _draw_cell(grid[row, 0], query.path[row], QUERY, "vehicle {}\ncam {}".format(*called(query, row)))
        if rows:
            grid[row, 0].set_ylabel(rows[row].replace(" + ", "\n+ "), fontsize=FONT)
        for rank, place in enumerate(index[row].tolist(), start=1):
            if row == 0:
                grid[0, rank].set_title(f"rank {rank}", fontsize=FONT, pad=3)
            if place < 0:
                grid[row, rank].set_axis_off()
                continue
            kind = RIGHT if same_vehicle(gallery.identity[place], query.identity[row]) else WRONG
            kind = kind if query.known[row] and gallery.known[place] else NOBODY
            gap = time_gap(gallery.time_s[place] - query.time_s[row])
            _draw_cell(grid[row, rank], gallery.path[place], kind, f"cam {called(gallery, place)[1]}\n{gap}".rstrip())
            kinds.add(kind)
    grid[0, 0].set_title("query", fontsize=FONT, pad=3)
    frames = [
        Patch(fill=False, ec=FRAMES[kind][0], ls=FRAMES[kind][1], lw=2, label=kind) for kind in FRAMES if kind in kinds
    ]
    drawn.legend(handles=frames, loc="outside lower center", ncols=4, fontsize=FONT, frameon=False)
    drawn.suptitle(title, fontsize=FONT + 1)
    return write(drawn, path, dpi=100)


def called(part: Sightings, row: int) -> tuple[str, str]:
    """What the user's file calls the vehicle and the camera of a row."""
    one = part[[row]]
    return one.vehicle_called(part.identity[row]), one.camera_called(part.camera[row])


def time_gap(seconds: float) -> str:
    """``+3.2 min`` and the like; empty where the time is not known."""
    if np.isnan(seconds):
        return ""
    return f"{seconds:+.0f} s" if abs(seconds) < 100 else f"{seconds / 60:+.1f} min"


def _draw_cell(axes: Any, path: str, kind: str, label: str) -> None:
    axes.imshow(letterbox(path)[0])
    axes.set_xlabel(label, fontsize=FONT, labelpad=2)
    axes.set(xticks=[], yticks=[])
    colour, style = FRAMES[kind]
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3, linestyle=style)
