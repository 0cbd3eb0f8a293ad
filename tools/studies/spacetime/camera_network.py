"""The camera network as a picture: which camera follows which, and after how long."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.sparse.csgraph import minimum_spanning_tree

from torchreid_dfrst.report.canvas import BLUE, write
from torchreid_dfrst.sightings import CameraNetwork
from torchreid_dfrst.spatiotemporal.transition import Transition


def camera_network(model: Transition, network: CameraNetwork, path: str | Path) -> None:
    """Median transit times along the shortest tree that joins all cameras by road.

    Cameras are placed by their road distances (two leading axes of classical scaling) and then pushed apart until their
    numbers can be read. Dotted: seen too rarely for a law of its own, the time comes from the law of all trips.
    """
    at, median = _apart(_placed(network.distance_m)), np.exp(model.mu)
    tree = minimum_spanning_tree(np.maximum(network.distance_m, 1.0) * ~np.eye(len(network), dtype=bool))
    edges = list(zip(*tree.nonzero(), strict=True))
    # the quicker way of the two
    edges = [(a, b) if median[a, b] <= median[b, a] else (b, a) for a, b in edges]
    figure = Figure((7.5, 5.9), layout="constrained")
    axes = figure.subplots()
    scale = LogNorm(min(median[e] for e in edges), max(median[e] for e in edges))
    colours = matplotlib.colormaps["viridis"]
    for a, b in edges:
        own = model.seen[a, b] >= model.min_trips
        axes.plot(*at[[a, b]].T, color=colours(scale(median[a, b])), lw=2.5, ls="-" if own else ":", zorder=1)
        along = (at[b] - at[a]) / np.linalg.norm(at[b] - at[a])
        side = np.array([-along[1], along[0]]) * (1 if along[0] >= 0 else -1)
        label, middle = f"{median[a, b]:.0f} s", (at[a] + at[b]) / 2
        beside = (13 * side[0], 13 * side[1])
        axes.annotate(label, middle, beside, textcoords="offset points", fontsize=8, ha="center", va="center")
    axes.scatter(at[:, 0], at[:, 1], s=520, color="white", edgecolor=BLUE, zorder=2)
    for name, place in zip(network.cameras, at, strict=True):
        axes.annotate(network.called(name), place, ha="center", va="center", fontsize=8, zorder=3)
    axes.set_aspect("equal")
    axes.margins(0.08)
    axes.set_axis_off()
    figure.suptitle("cameras, and the median trip time between neighbours; near cameras drawn apart", fontsize=10)
    kinds = {
        "-": f"{model.min_trips} trips or more in training: their own law",
        ":": f"fewer than {model.min_trips}: the law of all trips, carried over by distance",
    }
    lines = [Line2D([], [], color="#444444", lw=2.5, ls=style, label=kind) for style, kind in kinds.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    write(figure, path)


def _placed(distance_m: np.ndarray) -> np.ndarray:
    """``(C, 2)`` by classical scaling, the wider axis first."""
    centre = np.eye(len(distance_m)) - 1 / len(distance_m)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance_m**2 @ centre)
    return vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0))


def _apart(at: np.ndarray, share: float = 0.1, rounds: int = 500) -> np.ndarray:
    """The same points, pairs nearer than a share of the whole extent pushed apart along the line between them."""
    least = share * np.ptp(at, axis=0).max()
    for _ in range(rounds):
        between = at[:, None] - at
        far = np.linalg.norm(between, axis=2) + 1e-9
        at = at + 0.3 * (between / far[..., None] * np.maximum(least - far, 0)[..., None]).sum(axis=1)
    return at
