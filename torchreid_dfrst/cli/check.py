"""Examine a data set before training on it.

    dfrst check --root DIR -t veri776

Exit code 0 clean, 1 warnings, 2 errors.
"""

import argparse
import functools
import logging

from torchreid_dfrst.cli.arguments import NAME, ROOT, data_options, overrides, progress, say


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst check``."""
    parser.add_argument("-t", "--target", required=True, help=NAME)
    parser.add_argument("--root", required=True, help=ROOT)
    parser.add_argument("--no-images", action="store_true", help="look at names, cameras and times only")
    parser.add_argument("--all", action="store_true", help="list everything concerned, not the first three of each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    overrides(parser, "data.options.NAME VALUE")


def run(args: argparse.Namespace) -> int:
    """Run ``dfrst check``."""
    from torchreid_dfrst.doctor import check_dataset
    from torchreid_dfrst.doctor.findings import EXAMPLES

    # the report says it all, in order
    logging.getLogger("torchreid_dfrst.data").propagate = False
    bar = functools.partial(progress, desc="images")
    options, _ = data_options(args.overrides)
    report = check_dataset(args.target, args.root, images=not args.no_images, bar=bar, **options)
    shown = None if args.all else EXAMPLES
    say(report.to_json(shown) if args.json else report.text(shown), indent=2)
    return report.exit_code
