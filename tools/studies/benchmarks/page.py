"""What the benchmark of retrieval wrote, as tables and a picture for a page that says how it was measured.

python -m tools.studies.benchmarks.page FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from torchreid_dfrst.cli import command
from torchreid_dfrst.report.canvas import BLUE, GREY, RED, figure, write

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Run = Mapping[str, Any]
WAYS = ("fp32", "fused")
NAMES = {"floor": "floor: all products by torch.mm", "fp32": "ours", "fused": "ours + space and time"}

STREAMED_TARGETS = {"100k": (1.35, 0.4), "msmt17": (1.35, None), "veriwild": (1.35, None)}
"""Share of the floor, and GB over the features, that are to be kept below, by scale."""
LEAST = 3
"""Sizes that a line needs to show anything."""
AFTER = 8
"""Percent of the job that everything after the neighbours may take at any size."""


def read_runs(folder: str | Path) -> list[dict[str, Any]]:
    """All JSON files of a folder that the benchmark wrote, by size, then job.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one cannot be read as JSON.
    """
    runs = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): was the benchmark interrupted?") from error
        if isinstance(found, dict) and {"job", "scale", "images", "command"} <= found.keys():
            runs.append(found)
    if not runs:
        raise FileNotFoundError(f"no results of tools.studies.benchmarks.retrieval --json in {folder}")
    return sorted(runs, key=lambda run: (run["images"] * run["dimensions"], run["job"]))


def fill(page: str | Path, text: str) -> None:
    """Put ``text`` between the two marks of a page.

    Raises:
        ValueError: the page does not have both marks, once each and in order.
    """
    path = Path(page)
    old = path.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise ValueError(f"{path} needs one line {BEGIN} and, below it, one line {END}")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}", encoding="utf-8")


def tables(runs: Sequence[Run]) -> str:
    """All tables and the commands, as Markdown; a target that is missed is marked."""
    parts = [_machine(runs)]
    lines = [line for run in runs for line in LINES.get(run["job"], lambda _: [])(run)]
    if lines:
        parts.append(_table(["size", "work", "other", "ours", "ratio", "target"], lines))
    streamed = [run for run in runs if "streamed" in run]
    if streamed:
        parts.append(
            "Distances in blocks, each run in a fresh process: seconds, and in brackets their share of the floor (of "
            "float32 for fused); memory over imports and features; in each cell float32, bfloat16 and fused where "
            "there are three figures. After the neighbours come encodings and distances, for which the products of "
            f"queries and gallery are made again; their share is that of the float32 run, target {AFTER} %.\n\n"
            + _table(STREAMED, [_streamed(run) for run in streamed])
        )
        chosen = of_one_width(streamed)
        if len(chosen) >= LEAST:
            lines_through = ", ".join(f"{who} {_line(slope(chosen, who)[2])}" for who in WAYS)
            parts.append(f"Peak memory at {chosen[0]['dimensions']} dimensions, straight line: {lines_through}.")
    commands = "\n".join(
        f"{run['command']}  # {run['rounds']} round{'s' * (run['rounds'] != 1)}, {run['date']}" for run in runs
    )
    return "\n\n".join([*parts, f"Commands:\n\n```bash\n{commands}\n```"])


def of_one_width(runs: Sequence[Run]) -> list[Run]:
    """The streamed runs of the width that most of them have."""
    streamed = [run for run in runs if "streamed" in run]
    widths = [run["dimensions"] for run in streamed]
    return [run for run in streamed if run["dimensions"] == max(set(widths), key=widths.count)] if widths else []


def slope(runs: Sequence[Run], who: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, peak bytes, and the coefficients (bytes an image, bytes at 0) of the straight line through them."""
    images = np.array([run["images"] for run in runs], dtype=float)
    memory = np.array([run["memory_bytes"][who] for run in runs], dtype=float)
    return images, memory, np.polyfit(images, memory, 1)


