"""Examine a data set before training on it: exit code 0 clean, 1 warnings, 2 errors."""

from __future__ import annotations

import argparse
import functools
import json
import logging

from tqdm import tqdm

from torchreid_dfrst.commands import command
from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.loading import parse_options
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.doctor.findings import EXAMPLES


@command
def main() -> int:
    """Read the arguments, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(sorted(DATASETS)))
    parser.add_argument("--root", required=True, help="as for training")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="the data set's own")
    parser.add_argument("--no-images", action="store_true", help="look at names, cameras and times only")
    parser.add_argument("--all", action="store_true", help="list everything concerned, not the first three of each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    # the report says it all, in order
    logging.getLogger("torchreid_dfrst.data").propagate = False
    bar = functools.partial(tqdm, desc="images", disable=None)
    given = parse_options(arguments.option, arguments.dataset)
    report = check_dataset(arguments.dataset, arguments.root, images=not arguments.no_images, bar=bar, **given)
    shown = None if arguments.all else EXAMPLES
    print(json.dumps(report.to_json(shown), indent=2) if arguments.json else report.text(shown))
    return report.exit_code


if __name__ == "__main__":
    main()
