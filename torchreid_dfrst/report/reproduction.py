"""Curves of the paper's tables: ours, and the paper's on its own data beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from torchreid_dfrst.report.canvas import BLUE, RED, figure, write

MEASURES = ("mAP", "R1", "R5")


def pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """The pictures that belong to a table: Fig. 8 to VI, a curve each to X and XI; returns the files."""
    draw = {"VI": _robustness, "X": _sweep, "XI": _sweep}.get(result["table"])
    return [] if draw is None else [write(draw(result), folder / f"{result['table']}.png")]


def _robustness(result: Mapping[str, Any]) -> Figure:
    drawn = figure(11, 3.8)
    for axes, measure in zip(drawn.subplots(1, 3), MEASURES, strict=True):
        for network, color in (("DFR-ST", BLUE), ("PRN", RED)):
            rows = [row for row in result["rows"] if network in row["label"]]
            averages = [row for row in rows if row["label"].startswith("average")] or rows
            level = [row["damaged_percent"] for row in averages]
            axes.errorbar(level, _means(averages, measure), _deviations(averages, measure), color=color, marker="o",
                          ms=4, label=f"{network}, here")  # fmt: skip
            known = [row for row in averages if row["paper"]]
            axes.plot(
                [row["damaged_percent"] for row in known],
                [row["paper"][measure] for row in known],
                color=color,
                ls=":",
                label=f"{network}, the paper on {result['paper_data']}",
            )
        axes.set(xlabel="damaged pixels, %", ylabel=f"{measure}, %", ylim=(0, 100))
    drawn.axes[0].legend(frameon=False, fontsize=8)
    drawn.suptitle(f"here: {result['name']}", fontsize=10)
    return drawn


def _sweep(result: Mapping[str, Any]) -> Figure:
    drawn = figure(6.5, 4.2)
    axes = drawn.subplots()
    name = result["rows"][0]["label"].split()[0]
    value = [float(row["label"].split()[1]) for row in result["rows"]]
    axes.errorbar(value, _means(result["rows"], "mAP"), _deviations(result["rows"], "mAP"), color=BLUE, marker="o",
                  label=f"here, {result['name']}")  # fmt: skip
    known = [(x, row["paper"]["mAP"]) for x, row in zip(value, result["rows"], strict=True) if row["paper"]]
    axes.plot(*zip(*known, strict=True), color=RED, ls=":", label=f"the paper on {result['paper_data']}")
    axes.set(xlabel=name, ylabel="mAP, %")
    axes.legend(frameon=False)
    return drawn


def _means(rows: list[Mapping[str, Any]], measure: str) -> list[float]:
    return [row["ours"][measure]["mean"] for row in rows]


def _deviations(rows: list[Mapping[str, Any]], measure: str) -> list[float]:
    return [row["ours"][measure]["deviation"] or 0 for row in rows]
