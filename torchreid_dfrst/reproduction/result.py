"""A table as measured: our figures, the paper's beside them, and all that it takes to get them again."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from torchreid_dfrst.engine import VALIDATION
from torchreid_dfrst.reproduction.cost import costs
from torchreid_dfrst.reproduction.harness import Harness
from torchreid_dfrst.reproduction.tables import HELD_OUT, TABLES, Row
from torchreid_dfrst.retrieval.card import Card, versions
from torchreid_dfrst.retrieval.compare import paired

MEASURES = ("mAP", "R1", "R5")


def measure(harness: Harness, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Every row of a table, JSON types only; trains what is not trained yet.

    Args:
        harness: where the networks are.
        name: a key of ``TABLES``.
        seeds: one training of each row per seed.

    Returns:
        ``rows``: per row ``label``, ``ours`` (measure to ``mean``, ``deviation`` (of the sample; None for one seed) and
        ``values``, percent), ``paper`` (measure to percent, or None), ``against`` (the paired test of the first seed)
        and what made it; beside them what was scored, machine, versions and command.
    """
    table, rows = TABLES[name], []
    made = table.rows(harness.preset)
    runs = {row.label: [harness.train(row.network, row.change, seed) for seed in seeds] for row in made}
    cards = {
        row.label: [_cards(harness, row, run) for run in runs[row.label]] for row in made if row.ranking != HELD_OUT
    }
    reference = next((row for row in made if row.label == table.against), None)
    for row in made:
        if row.ranking == HELD_OUT:
            scores = [_held_out(run) for run in runs[row.label]]
        else:
            scores = [_mean(of_seed, row.ranking) for of_seed in cards[row.label]]
        values = {measure: [score[measure] for score in scores] for measure in MEASURES}
        test = None
        if reference is not None and row is not reference:
            test = paired(cards[row.label][0][0], row.ranking, cards[reference.label][0][0], reference.ranking)
        rows.append(
            {
                "label": row.label,
                "ours": {key: _summary(found) for key, found in values.items()},
                "paper": None if row.paper is None else dict(zip(MEASURES, row.paper, strict=True)),
                "against": test,
                "network": row.network,
                "change": row.change,
                "ranking": row.ranking,
                "omega": _omega(cards[row.label][0][0]) if row.label in cards else None,
                "damaged_percent": row.level,
            }
        )
    first = cards[made[0].label][0][0].content if cards else None
    return {
        "table": name,
        "title": table.title,
        "preset": harness.preset.title,
        "name": harness.preset.name,
        "scored_on": _scored_on(first) if first else f"{HELD_OUT}: {harness.preset.selection['data']}",
        "data": first and first["data"],
        "seeds": list(seeds),
        "paper_data": table.data,
        "tested_against": table.against,
        "rows": rows,
        "costs": costs(harness, list(dict.fromkeys(row.network for row in made))) if table.cost else None,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "versions": versions(),
        "command": harness.command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The table for a page."""
    seeds = result["seeds"]
    many = len(seeds) > 1
    with_paper = any(row["paper"] for row in result["rows"])
    tested = bool(result["tested_against"])
    head = ["", *MEASURES]
    if with_paper:
        head += [f"paper, {result['paper_data']}: {' / '.join(MEASURES)}"]
    if tested:
        head += [f"mAP against {result['tested_against']} [95 %], p over vehicles"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in result["rows"]:
        cells = [row["label"]]
        for measure in MEASURES:
            ours = row["ours"][measure]
            cells.append(f"{ours['mean']:.2f}" + (f" ± {ours['deviation']:.2f}" if many else ""))
        if with_paper:
            cells.append(" / ".join(f"{v:.2f}" for v in row["paper"].values()) if row["paper"] else "")
        if tested:
            cells.append(_test(row["against"]))
        lines.append(_line(cells))
    if result["costs"]:
        lines += ["", *_costs(result["costs"])]
    runs = f"mean ± deviation of seeds {', '.join(map(str, seeds))}" if many else f"one run, seed {seeds[0]}"
    note = f"{result['preset']}; {result['scored_on']}; {runs}"
    return "\n".join([*lines, "", note])


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``TABLE.md`` and ``TABLE.json``; returns both."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{result['table']}.md", folder / f"{result['table']}.json"]
    paths[0].write_text(f"## {result['title']}\n\n{markdown(result)}\n", encoding="utf-8")
    paths[1].write_text(json.dumps(result, indent=2, default=list) + "\n", encoding="utf-8")
    return paths


def put_into(page: Path, result: Mapping[str, Any]) -> None:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` on a page.

    Raises:
        ValueError: the page has no such place.
    """
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- table {result['table']} -->\n", "<!-- end -->"
    if start not in text or end not in text.split(start, 1)[1]:
        raise ValueError(f"{page} has no place for the table: write {start.strip()} and {end} on lines of their own")
    before, rest = text.split(start, 1)
    page.write_text(f"{before}{start}{markdown(result)}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def _cards(harness: Harness, row: Row, run: Path) -> list[Card]:
    return [harness.card(run, test, row.level, row.scoring) for test in row.tests or tuple(harness.tests)]


def _mean(cards: Sequence[Card], ranking: str) -> dict[str, float]:
    return {key: statistics.fmean(card.content["rows"][ranking][key] for card in cards) for key in MEASURES}


def _held_out(run: Path) -> dict[str, float]:
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"][VALIDATION]
    return {key: 100 * found[name] for key, name in zip(MEASURES, ("mAP", "rank1", "rank5"), strict=True)}


def _summary(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def _scored_on(card: Mapping[str, Any]) -> str:
    data, queries = card["data"], card["queries"]["used"]
    where = f"{data['name']} ({data['fingerprint']}), {queries} queries, {data['gallery']['images']} gallery images"
    return f"{where}; {card['protocol']['in words']}"


def _omega(card: Card) -> float | None:
    spacetime = card.content["choices"]["spacetime"]
    return None if spacetime is None else spacetime["weight"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _test(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return ""
    low, high = test["interval"]
    return f"{test['difference']:+.2f} [{low:+.2f}, {high:+.2f}], {test['p_vehicles']:.3f}"


def _costs(found: Mapping[str, Any]) -> list[str]:
    head = ["network", "parameters, training", "at inference", "GMAC an image", "s a step", "images/s at extraction"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, cost in found["networks"].items():
        lines.append(
            _line(
                [
                    name,
                    f"{cost['parameters_training'] / 1e6:.1f} M",
                    f"{cost['parameters_inference'] / 1e6:.1f} M",
                    f"{cost['macs'] / 1e9:.2f}",
                    f"{cost['step_s']:.3f}",
                    f"{cost['images_per_s']:.0f}",
                ]
            )
        )
    return [*lines, "", found["how"]]
