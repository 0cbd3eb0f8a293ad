"""How results fall as the test images are damaged, level by level.

    python -m tools.studies.contamination FEATURES --weights W --root DIR --contaminate mixed[:5,10,20]

takes features of the sound images as level 0, extracts the test images again at each level (seven by default), prints a
table and writes it and a card of each level. Options of scoring are those of dfrst evaluate.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from tools.studies.contamination import measure
from torchreid_dfrst import config, evaluation, training
from torchreid_dfrst.cli import command
from torchreid_dfrst.cli.arguments import wrote
from torchreid_dfrst.retrieval import Extraction


@command
def main() -> None:
    """Read the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="file of dfrst extract, made from the sound images")
    kinds = "mosaic, color-cast, brightness or mixed"
    parser.add_argument("--contaminate", required=True, metavar="KIND[:PERCENT,...]", help=kinds)
    parser.add_argument("--weights", type=Path, required=True, help="the network behind the features")
    parser.add_argument("--root", required=True, help="folder that holds data sets, or the data set's own folder")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--config-file", help="YAML; sections that only training needs are passed over")
    parser.add_argument(
        "--out", type=Path, help="results go into its folder contamination (default: beside the features)"
    )
    parser.add_argument("--json", action="store_true", help="print the cards instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="section.key value", help="such as rerank.k1 30")
    args = parser.parse_intermixed_args()
    settings = config.load(args.config_file, [], training.sections())
    known = evaluation.sections()
    choices = config.override({name: settings[name] for name in known}, args.overrides, known)
    again = f"python -m tools.studies.contamination {shlex.join(sys.argv[1:])}"
    extraction, options = Extraction.load(args.features), {"workers": args.workers, "bar": tqdm}
    cards = measure.measure(extraction, args.contaminate, args.weights, args.root, choices, again, **options)
    table = {name: card.content for name, card in cards.items()}
    print(json.dumps(table) if args.json else measure.table(cards))
    wrote(*measure.save(cards, (args.out or args.features.parent) / "contamination"))


if __name__ == "__main__":
    main()
