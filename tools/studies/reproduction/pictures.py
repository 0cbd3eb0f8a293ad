"""Pictures of the paper's tables: curves, ours with the paper's beside them, and what DFR-ST finds and looks at."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tools.studies.reproduction import Harness
from tools.studies.reproduction.preset import merge
from tools.studies.reproduction.tables import LOGNORMAL
from torchreid_dfrst import evaluation
from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.inference.pictures_and_pages import show_attention, show_rankings, some_queries
from torchreid_dfrst.report.canvas import BLUE, RED, figure, write

MEASURES = ("mAP", "R1", "R5")
ON_A_PAGE = {"VI": "robustness", "X": "lambda", "XI": "omega"}


def pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """The pictures that belong to a table: Fig. 8 to VI, a curve each to X and XI; returns the files."""
    draw = {"VI": _robustness, "X": _sweep, "XI": _sweep}.get(result["table"])
    return [] if draw is None else [write(draw(result), folder / f"{result['table']}.png")]


def of_a_run(harness: Harness, folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Ranked lists without and with space and time (Fig. 6) and attention maps (Fig. 7) of DFR-ST; returns the files.

    Args:
        harness: trains DFR-ST with that seed if it is not there; the first of its test sets is shown.
        folder: where the pictures go.
        count: number of queries in each, drawn with the seed.
        seed: of the training and of the draw.
    """
    network = harness.preset.network("dfrst")
    run = harness.train(network, seed=seed)
    extraction = harness.features(run, next(iter(harness.tests.values())))
    result = evaluation.score(extraction, **merge(harness.preset.scoring, LOGNORMAL))
    rows, queries = (evaluation.APPEARANCE, evaluation.FUSED), some_queries(result, count, seed)
    ranked = show_rankings(result, folder, count, rows, queries)
    return [*ranked, *show_attention(run / "weights.safetensors", result, folder, count, seed)]


def put_beside(page: Path, drawn: Sequence[Path]) -> list[Path]:
    """Put pictures where a page shows them: curves as ``pictures/results_omega.png``, photographs as JPEG.

    Args:
        page: whose folder has, or gets, the folder ``pictures``.
        drawn: what ``pictures`` or ``of_a_run`` returned.

    Returns:
        The new files.
    """
    folder, written = page.parent / "pictures", []
    folder.mkdir(exist_ok=True)
    for path in drawn:
        if path.stem in ON_A_PAGE:
            written.append(folder / f"results_{ON_A_PAGE[path.stem]}.png")
            shutil.copyfile(path, written[-1])
        else:
            written.append(folder / f"results_{path.stem}.jpg")
            read_image(path).save(written[-1], quality=85)
    return written


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
                marker="s",
                ms=4,
                label=f"{network}, the paper on {result['paper_data']}",
            )
        axes.set(xlabel="damaged pixels, %", ylabel=f"{measure}, %", ylim=(0, 100))
    drawn.axes[0].legend(frameon=False, fontsize=8)
    drawn.suptitle(f"here: {result['name']}", fontsize=10)
    return drawn


def _sweep(result: Mapping[str, Any]) -> Figure:
    drawn = figure(6.5, 4.2)
    # lambda moves mAP by little beside what lies between the paper and us: a scale each
    both = drawn.subplots(2, 1, sharex=True) if result["table"] == "X" else [drawn.subplots()] * 2
    name = result["rows"][0]["label"].split()[0]
    value = [float(row["label"].split()[1]) for row in result["rows"]]
    both[1].errorbar(value, _means(result["rows"], "mAP"), _deviations(result["rows"], "mAP"), color=BLUE, marker="o",
                     label=f"here, {result['name']}")  # fmt: skip
    known = [(x, row["paper"]["mAP"]) for x, row in zip(value, result["rows"], strict=True) if row["paper"]]
    both[0].plot(
        *zip(*known, strict=True), color=RED, ls=":", marker="s", ms=4, label=f"the paper on {result['paper_data']}"
    )
    both[1].set_xlabel(name)
    for axes in both:
        cut = " (axis cut)" if axes.get_ylim()[0] > 0 else ""
        axes.set_ylabel(f"mAP, %{cut}")
        axes.legend(frameon=False)
    return drawn


def _means(rows: list[Mapping[str, Any]], measure: str) -> list[float]:
    return [row["ours"][measure]["mean"] for row in rows]


def _deviations(rows: list[Mapping[str, Any]], measure: str) -> list[float]:
    return [row["ours"][measure]["deviation"] or 0 for row in rows]
