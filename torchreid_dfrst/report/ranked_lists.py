"""Ranked lists as a picture (paper, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.report.canvas import BLUE, GREEN, GREY, RED, figure, thumbnail, write
from torchreid_dfrst.sightings import Sightings, same_vehicle


def ranked_lists(
    path: str | Path,
    query: Sightings,
    gallery: Sightings,
    index: np.ndarray,
    distance: np.ndarray,
    title: str = "",
    rows: Sequence[str] = (),
) -> Path:
    """Draw each query with its best matches; camera and time gap stand under each.

    The frame is green where both show one vehicle, red where they do not, grey where one of them is not known.

    Args:
        path: picture to write.
        query: ``R`` queries, one row of the picture each; ``path`` names their images.
        gallery: the whole gallery.
        index: ``(R, K)`` gallery rows, best first, junk already removed; -1 leaves a place empty.
        distance: ``(R, K)`` distances of those rows, in whatever unit the ranking used.
        title: printed above.
        rows: a word for each row, such as how it is ranked; printed at its left.

    Raises:
        ValueError: the shapes do not agree.
    """
    if index.shape != distance.shape or len(index) != len(query):
        raise ValueError(f"{len(query)} queries, but index {index.shape} and distance {distance.shape}: one row each")
    count, columns = index.shape
    drawn = figure(1.15 * (columns + 1), 1.5 * count + 0.4)
    grid = drawn.subplots(count, columns + 1, squeeze=False)
    for row in range(count):
        _draw_cell(grid[row, 0], query.path[row], BLUE, "query: vehicle {}\ncam {}".format(*called(query, row)))
        if rows:
            grid[row, 0].set_ylabel(rows[row], fontsize=8)
        for rank, place in enumerate(index[row].tolist(), start=1):
            if place < 0:
                grid[row, rank].set_axis_off()
                continue
            colour = GREEN if same_vehicle(gallery.identity[place], query.identity[row]) else RED
            colour = colour if query.known[row] and gallery.known[place] else GREY
            gap = time_gap(gallery.time_s[place] - query.time_s[row])
            label = f"{rank}: cam {called(gallery, place)[1]}{gap}\n{distance[row, rank - 1]:.3f}"
            _draw_cell(grid[row, rank], gallery.path[place], colour, label)
    drawn.suptitle(title, fontsize=9)
    return write(drawn, path)


def called(part: Sightings, row: int) -> tuple[str, str]:
    """What the user's file calls the vehicle and the camera of a row."""
    one = part[[row]]
    return one.vehicle_called(part.identity[row]), one.camera_called(part.camera[row])


def time_gap(seconds: float) -> str:
    """``, +3.2 min`` and the like; empty where the time is not known."""
    if np.isnan(seconds):
        return ""
    return f", {seconds:+.0f} s" if abs(seconds) < 100 else f", {seconds / 60:+.1f} min"


def _draw_cell(axes: Any, path: str, colour: str, label: str) -> None:
    axes.imshow(thumbnail(path))
    axes.set_xlabel(label, fontsize=6, labelpad=2)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3)
