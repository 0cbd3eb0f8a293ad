"""What ``tools/benchmark_retrieval.py`` wrote, as tables and a picture for a page that says how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.report.canvas import BLUE, GREEN, RED, figure, write

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Run = Mapping[str, Any]


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
        raise FileNotFoundError(f"no results of tools/benchmark_retrieval.py --json in {folder}")
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
    """All tables and the commands, as Markdown."""
    parts = [_machine(runs)]
    lines = [line for run in runs for line in LINES.get(run["job"], lambda _: [])(run)]
    if lines:
        parts.append(_table(["size", "work", "other", "ours", "ratio"], lines))
    streamed = [_streamed(run) for run in runs if "streamed" in run]
    if streamed:
        head = (
            "size | images x dimensions | floor | fp32 | bf16 | fused / fp32 | peak memory fp32, bf16 | not certified"
        )
        parts.append(
            "Distances in blocks, each run in a fresh process (seconds and share of the floor; memory over "
            f"imports and features):\n\n{_table(head.split(' | '), streamed)}"
        )
    commands = "\n".join(f"{run['command']}  # {run['rounds']} rounds, {run['date']}" for run in runs)
    return "\n\n".join([*parts, f"Commands:\n\n```bash\n{commands}\n```"])


def slope(runs: Sequence[Run], who: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, peak bytes, and the coefficients (bytes an image, bytes at 0) of the straight line through them."""
    images = np.array([run["images"] for run in runs], dtype=float)
    memory = np.array([run["memory_bytes"][who] for run in runs], dtype=float)
    return images, memory, np.polyfit(images, memory, 1)


