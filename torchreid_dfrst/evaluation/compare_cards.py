"""Result cards side by side; only those that measured the same thing are ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchreid_dfrst.evaluation.card import HEADING, SAMPLES, UNNAMED, Card, ends, few, numbers
from torchreid_dfrst.evaluation.intervals import FEWEST, MEASURES, bootstrap, interval, p_value


def compare(cards: Mapping[str, Card]) -> dict[str, Any]:
    """Group cards, by label, by what they measured, rank inside each group, and test each against the group's first.

    Returns:
        ``groups``: a list of ``cards`` (labels), ``ranking`` (rows of all cards by mAP, best first) and ``tests``
        (paired differences of average precision), JSON types only; ``differences``: why there are several groups.
    """
    groups: list[dict[str, Card]] = []
    for label, card in cards.items():
        fitting = [group for group in groups if not differences(next(iter(group.values())), card)]
        if fitting:
            fitting[0][label] = card
        else:
            groups.append({label: card})
    (reference, first), *others = (next(iter(group.items())) for group in groups)
    found = [f"{label} against {reference}: {why}" for label, card in others for why in differences(first, card)]
    return {"groups": [_compare_group(group) for group in groups], "differences": found}


def differences(a: Card, b: Card) -> list[str]:
    """Why two cards cannot be ranked against each other; empty if they can."""
    found = []
    one, two = (card.content["protocol"] for card in (a, b))
    unlike = [key for key in one | two if key not in ("name", "in words") and one.get(key) != two.get(key)]
    if unlike:
        found.append(f"protocol {one['name']} and {two['name']}")
    found += [f"protocol: {key} is {one.get(key)!r} and {two.get(key)!r}" for key in unlike]
    data = [card.content["data"] for card in (a, b)]
    if data[0]["fingerprint"] != data[1]["fingerprint"]:
        names = " and ".join(f"{d['name'] or UNNAMED} ({d['fingerprint']})" for d in data)
        found.append(f"test data {names} are not the same images, vehicles, cameras, times and distances")
    spoilt = [card.content["source"].get("contamination") for card in (a, b)]
    if spoilt[0] != spoilt[1]:
        found.append(f"contamination of the test images is {spoilt[0]} and {spoilt[1]}")
    return found


def paired(a: Card | Sequence[Card], row_a: str, b: Card | Sequence[Card], row_b: str) -> dict[str, Any] | None:
    """Difference of average precision, ``a`` minus ``b``, over the queries that both used.

    Each side is a ranking of a card, or of one per training: a query then counts with its mean over them.

    Returns:
        percent: ``difference``, its 95 % ``interval`` and ``p_vehicles``, both None for too few vehicles, the interval
        also where no query differs; ``queries`` and ``vehicles``: how many. None without the queries of both.
    """
    sides = [([side] if isinstance(side, Card) else list(side), f"{row}/mAP") for side, row in ((a, row_a), (b, row_b))]
    if any(column not in card.queries for cards, column in sides for card in cards):
        return None
    one, other = (_by_query(cards, column) for cards, column in sides)
    both = [key for key in one if key in other]
    if not both:
        return None
    vehicle = np.array([one[key][0] for key in both])
    difference = np.array([one[key][1] - other[key][1] for key in both])
    mean, vehicles, found, p = float(difference.mean()), len(np.unique(vehicle)), None, None
    if vehicles >= FEWEST:
        means = bootstrap(difference, vehicle, 10 * SAMPLES, ends=None)
        p = p_value(means)
        if difference.any():
            found = [round(100 * end, 4) for end in interval(means, mean)]
    return {
        "difference": round(100 * mean, 4),
        "interval": found,
        "p_vehicles": p,
        "queries": len(both),
        "vehicles": vehicles,
    }


def text(result: Mapping[str, Any], cards: Mapping[str, Card]) -> str:
    """What ``compare`` found, for a screen."""
    lines = []
    for number, group in enumerate(result["groups"], start=1):
        content = cards[group["cards"][0]].content
        data, protocol = content["data"], content["protocol"]["in words"]
        lines.append(f"group {number}: {data['name'] or UNNAMED} ({data['fingerprint']}); {protocol}")
        lines.append(f"intervals: {content['intervals']}")
        width = max(len(f"{entry['card']}: {entry['row']}") for entry in group["ranking"])
        lines.append(" " * width + HEADING + f"{'mAP, 95 %':>18}")
        for entry in group["ranking"]:
            lines.append(f"{entry['card'] + ': ' + entry['row']:<{width}}{numbers(entry)}{ends(entry['interval'])}")
        lines += [*map(_test_in_words, group["tests"]), ""]
    if result["differences"]:
        lines.append("NOT COMPARABLE: the groups measured different things and are not ranked against each other.")
        lines += [f"  {difference}" for difference in result["differences"]]
    return "\n".join(lines).rstrip()


def _compare_group(group: Mapping[str, Card]) -> dict[str, Any]:
    ranking = [
        {"card": label, "row": row, **{m: values[m] for m in MEASURES}, "interval": values["interval"]["mAP"]}
        for label, card in group.items()
        for row, values in card.content["rows"].items()
    ]
    tests: list[dict[str, Any]] = []
    reference, first = next(iter(group.items()))
    for label, card in group.items():
        rows = list(card.content["rows"])
        against = [(label, card, rows[0], row) for row in rows[1:]]
        if label != reference:
            against += [(reference, first, row, row) for row in rows if row in first.content["rows"]]
        for other, other_card, other_row, row in against:
            names = {"a": f"{label}: {row}", "b": f"{other}: {other_row}"}
            tests.append({**names, "test": paired(card, row, other_card, other_row)})
    return {"cards": list(group), "ranking": sorted(ranking, key=lambda entry: -entry["mAP"]), "tests": tests}


def _by_query(cards: Sequence[Card], column: str) -> dict[tuple[int, str], tuple[int, float]]:
    """Draw and name of each query to its vehicle and its mean over the cards that used it."""
    found: dict[tuple[int, str], tuple[int, list[float]]] = {}
    for card in cards:
        columns = (card.queries[name].tolist() for name in ("draw", "path", "identity", column))
        for draw, path, vehicle, value in zip(*columns, strict=True):
            found.setdefault((draw, path), (vehicle, []))[1].append(value)
    return {key: (vehicle, sum(values) / len(values)) for key, (vehicle, values) in found.items()}


def _test_in_words(entry: Mapping[str, Any]) -> str:
    test = entry["test"]
    if test is None:
        return f"{entry['a']} - {entry['b']}: no paired test, the .queries.npz beside a card is missing"
    return f"{entry['a']} - {entry['b']}: mAP {test['difference']:+.2f}{sure(test)}"


def sure(test: Mapping[str, Any]) -> str:
    """Interval and p-value behind a difference that ``paired`` found, or why there are none."""
    if test["p_vehicles"] is None:
        return f" ({few(test['vehicles'])})"
    if test["interval"] is None:
        return " (the same for every query)"
    low, high = test["interval"]
    p = "p < 0.001" if test["p_vehicles"] < 0.001 else f"p = {test['p_vehicles']:.3f}"
    return f" [{low:+.2f}, {high:+.2f}], {p} over {test['vehicles']} vehicles"
