"""Score features: appearance, + space and time, + re-ranking, + both; as a table, a card and pictures.

    python tools/evaluate.py runs/demo/features.npz spacetime.weight 0.1 rerank.k1 30

Overrides are `section.key value` pairs of the sections spacetime, rerank and evaluate: `spacetime.model null` leaves
space and time out, `evaluate.rerank false` re-ranking; `evaluate.protocol image-to-track-min` ranks tracks (the default
is the data set's own protocol).
`--contaminate mixed` extracts the test images again, damaged at seven levels, and writes a table and a card of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from tools.studies.contamination import measure
from torchreid_dfrst import config, evaluation, retrieval, training
from torchreid_dfrst.commands import command
from torchreid_dfrst.inference.showcase import missing_images, show_attention, show_rankings


@command
def main() -> None:
    """Read the arguments, score, print and write."""
    keys = config.listing(evaluation.sections())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=keys, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("features", type=Path, help="file made by tools/extract.py")
    parser.add_argument("--config-file", type=Path, help="YAML; sections that only training needs are passed over")
    parser.add_argument(
        "--weights",
        type=Path,
        help="the network behind the features, for attention maps and --contaminate; settings come from --config-file",
    )
    parser.add_argument("--out", type=Path, help="folder for card.json and pictures (default: beside the features)")
    parser.add_argument("--lists", type=int, default=8, help="queries in each ranked-list picture (0: no pictures)")
    parser.add_argument("--json", action="store_true", help="print the card instead of the table")
    parser.add_argument("--contaminate", metavar="KIND[:PERCENT,...]", help="mosaic, color-cast, brightness or mixed")
    parser.add_argument("--root", help="folder of the data sets, for --contaminate")
    parser.add_argument("--workers", type=int, default=2, help="loading processes, for --contaminate")
    parser.add_argument("overrides", nargs="*", help="section.key value")
    args = parser.parse_intermixed_args()
    if args.lists < 0:
        raise ValueError(f"--lists is {args.lists}: how many queries to draw, 0 for none")
    settings = config.load(args.config_file, [], training.sections())
    for name, section in config.load(None, args.overrides, evaluation.sections()).items():
        settings[name].update(section)
    out = args.out or args.features.parent

    extraction = retrieval.Extraction.load(args.features)
    choices = {name: settings[name] for name in evaluation.sections()}
    if args.contaminate:
        if not args.weights or not args.root:
            parser.error("--contaminate extracts features of damaged images: give --weights and --root")
        words = args.contaminate, args.weights, args.root, choices, evaluation.command_line(sys.argv)
        cards = measure.measure(extraction, *words, workers=args.workers, bar=tqdm)
        written = measure.save(cards, out / "contamination")
        table = {name: card.content for name, card in cards.items()}
        print(json.dumps(table) if args.json else measure.table(cards))
        print("\n".join(f"wrote {path}" for path in written), file=sys.stderr)
        return
    result = evaluation.score(extraction, **choices)
    card = evaluation.card(result, extraction, evaluation.command_line(sys.argv))
    card.save(out / "card.json")
    print(json.dumps(card.content) if args.json else card.table())

    written = [out / "card.json"]
    missing = missing_images(result) if args.lists else ""
    if missing:
        print(f"no pictures: {missing}", file=sys.stderr)
    elif args.lists:
        written += show_rankings(result, out / "pictures", args.lists)
        if args.weights:
            written += show_attention(args.weights, result, out / "pictures", (args.lists + 1) // 2)
    print("\n".join(f"wrote {path}" for path in written), file=sys.stderr)


if __name__ == "__main__":
    main()
