"""List what is nearest to each query; needs no identities.

    dfrst rank features.npz --top 10 --out ranked.csv spacetime.model null

ranks as the last row of dfrst evaluate does, with its settings: with space and time, and re-ranked, unless
`spacetime.model null` and `evaluate.rerank false` say otherwise. A query's own image is not listed.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import CONFIG, wrote
from torchreid_dfrst.cli.evaluate import read


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst rank``."""
    words = "file of dfrst extract or dfrst import, and settings as dfrst evaluate takes them"
    parser.add_argument("words", nargs="+", metavar="FEATURES | section.key value", help=words)
    parser.add_argument("--config-file", help=CONFIG)
    parser.add_argument("--top", type=int, default=10, help="gallery images for each query (%(default)s)")
    out = "file with query, rank, gallery, distance; it ends in .csv, .json or .parquet"
    parser.add_argument("--out", type=Path, required=True, help=out)


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst rank``."""
    from torchreid_dfrst.evaluation.nearest import rank
    from torchreid_dfrst.files import written_as

    written_as(args.out, {})  # an ending that nothing writes is found before hours of work
    _, extraction, choices = read(args)
    row, columns = rank(extraction, args.top, **choices)
    from torchreid_dfrst import files

    files.write({args.out: written_as(args.out, columns)})
    wrote(f"{args.out}: {extraction.summary}, ranked by {row}")
