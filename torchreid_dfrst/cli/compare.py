"""Put result cards side by side and test their differences.

Only cards that measured the same are ranked. Exit code 0 if all did, 1 if not, 2 for a file that is no card.
"""

import argparse

from torchreid_dfrst.cli.arguments import say


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst compare``."""
    parser.add_argument("cards", nargs="+", metavar="CARD.json", help="files of dfrst evaluate")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Run ``dfrst compare``."""
    import numpy as np

    from torchreid_dfrst.evaluation.card import Card
    from torchreid_dfrst.evaluation.compare_cards import compare, text
    from torchreid_dfrst.names import without_common_folder

    # long paths would hide the numbers; what all have in common says nothing
    labels = without_common_folder(np.array(args.cards)).tolist()
    cards = {label: Card.load(path) for label, path in zip(labels, args.cards, strict=True)}
    result = compare(cards)
    say(result if args.json else text(result, cards), indent=2)
    return 1 if len(result["groups"]) > 1 else 0
