"""How results fall as more of each test image is damaged (paper, Section IV-D4, Tables VI and VII, Fig. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.studies.contamination.damage import Contamination, parse
from torchreid_dfrst import evaluation
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.evaluation.intervals import MEASURES
from torchreid_dfrst.inference import extract, open_network
from torchreid_dfrst.retrieval import Extraction


def measure(
    clean: Extraction,
    contaminate: str,
    weights: str | Path,
    root: str,
    choices: Mapping[str, Mapping[str, Any]],
    command: str,
    **options: Any,
) -> dict[str, Card]:
    """Score the features of damaged images at several levels.

    Space and time, and whatever is chosen on training images, come from ``clean``: training images are not damaged.

    Args:
        clean: features of the sound images; they are level 0.
        contaminate: kind and levels, see ``data.contamination.parse``.
        weights: the network behind ``clean``.
        root: folder of the data sets.
        choices: keyword arguments of ``evaluation.score``.
        command: the command line, for the cards.
        options: further keyword arguments of ``inference.extract``.

    Returns:
        Cards by name, such as ``mixed-20``, in the order of the levels asked for.

    Raises:
        KeyError: an unknown kind.
        ValueError: a level outside [0, 100], or ``clean`` was made by another network or does not say of which data.
    """
    kind, levels = parse(contaminate)
    name = clean.source.get("data")
    if name is None or open_network(weights)[1]["weights_sha256"] != clean.source.get("weights_sha256"):
        raise ValueError(f"{weights} is not the network that made these features of {name}: pass the one that did")
    cards = {}
    for level in levels:
        damaged = clean
        if level:
            again = {name: clean.source[name] for name in ("precision", "options") if name in clean.source} | options
            made, _ = extract(weights, root, name, contaminate=Contamination(kind, level), **again)
            damaged = replace(made, train_features=clean.train_features)
        cards[f"{kind}-{level:g}"] = evaluation.card(evaluation.score(damaged, **choices), damaged, command)
    return cards


def table(cards: Mapping[str, Card]) -> str:
    """One line per level and row of its card, as Markdown; shares in percent."""
    lines = ["| damaged pixels | ranking | " + " | ".join(MEASURES) + " |", "|---|---|" + "---|" * len(MEASURES)]
    for name, card in cards.items():
        for row, values in card.content["rows"].items():
            numbers = " | ".join(f"{values[measure]:.2f}" for measure in MEASURES)
            lines.append(f"| {name.replace('-', ' ')} % | {row} | {numbers} |")
    return "\n".join(lines)


def save(cards: Mapping[str, Card], folder: Path) -> list[Path]:
    """Write each card as ``NAME.json`` and all of them as ``table.md``; returns the files."""
    written = [folder / f"{name}.json" for name in cards]
    for card, path in zip(cards.values(), written, strict=True):
        card.save(path)
    (folder / "table.md").write_text(table(cards) + "\n", encoding="utf-8")
    return [folder / "table.md", *written]
