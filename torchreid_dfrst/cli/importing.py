"""Turn embeddings of any other program into a features file.

    dfrst import --embeddings E.npy --table table.csv --out features.npz

The table says which image each embedding shows: path,identity,camera,time,split.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", type=Path, required=True, help=".npy, .npz, .pt, .csv, or a folder of .npy")
    table = "path,identity,camera,time,split[,track] as CSV or Parquet"
    parser.add_argument("--table", type=Path, required=True, help=table)
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .npz")
    parser.add_argument("--data", default="table", help="name of the data set, such as vehicleid; decides the protocol")
    parser.add_argument("--model", help="what made the embeddings, for the card")
    words = "none: nobody knows which camera took an image, and every match counts"
    parser.add_argument("--cameras", choices=["none"], help=words)


def run(args: argparse.Namespace) -> None:
    from torchreid_dfrst.inference.importing import import_features

    extraction = import_features(args.embeddings, args.table, args.data, args.model, args.cameras)
    extraction.save(args.out)
    wrote(f"{args.out}: {extraction.summary}")
