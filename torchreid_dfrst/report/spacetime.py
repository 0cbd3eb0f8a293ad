"""Pictures of an audit of space and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from torchreid_dfrst.report.canvas import LINES, write


def controls(results: dict[str, dict[str, Any]], path: str | Path) -> None:
    """What shuffling, clock skew, wrong times and unseen cameras leave of each model's score."""
    figure = Figure((10.0, 6.6), layout="constrained")
    shuffle, skew, wrong, unseen = all_axes = figure.subplots(2, 2).ravel()
    for axes in all_axes:
        axes.set_prop_cycle(LINES)
    kinds = ["as it is", "times", "cameras", "both"]
    for k, (name, result) in enumerate(results.items()):
        scores = [result["as it is"]["mAP"], *(result["shuffled"][kind]["mAP"] for kind in kinds[1:])]
        shuffle.bar(
            np.arange(4) + (k - len(results) / 2 + 0.5) * 0.8 / len(results), scores, 0.8 / len(results), label=name
        )
        for axes, key in ((skew, "clock skew s"), (wrong, "wrong times"), (unseen, "cameras without training")):
            axes.plot([float(x) for x in result[key]], [s["mAP"] for s in result[key].values()], ms=4, label=name)
    if all("appearance" in r for r in results.values()):
        level = next(iter(results.values()))["appearance"]["mAP"]
        for axes in all_axes:
            axes.axhline(level, color="#444444", lw=0.9, ls="--", label="appearance alone")
    shuffle.set_xticks(range(4), ["as it is", "times\nshuffled", "cameras\nshuffled", "both\nshuffled"])
    skew.set_xlabel("clock error of each camera, up to ± this many seconds")
    wrong.set_xlabel("share of tracks with a wrong time")
    unseen.set_xlabel("cameras never seen in training")
    for axes in all_axes:
        axes.set_ylabel("mAP, %")
        axes.set_ylim(bottom=0)
    handles, names = skew.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False)
    write(figure, path)


def reliability(results: dict[str, dict[str, Any]], path: str | Path) -> None:
    """Share of right pairs against the transit distance: a model that is right falls steadily."""
    figure = Figure((6.5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(LINES)
    for name, result in results.items():
        curve = result["reliability"]
        x = np.array([c["distance"] for c in curve])
        axes.plot((x - x.min()) / max(np.ptp(x), 1e-9), [c["gain"] for c in curve], ms=4, label=name)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set(
        xlabel="transit distance, from the model's smallest to its largest",
        ylabel="ln(share of right pairs / share among all), nats",
    )
    axes.legend(frameon=False)
    write(figure, path)


def pair_gains(result: dict[str, Any], path: str | Path) -> None:
    """How much better than chance each ordered camera pair is ranked, mAP in points."""
    names = result["cameras"]
    grid = np.full((len(names), len(names)), np.nan)
    for pair in result["pairs"]:
        grid[names.index(pair["query"]), names.index(pair["gallery"])] = pair["mAP"] - pair["chance"]
    figure = Figure((6.5, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0)
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="gallery camera, in the order of the distance matrix", ylabel="query camera")
    figure.colorbar(image, label="mAP above chance, points")
    write(figure, path)