def draw(runs: Sequence[Run], path: str | Path) -> Path | None:
    """Seconds and peak memory against the number of images, of the most frequent width; torchreid beside ours.

    Returns:
        The path; None, and nothing is written, for fewer than three sizes of one width, whose line would show nothing.
    """
    chosen = of_one_width(runs)
    images = np.array([run["images"] for run in chosen])
    if len(set(images)) < LEAST:
        return None
    made = figure(9, 6.8)
    (left, right), bars = made.subplots(2, 2)
    for who, colour in (("floor", "black"), ("fp32", BLUE), ("fused", RED)):
        seconds = [run["seconds"][who] for run in chosen]
        style = "x--" if who == "floor" else "o-" if who == "fp32" else "s-"
        left.loglog(images, seconds, style, color=colour, label=NAMES[who], markersize=4)
        if who == "floor":
            continue
        _, memory, line = slope(chosen, who)
        right.plot(images, memory / 1e9, style[0], color=colour, markersize=4)
        end = np.array([0, images.max()])
        right.plot(end, np.polyval(line, end) / 1e9, "-", color=colour, lw=1, label=NAMES[who])
    left.set_xticks(sorted(set(images)), [f"{n:,}" for n in sorted(set(images))])
    left.xaxis.set_minor_formatter(NullFormatter())
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    left.set(xlabel="images (log)", ylabel="seconds (log)", title="whole job, distances in blocks")
    right.set(
        xlabel="images", ylabel="GB over imports and features", title="peak memory", xlim=(0, None), ylim=(0, None)
    )
    both = [run for run in runs if run.get("rerank_speedup") and "torchreid" in run["memory_bytes"]]
    for axes, what, unit in zip(bars, ("seconds", "memory_bytes"), (1, 1e9), strict=True):
        for shift, (who, name, colour) in enumerate((("torchreid", "torchreid", GREY), ("fp32", "ours", BLUE))):
            values = [run[what][who] / unit for run in both]
            drawn = axes.bar(np.arange(len(both)) + 0.4 * shift, values, 0.4, color=colour, label=name)
            axes.bar_label(drawn, fmt="%.3g", fontsize=8)
        axes.set_xticks(np.arange(len(both)) + 0.2, [f"{run['images']:,} x {run['dimensions']}" for run in both])
        axes.set(xlabel="images x dimensions")
    bars[0].set(ylabel="seconds", title="features to re-ranked distances")
    bars[1].set(ylabel="GB over imports and features", title="peak memory of the same")
    for axes in (left, right, *bars):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    share = sorted({round(100 * run["queries"] / run["images"]) for run in chosen})
    queries = f"{share[0]} %" if len(share) == 1 else f"{share[0]} to {share[-1]} %"
    made.suptitle(
        f"above: {chosen[0]['dimensions']} dimensions, {queries} queries; {chosen[0]['threads']} threads", fontsize=10
    )
    return write(made, path, dpi=100)


def _line(coefficients: np.ndarray) -> str:
    return f"{coefficients[0] / 1e3:.2f} kB an image + {coefficients[1] / 1e9:.2f} GB"