def draw(runs: Sequence[Run], path: str | Path) -> Path:
    """Seconds and peak memory against the number of images, for the streamed runs of the most frequent width.

    Raises:
        ValueError: fewer than three sizes of one width.
    """
    streamed = [run for run in runs if "streamed" in run]
    widths = [run["dimensions"] for run in streamed]
    chosen = [run for run in streamed if run["dimensions"] == max(set(widths), key=widths.count)] if widths else []
    if len(chosen) < 3:
        raise ValueError(
            f"a line through {len(chosen)} sizes shows nothing: run --job streamed at three scales or more"
        )
    made = figure(9, 3.8)
    left, right = made.subplots(1, 2)
    for who, colour in (("floor", "black"), ("fp32", BLUE), ("bf16", GREEN), ("fused", RED)):
        images = np.array([run["images"] for run in chosen])
        seconds = [run["seconds"][who] for run in chosen]
        left.loglog(images, seconds, "o--" if who == "floor" else "o-", color=colour, label=who, markersize=4)
        if who == "floor":
            continue
        images, memory, line = slope(chosen, who)
        right.plot(images, memory / 1e9, "o", color=colour, markersize=4)
        end = np.array([0, images.max()])
        label = f"{who}: {line[0] / 1e3:.2f} kB an image + {line[1] / 1e9:.2f} GB"
        right.plot(end, np.polyval(line, end) / 1e9, "-", color=colour, linewidth=1, label=label)
    left.set(xlabel="images", ylabel="seconds", title="whole job, distances in blocks")
    right.set(
        xlabel="images", ylabel="GB over imports and features", title="peak memory", xlim=(0, None), ylim=(0, None)
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    made.suptitle(f"{chosen[0]['dimensions']} dimensions, 10 % queries, {chosen[0]['threads']} threads", fontsize=10)
    return write(made, path, dpi=130)


def _machine(runs: Sequence[Run]) -> str:
    lines = set()
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in run["giga_operations_per_second"].items())
        lines.add((f"{', '.join(run['processor'])}, {run['threads']} threads; {versions}.", rates))
    machines = sorted({machine for machine, _ in lines})
    loads = ", ".join(f"{run['load'][0]:.1f}" for run in runs)
    return " ".join(machines) + (
        f" Products, 1e9 operations a second, as each run found them: {'; '.join(sorted({r for _, r in lines}))}. Load "
        f"when the runs ended: {loads}. Ratios are medians over rounds "
        "in which everything ran in turn."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rerank(run: Run) -> list[list[str]]:
    seconds, memory, size = run["seconds"], run["memory_bytes"], run["scale"]
    stages = run["stages"]["fp32"]
    after = stages["encoding"] + stages["distances"]
    rows = []
    if run.get("rerank_speedup"):
        gap, bf16_gap = run["rerank_max_abs_diff"], run["bf16_rerank_max_abs_diff"]
        rows = [
            _row(size, f"features to re-ranked distances, fp32 (largest difference {gap:.1e})",
                 seconds["torchreid"], seconds["fp32"], run["rerank_speedup"]),
            _row(size, f"the same, bf16 candidates ({bf16_gap:.1e})",
                 seconds["torchreid"], seconds["bf16"], run["bf16_rerank_speedup"]),
            _row(size, f"CMC and mAP of the matrix (difference {run['evaluate_diff']:.1e})",
                 seconds["evaluate_rank"], seconds["evaluate"], run["evaluate_speedup"]),
            [size, "peak memory of the whole job over the features, fp32", f"{memory['torchreid'] / 1e9:.2f} GB",
             f"{memory['fp32'] / 1e9:.3f} GB", f"{run['rerank_memory_ratio']:.3f}"],
            [size, "the same, bf16", "", f"{memory['bf16'] / 1e9:.3f} GB", ""],
        ]  # fmt: skip
    return [
        *rows,
        [size, "floor: N x N by torch.mm; ours, fp32", f"{seconds['floor']:.2f} s", f"{seconds['fp32']:.2f} s",
         f"{run['floor_ratio']:.2f} of the floor"],
        [size, "the same, bf16", f"{seconds['floor']:.2f} s", f"{seconds['bf16']:.2f} s",
         f"{run['bf16_floor_ratio']:.2f} of the floor"],
        [size, "everything after the neighbours, fp32", "", f"{after:.3f} s", f"{100 * after / stages['whole']:.1f} %"],
        [size, "fused with the paper's model; other: appearance alone", f"{seconds['fp32']:.2f} s",
         f"{seconds['fused']:.2f} s", f"{run['fused_over_appearance']:.2f}"],
    ]  # fmt: skip


def _cold(run: Run) -> list[list[str]]:
    taken = run["cold_seconds"]
    return [
        _row(run["scale"], f"whole job in a cold process, both mAPs, {who}", taken["torchreid"], taken[who],
             run[f"cold_{who}_speedup"])
        for who in ("fp32", "bf16") if f"cold_{who}_speedup" in run
    ]  # fmt: skip


def _transit(run: Run) -> list[list[str]]:
    names = {"qg": "queries x gallery", "nn": "all x all"}
    rows = [
        _row(run["scale"], f"fused distances, {what}; other: NumPy",
             run[f"transit_{name}_seconds"]["naive"], run[f"transit_{name}_seconds"]["ours"],
             run[f"transit_{name}_speedup"])
        for name, what in names.items()
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
    return [_row(run["scale"], what, taken["spcl"], taken["ours"], run["clustering_speedup"])]


LINES = {"rerank": lambda run: _rerank(run) if "stages" in run else [], "cold": _cold, "transit": _transit,
         "clustering": _clustering}  # fmt: skip


def _row(size: str, work: str, other: float, ours: float, ratio: float) -> list[str]:
    return [size, work, f"{other:.3g} s", f"{ours:.3g} s", f"{ratio:.1f}x"]


def _streamed(run: Run) -> list[str]:
    taken, memory = run["seconds"], run["memory_bytes"]
    floor = f"{taken['floor']:.4g}" + (f" (from {run['floor_rows']:,} rows)" if run["floor_is_extrapolated"] else "")
    return [
        run["scale"], f"{run['images']:,} x {run['dimensions']}", floor,
        f"{taken['fp32']:.4g} ({run['floor_ratio']:.2f})", f"{taken['bf16']:.4g} ({run['bf16_floor_ratio']:.2f})",
        f"{run['fused_over_appearance']:.2f}", f"{memory['fp32'] / 1e9:.2f}, {memory['bf16'] / 1e9:.2f} GB",
        f"{run['streamed']['bf16']['fallbacks']} rows",
    ]  # fmt: skip
