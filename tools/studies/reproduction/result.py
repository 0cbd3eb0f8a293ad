"""A table as measured: our figures, the paper's beside them, and all that it takes to get them again."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tools.studies.reproduction import held_out, paper
from tools.studies.reproduction.cost import costs
from tools.studies.reproduction.harness import Harness
from tools.studies.reproduction.preset import merge
from tools.studies.reproduction.tables import BEST_PEER, TABLES, WITHOUT_ST, Row, Table, ours
from torchreid_dfrst import files
from torchreid_dfrst.evaluation import APPEARANCE
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.evaluation.compare_cards import paired, sure
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.version import versions

MEASURES = ("mAP", "R1", "R5")
IMAGE_TO_TRACK = "image-to-track-min"


def measure(harness: Harness, name: str, seeds: Sequence[int], only: Sequence[str] | None = None) -> dict[str, Any]:
    """Every row of a table, JSON types only; trains what is not trained yet.

    Args:
        harness: where the networks are.
        name: a key of ``TABLES``.
        seeds: one training of each row per seed.
        only: labels of the rows to make, beside the one they are tested against; None for all.

    Returns:
        ``rows``: per row ``label``, ``ours`` (measure to ``mean``, ``deviation`` (of the sample; None for one seed) and
        ``values``, percent), ``tracks`` (the same by image-to-track search, which the paper's VeRi-776 figures are;
        None beside other data and where the gallery has no tracks), ``paper`` (measure to percent, or None),
        ``against`` (the ``reference`` row's label and the paired test over all seeds, see ``compare.paired``; None
        without one, or for a mean over several test sets), ``omega`` (per seed; None by appearance) and what made it;
        beside them what was scored, machine, versions and command.

    Raises:
        ValueError, KeyError, OSError: as ``Harness`` raises them.
    """
    table, rows = TABLES[name], []
    made = chosen(table, table.rows(harness.preset), only)
    # per row and seed the cards of its test sets
    cards = {row.label: [_cards(harness, row, seed) for seed in seeds] for row in made}
    scores = {row.label: [_mean(of_seed, row.ranking) for of_seed in cards[row.label]] for row in made}
    tracked = table.data == paper.VERI and all(harness.has_tracks(test) for test in harness.tests)
    summary = {
        label: {key: _summary([score[key] for score in found]) for key in MEASURES} for label, found in scores.items()
    }
    for row in made:
        reference, test = _reference(table, row, made, summary), None
        if reference is not None and len(cards[row.label][0]) == 1:
            ends = [([found[0] for found in cards[one.label]], one.ranking) for one in (row, reference)]
            test = paired(*ends[0], *ends[1])
        rows.append(
            {
                "label": row.label,
                "ours": summary[row.label],
                "tracks": _by_tracks(harness, row, seeds) if tracked else None,
                "paper": None if row.paper is None else dict(zip(MEASURES, row.paper, strict=True)),
                "against": None if reference is None or test is None else {"reference": reference.label, **test},
                "network": row.network,
                "change": row.change,
                "ranking": row.ranking,
                "omega": [_omega(found[0]) for found in cards[row.label]],
                "damaged_percent": row.level,
            }
        )
    scored = [card.content for row in made for card in cards[row.label][0]]
    return {
        "table": name,
        "title": table.title,
        "preset": harness.preset.title + _on_top(getattr(harness.preset, table.on_top) if table.on_top else {}),
        "name": harness.preset.name,
        "scored_on": ("training identities that were held out, of " if made[0].held_out else "") + _scored_on(scored),
        "data": list({card["data"]["fingerprint"]: card["data"] for card in scored}.values()),
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
    tested, tracked = bool(result["tested_against"]), bool(result["rows"][0]["tracks"])
    head = ["", *MEASURES]
    if tracked:
        head += [f"image-to-track: {' / '.join(MEASURES)}"]
    if with_paper:
        head += [f"paper, {result['paper_data']}: {' / '.join(MEASURES)}"]
    if tested:
        head += [f"mAP against {result['tested_against']} [95 %], p over vehicles"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in result["rows"]:
        chosen = ", ".join(f"{omega:.2f}" for omega in row["omega"]) if row["label"].endswith(" auto") else ""
        cells = [row["label"] + (f" ({chosen})" if chosen else "")]
        cells += [_cell(row["ours"][measure]) for measure in MEASURES]
        if tracked:
            cells.append(" / ".join(_cell(row["tracks"][measure]) for measure in MEASURES))
        if with_paper:
            cells.append(" / ".join(f"{v:.2f}" for v in row["paper"].values()) if row["paper"] else "")
        if tested:
            cells.append(_test(row["against"], result["tested_against"]))
        lines.append(_line(cells))
    if result["costs"]:
        lines += ["", *_costs(result["costs"])]
    runs = f"mean ± sample deviation of seeds {', '.join(map(str, seeds))}" if many else f"one run, seed {seeds[0]}"
    several = tested and not any(row["against"] for row in result["rows"])
    untested = "; differences are not tested, as the figures are means over several test sets" if several else ""
    note = f"{result['preset']}; {result['scored_on']}; {runs}{untested}"
    return "\n".join([*lines, "", note])


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``TABLE.md`` and ``TABLE.json``; returns both."""
    paths = [folder / f"{result['table']}.md", folder / f"{result['table']}.json"]
    texts = f"## {result['title']}\n\n{markdown(result)}\n", json.dumps(result, indent=2, default=list) + "\n"
    files.write({path: text.encode() for path, text in zip(paths, texts, strict=True)})
    return paths


