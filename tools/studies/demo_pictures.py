"""The pictures of README and of the tutorials, from what `dfrst demo` leaves.

python -m tools.studies.demo_pictures runs/demo --out docs/pictures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch

from torchreid_dfrst import association, config, evaluation
from torchreid_dfrst.cli import command
from torchreid_dfrst.evaluation.trips import evidence
from torchreid_dfrst.features import Extraction
from torchreid_dfrst.inference.pictures_and_pages import show_rankings
from torchreid_dfrst.models.zoo import build
from torchreid_dfrst.report.canvas import BLUE, RED, figure, write
from torchreid_dfrst.report.trips import time_space

ROWS = (evaluation.APPEARANCE, evaluation.FUSED)

NETWORK = "dfrst"


def hero(result: evaluation.Result, folder: Path, count: int = 2) -> Path:
    """Queries by appearance and, below, with space and time: at equal steps among those that time put right (or all).

    They are chosen to show what space and time do, so they are no sample of all queries; README says what all gain.
    """
    first = [result.metrics[row].first_match for row in ROWS]
    gained = np.flatnonzero((first[0] > 1) & (first[1] == 1))
    gained = gained if len(gained) else np.flatnonzero(first[1])
    chosen = gained[np.linspace(0, len(gained) - 1, min(count, len(gained))).astype(int)]
    (drawn,) = show_rankings(result, folder, count, ROWS, chosen)
    return drawn.rename(folder / "hero.png")


def training_curve(lines: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and learning rate of a run's ``metrics.jsonl`` against steps."""
    steps = [line for line in lines if line["kind"] == "train"]
    made = figure(9, 3.4)
    for axes, key, name, colour in zip(
        made.subplots(1, 2), ("loss", "lr"), ("loss, mean of the last steps", "learning rate"), (BLUE, RED), strict=True
    ):
        axes.plot(
            [line["step"] for line in steps], [line[key] for line in steps], color=colour, marker="o", ms=3, label=name
        )
        axes.set(xlabel="steps, of one batch each", ylabel=name, ylim=(0, None))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    return write(made, path, dpi=100)


def network(path: Path, name: str = NETWORK) -> Path:
    """What a network is made of, read from the network itself: backbone, streams, parts of the embedding."""
    model = build(name, 10, pretrained=False)
    width: dict[str, list[int]] = {}
    for part, place in model.branches.items():
        width.setdefault(part.rpartition("_")[0] or part, []).append(place.stop - place.start)
    made = figure(9, 4.2)
    axes = made.subplots()
    middle = (len(width) - 1) / 2
    _box(axes, 0, middle, "image\n256 x 256", "white")
    _box(axes, 2.1, middle, "ResNet-50\nto conv3_x,\nshared", "#dddddd")
    streams = {"coarse stream:\nconv4_x, conv5_x": 0.0, "fine stream: conv4_x,\nconv5_x + AttentionNet": middle + 0.5}
    for text, height in streams.items():
        _box(axes, 4.4, height, text, "#cfe8f5")
        _arrow(axes, (3.1, middle), (4.4, height))
    _arrow(axes, (1.0, middle), (2.1, middle))
    for row, (part, sizes) in enumerate(width.items()):
        divided = f"{part}: {len(sizes)} parts" if len(sizes) > 1 else f"{part}: whole map"
        text = f"{divided}\n{len(sizes)} x {sizes[0]} numbers" if len(sizes) > 1 else f"{divided}\n{sizes[0]} numbers"
        _box(axes, 7.2, row, text, "#d9f0e3", 1.9)
        _arrow(axes, (6.3, 0.0 if part == "coarse" else middle + 0.5), (7.2, row))
        _arrow(axes, (9.1, row), (10.0, middle))
    total = sum(map(sum, width.values()))
    _box(axes, 10.0, middle, f"embedding\n{total:,}\nnumbers", "white", 1.3)
    axes.set(xlim=(-0.2, 11.5), ylim=(len(width) - 0.3, -0.7))
    axes.set_axis_off()
    axes.set_title(f"{name}: every part has its own batch norm (BNNeck) and classifier", fontsize=10)
    return write(made, path, dpi=100)


def _box(axes: Any, x: float, y: float, text: str, colour: str, wide: float | None = None) -> None:
    wide = wide or (1.0 if x < 4 else 1.9)
    shape = FancyBboxPatch((x, y - 0.3), wide, 0.6, boxstyle="round,pad=0.06", fc=colour, ec="#444444", lw=1)
    axes.add_patch(shape)
    axes.text(x + wide / 2, y, text, ha="center", va="center", fontsize=8)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#666666", "lw": 1})


@command
def main() -> None:
    """Read the demo's folder and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of dfrst demo")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder of the pictures")
    given = parser.parse_args()
    extraction = Extraction.load(given.run / "features.npz")
    known = evaluation.sections()
    settings = {name: section for name, section in config.read_yaml("demo").items() if name in known}
    result = evaluation.score(extraction, **settings)
    trips = association.associate(extraction.gallery, extraction.network, evidence(extraction))
    lines = [json.loads(line) for line in (given.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for drawn in (
        hero(result, given.out),
        training_curve(lines, given.out / "training_curve.png"),
        network(given.out / "network.png"),
        time_space(trips, extraction.gallery.sightings, extraction.network, given.out / "time_space.png"),
    ):
        print(f"wrote {drawn}")


if __name__ == "__main__":
    main()
