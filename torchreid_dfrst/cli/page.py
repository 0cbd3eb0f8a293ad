"""Write one HTML page of an evaluation: lists, map, times, and why.

    dfrst page features.npz --out page.html --weights RUN/weights.safetensors spacetime.model likelihood

It opens from disk in any browser, without a network. Settings are those of dfrst evaluate.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import SETTINGS, scoring, wrote
from torchreid_dfrst.cli.evaluate import read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst page``."""
    scoring(parser, SETTINGS)
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .html")
    parser.add_argument("--weights", type=Path, help="the network behind the features, to take likeness apart")
    parser.add_argument("--queries", type=int, default=200, help="how many, at equal steps (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst page``."""
    from torchreid_dfrst import evaluation
    from torchreid_dfrst.checks import within
    from torchreid_dfrst.files import require_writable
    from torchreid_dfrst.inference.pictures_and_pages import page_of_result

    within("queries", args.queries, lowest=1)
    if args.out.suffix not in (".html", ".htm"):
        raise ValueError(f"{args.out} does not end in .html, as pages do")
    require_writable(args.out)
    _, extraction, choices = read(args)
    page_of_result(evaluation.score(extraction, **choices), args.weights, args.queries).save(args.out)
    wrote(args.out)
