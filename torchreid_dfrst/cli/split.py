"""Divide a labelled table into folds for training and testing.

    dfrst split table.csv --folds 5

writes table-fold1.csv, ... beside it, each a table for -s table --root table-fold1.csv. Folds are made of whole
vehicles; each tested vehicle gives one query for each camera that saw it, drawn by --seed.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst split``."""
    parser.add_argument(
        "table", type=Path, help="path,identity,camera,... as CSV or Parquet; a column split is replaced"
    )
    parser.add_argument("--folds", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of vehicles and queries (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the table's own)")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst split``."""
    from torchreid_dfrst.data.folds import split_table

    for path, summary in split_table(args.table, args.folds, args.seed, args.out):
        wrote(f"{path}: {summary}")
