"""List what is nearest to each query; needs no identities.

    dfrst rank features.npz --top 10 --out ranked.csv spacetime.model null

ranks as the last row of dfrst evaluate does, with its settings: with space and time, and re-ranked, unless
`spacetime.model null` and `evaluate.rerank false` say otherwise. A query's own image is not listed. --strangers 0.5
adds probabilities, calibrated on training images (dfrst extract --train).
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import SETTINGS, scoring, wrote
from torchreid_dfrst.cli.evaluate import read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst rank``."""
    scoring(parser, SETTINGS)
    parser.add_argument("--top", type=int, default=10, help="gallery images for each query (%(default)s)")
    words = "add the probability of each, where this share of queries has no match; not of re-ranked distances"
    parser.add_argument("--strangers", type=float, metavar="SHARE", help=words)
    out = "file with query, rank, gallery, distance; it ends in .csv, .json or .parquet"
    parser.add_argument("--out", type=Path, required=True, help=out)


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst rank``."""
    from torchreid_dfrst import files
    from torchreid_dfrst.evaluation.nearest import rank

    # what cannot be written is found before hours of work
    files.written_as(args.out, {})
    files.require_writable(args.out)
    _, extraction, choices = read(args)
    row, columns = rank(extraction, args.top, **choices, strangers=args.strangers)
    files.write({args.out: files.written_as(args.out, columns)})
    wrote(f"{args.out}: {extraction.summary}, ranked by {row}")