def _machine(runs: Sequence[Run]) -> str:
    machines: set[str] = set()
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        machines.add(f"{', '.join(run['processor'])}, {run['threads']} threads; {versions}.")
    loads = [run["load"][0] for run in runs]
    return " ".join(sorted(machines)) + (
        f" Load when the {len(runs)} runs ended: {min(loads):.1f} to {max(loads):.1f}. Ratios are medians over rounds "
        "in which everything ran in turn: "
        + ", ".join(f"{run['scale']} {run['job']} {run['rounds']}" for run in runs)
        + "."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def at_least(value: float, target: float, unit: str = "x") -> str:
    """A target from below, and whether it is missed."""
    return f"≥ {target:g}{unit}" + (", **missed**" if value < target else "")


def at_most(value: float, target: float, unit: str = "") -> str:
    """A target from above, and whether it is missed."""
    return f"≤ {target:g}{unit}" + (", **missed**" if value > target else "")


def _rerank(run: Run) -> list[list[str]]:
    seconds, memory, size = run["seconds"], run["memory_bytes"], run["scale"]
    stages = run["stages"]
    after = stages["encoding"] + stages["distances"]
    rows = []
    if run.get("rerank_speedup"):
        gap = run["rerank_max_abs_diff"]
        rows = [
            _row(size, "features to re-ranked distances", seconds["torchreid"], seconds["fp32"],
                 run["rerank_speedup"], 14),
            [size, "largest difference of a distance", "", f"{gap:.1e}", "", at_most(gap, 1e-5)],
            _row(size, f"CMC and mAP of the matrix (difference {run['evaluate_diff']:.1e})",
                 seconds["evaluate_rank"], seconds["evaluate"], run["evaluate_speedup"], 200),
        ]  # fmt: skip
    theirs = f"{memory['torchreid'] / 1e9:.2f} GB" if "torchreid" in memory else ""
    share, near = f"{memory['fp32'] / memory['torchreid']:.3f}" if theirs else "", run["search"]
    return [
        *rows,
        [size, "peak memory of the whole job over the features", theirs, f"{memory['fp32'] / 1e9:.3f} GB", share,
         at_most(memory["fp32"] / 1e9, 0.4, " GB")],
        [size, "floor: N x N by torch.mm; ours", f"{seconds['floor']:.2f} s", f"{seconds['fp32']:.2f} s",
         f"{run['floor_ratio']:.2f} of the floor", at_most(run["floor_ratio"], 1.1)],
        [size, "everything after the neighbours", "", f"{after:.3f} s", f"{100 * after / stages['whole']:.1f} %",
         f"{at_most(after, 0.1, ' s')}; {at_most(100 * after / stages['whole'], AFTER, ' %')}"],
        [size, "fused with the paper's model; other: appearance alone", f"{seconds['fp32']:.2f} s",
         f"{seconds['fused']:.2f} s", f"{run['fused_over_appearance']:.2f}",
         at_most(run["fused_over_appearance"], 1.15)],
        [size, "near-ties (at the end of a list); fallbacks", "",
         f"{near['near_ties']} ({near['near_ties_at_a_cut']}); {near['fallbacks']}", "", ""],
    ]  # fmt: skip


def _cold(run: Run) -> list[list[str]]:
    if "cold_speedup" not in run:
        return []
    taken, what = run["cold_seconds"], "whole job in a cold process, both mAPs"
    return [_row(run["scale"], what, taken["torchreid"], taken["fp32"], run["cold_speedup"], 28)]


def _transit(run: Run) -> list[list[str]]:
    names = {"qg": ("queries x gallery", 7), "nn": ("all x all", 14)}
    rows = [
        _row(run["scale"], f"fused distances, {what}; other: NumPy",
             run[f"transit_{name}_seconds"]["naive"], run[f"transit_{name}_seconds"]["ours"],
             run[f"transit_{name}_speedup"], target)
        for name, (what, target) in names.items()
    ]  # fmt: skip
    share = f"{100 * run['bound_share_of_pairs']:.1f} % of the pairs"
    what = f"1,024 rows fused; other: only pairs within the bound ({share})"
    bound = run["bound_seconds"]
    return [*rows, _row(run["scale"], what, bound["bound"], bound["block"], run["bound_over_block"])]


def _clustering(run: Run) -> list[list[str]]:
    if "clustering_speedup" not in run:
        return []
    taken, gap = run["clustering_seconds"], run["clustering_max_abs_diff"]
    what = f"clustering form, all x all; other: SpCL (largest difference {gap:.1e})"
    return [_row(run["scale"], what, taken["spcl"], taken["ours"], run["clustering_speedup"], 5)]


LINES = {"rerank": lambda run: _rerank(run) if "stages" in run else [], "cold": _cold, "transit": _transit,
         "clustering": _clustering}  # fmt: skip


def _row(size: str, work: str, other: float, ours: float, ratio: float, target: float | None = None) -> list[str]:
    goal = "" if target is None else at_least(ratio, target)
    return [size, work, f"{other:.3g} s", f"{ours:.3g} s", f"{ratio:.1f}x", goal]


STREAMED = ["size", "images x dimensions", "floor", "fp32", "fused", "peak memory, GB", "after the neighbours",
            "near-ties (at the end of a list)", "fallbacks", "targets"]  # fmt: skip


def _streamed(run: Run) -> list[str]:
    taken, memory, streamed = run["seconds"], run["memory_bytes"], run["streamed"]
    floor = f"{taken['floor']:.4g}" + (f" (from {run['floor_rows']:,} rows)" if run["floor_is_extrapolated"] else "")
    once = streamed["fp32"]
    stages = once["stages"]
    after = 100 * (stages["encoding"] + stages["distances"]) / once["seconds"]
    return [
        run["scale"], f"{run['images']:,} x {run['dimensions']}", floor,
        f"{taken['fp32']:.4g} ({run['floor_ratio']:.2f})", f"{taken['fused']:.4g} ({run['fused_over_appearance']:.2f})",
        ", ".join(f"{memory[who] / 1e9:.2f}" for who in WAYS),
        f"{after:.0f} %" + (", **missed**" if after > AFTER else ""),
        ", ".join(f"{streamed[who]['near_ties']} ({streamed[who]['near_ties_at_a_cut']})" for who in WAYS),
        ", ".join(str(streamed[who]["fallbacks"]) for who in WAYS), _streamed_targets(run),
    ]  # fmt: skip


def _streamed_targets(run: Run) -> str:
    """Those of this scale, if it has any."""
    goals = STREAMED_TARGETS.get(run["scale"])
    if goals is None:
        return ""
    share, memory = goals
    words = [at_most(run["floor_ratio"], share)]
    if memory is not None:
        words.append(at_most(run["memory_bytes"]["fp32"] / 1e9, memory, " GB"))
    return "; ".join(words)


@command
def main() -> None:
    """Read the results, fill the page, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="with the JSON files")
    parser.add_argument("--page", default="docs/performance.md", help="filled between its two marks")
    parser.add_argument("--picture", default="docs/pictures/retrieval_scaling.png", help="time and memory against N")
    given = parser.parse_args()
    runs = read_runs(given.folder)
    fill(given.page, tables(runs))
    left = "left as it is: fewer than three sizes of --job streamed with one width"
    print(f"{given.page}: {len(runs)} results")
    print(f"{given.picture}: {'drawn' if draw(runs, given.picture) else left}")


if __name__ == "__main__":
    main()
