"""Embeddings of any program, and a table of what they show, as a features file for tools/evaluate.py.

python tools/import_features.py --embeddings E.npy --table table.csv --out features.npz
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from torchreid_dfrst.commands import command
from torchreid_dfrst.inference.importing import import_features


@command
def main() -> None:
    """Read the arguments, put both together, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help=".npy, .npz, .pt, .csv, or a folder of .npy")
    parser.add_argument(
        "--table", type=Path, required=True, help="path,identity,camera,time,split[,track] as CSV or Parquet"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .npz")
    parser.add_argument("--data", default="table", help="name of the data set, such as vehicleid; decides the protocol")
    parser.add_argument("--model", help="what made the embeddings, for the card")
    args = parser.parse_args()
    extraction = import_features(args.embeddings, args.table, args.data, args.model)
    extraction.save(args.out)
    log = logging.getLogger(__name__)
    log.info("%s: %s", extraction.summary, args.out)


if __name__ == "__main__":
    main()
