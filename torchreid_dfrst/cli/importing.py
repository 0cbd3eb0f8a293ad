"""Turn embeddings of any other program into a features file.

    dfrst import --embeddings E.npy --table table.csv --out features.npz
    dfrst import --embeddings FOLDER --data veri776 --root DIR --out features.npz

The table says which image each embedding shows: path,identity,camera,time,split. Beside it, distances.csv (road
distances in metres under the names of the cameras) or cameras.csv (camera,x,y in metres, or camera,lat,lon) lets space
and time work. In place of a table, a data set says all of it. Options of either are data.options.NAME VALUE.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import ROOT, data_options, features_file, overrides, wrote

FORMATS = ".npy, .npz, .pt, .mat, .h5, .json, .csv, .parquet, or a folder of .npy"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst import``."""
    parser.add_argument("--embeddings", type=Path, required=True, help=FORMATS)
    table = "path,identity,camera,time,split[,track] as CSV or Parquet; distances.csv or cameras.csv beside it"
    parser.add_argument("--table", type=Path, help=table)
    parser.add_argument("--root", help=f"in place of --table: {ROOT}, of --data")
    parser.add_argument("--out", type=features_file, required=True, help="file to write, ending in .npz")
    parser.add_argument("--data", default="table", help="name of the data set, such as vehicleid; decides the protocol")
    parser.add_argument("--model", help="what made the embeddings, for the card")
    words = "none: nobody knows which camera took an image, and every match counts"
    parser.add_argument("--cameras", choices=["none"], help=words)
    overrides(parser, "data.options.NAME VALUE")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst import``."""
    from torchreid_dfrst.files import require_writable
    from torchreid_dfrst.inference.import_features import import_features

    require_writable(args.out)
    options, _ = data_options(args.overrides)
    extraction = import_features(args.embeddings, args.table, args.data, args.model, args.cameras, args.root, options)
    extraction.save(args.out)
    network = extraction.network
    along = f"; distances: {network.kind}" if network is not None and network.kind != "road" else ""
    wrote(f"{args.out}: {extraction.summary}; {extraction.source['rows']}{along}")
