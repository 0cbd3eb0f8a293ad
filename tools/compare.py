"""Put result cards side by side; refuse to rank those that measured different things; test the differences."""

from __future__ import annotations

import argparse
import json

import numpy as np

from torchreid_dfrst.commands import command
from torchreid_dfrst.evaluation.card import Card, names
from torchreid_dfrst.evaluation.compare import compare, text


@command
def main() -> int:
    """Compare cards; exit code 0 if all are comparable, 1 if not, 2 for a file that is no card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cards", nargs="+", metavar="CARD.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    arguments = parser.parse_args()
    # long paths would hide the numbers; what all have in common says nothing
    labels = names(np.array(arguments.cards)).tolist()
    cards = {label: Card.load(path) for label, path in zip(labels, arguments.cards, strict=True)}
    result = compare(cards)
    print(json.dumps(result, indent=2, ensure_ascii=False) if arguments.json else text(result, cards))
    return 1 if len(result["groups"]) > 1 else 0


if __name__ == "__main__":
    main()