def put_into(page: Path, result: Mapping[str, Any]) -> None:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` on a page.

    Raises:
        ValueError, FileNotFoundError: as ``around`` raises them.
    """
    before, after = around(page, result["table"])
    files.write({page: f"{before}{markdown(result)}\n{after}".encode()})


def around(page: Path, table: str) -> tuple[str, str]:
    """What stands on a page before and after the place of a table, the place's two marks included.

    Raises:
        ValueError: the page has no such place.
        FileNotFoundError: there is no such page.
    """
    if not page.is_file():
        raise FileNotFoundError(f"no page at {page}: give --page a file that has a place for each table")
    start, end = f"<!-- table {table} -->\n", "<!-- end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for the table: write {start.strip()} and {end} on lines of their own")
    return before + start, end + after


def _cards(harness: Harness, row: Row, seed: int) -> list[Card]:
    run, scoring = harness.train(row.network, row.change, seed), row.scoring
    if row.held_out:
        return [held_out.score(harness, run)]
    if isinstance(scoring.get("spacetime", {}).get("weight"), str):
        # a network knows the vehicles it was trained on too well to choose on them
        chooser = harness.train(row.network, merge(harness.preset.selection, row.change), seed)
        scoring = merge(scoring, {"spacetime": {"weight": held_out.omega(harness, chooser, scoring)}})
    return [harness.card(run, test, row.level, scoring) for test in row.tests or tuple(harness.tests)]


def _by_tracks(harness: Harness, row: Row, seeds: Sequence[int]) -> dict[str, Any]:
    searched = replace(row, scoring=merge(row.scoring, {"evaluate": {"protocol": IMAGE_TO_TRACK}}))
    found = [_mean(_cards(harness, searched, seed), row.ranking) for seed in seeds]
    return {key: _summary([score[key] for score in found]) for key in MEASURES}


def chosen(table: Table, rows: list[Row], only: Sequence[str] | None) -> list[Row]:
    """The rows with these labels and the one that a table tests against; all where no label is given.

    Raises:
        KeyError: no row has that label.
    """
    labels = [row.label for row in rows]
    for label in only or ():
        if label not in labels:
            raise KeyError(f"no row {label!r}{nearest(label, labels)}")
    return [row for row in rows if only is None or row.label in (*only, table.against)]


def _reference(table: Table, row: Row, made: Sequence[Row], summary: Mapping[str, Any]) -> Row | None:
    """The row that ``row`` is tested against, if any."""
    others = [other for other in made if other is not row]
    if table.against == WITHOUT_ST:
        alone = (other for other in others if other.network == row.network and other.ranking == APPEARANCE)
        return next(alone, None)
    if table.against != BEST_PEER:
        return next((other for other in others if other.label == table.against), None)
    rivals = [other for other in others if not ours(other.network) and other.ranking == row.ranking]
    return max(rivals, key=lambda other: summary[other.label]["mAP"]["mean"]) if ours(row.network) and rivals else None


def _mean(cards: Sequence[Card], ranking: str) -> dict[str, float]:
    return {key: statistics.fmean(card.content["rows"][ranking][key] for card in cards) for key in MEASURES}


def _summary(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.2f}" + ("" if found["deviation"] is None else f" ± {found['deviation']:.2f}")


def _scored_on(cards: Sequence[Mapping[str, Any]]) -> str:
    """Every test set once, then how it was scored; sets that were scored alike together."""
    sets: dict[str, list[str]] = {}
    for card in cards:
        data, queries = card["data"], card["queries"]["used"]
        where = f"{data['name']} ({data['fingerprint']}), {queries} queries, {data['gallery']['images']} gallery images"
        sets.setdefault(card["protocol"]["in words"], []).append(where)
    return "; ".join(f"{' and '.join(dict.fromkeys(where))}; {words}" for words, where in sets.items())


def _on_top(sections: Mapping[str, Mapping[str, Any]]) -> str:
    words = [f"{section}.{key} {value}" for section, keys in sections.items() for key, value in keys.items()]
    return f"; here with {', '.join(words)}" if words else ""


def _omega(card: Card) -> float | None:
    spacetime = card.content["choices"]["spacetime"]
    return None if spacetime is None else spacetime["weight"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _test(test: Mapping[str, Any] | None, against: str) -> str:
    if test is None:
        return ""
    name = f"{test['reference']}: " if against == BEST_PEER else ""
    return f"{name}{test['difference']:+.2f}{sure(test)}"


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
