"""Features of a data set: python tools/extract.py --weights RUN/weights.safetensors --root DIR -t city --out F.npz."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm import tqdm

from tools.studies.contamination import damage
from torchreid_dfrst.commands import command
from torchreid_dfrst.data.loading import parse_options
from torchreid_dfrst.inference import extract


@command
def main() -> None:
    """Read the arguments, extract, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights.safetensors or a checkpoint of training")
    parser.add_argument("--root", required=True, help="folder of the data sets")
    parser.add_argument("-t", "--target", required=True, help="a data set registered with torchreid, such as veri776")
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .npz")
    parser.add_argument(
        "--train",
        action="store_true",
        help="and training images, for spacetime.weight auto",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="of the forward pass")
    parser.add_argument("--on-bad-image", default="error", choices=["error", "skip"], help="for unreadable files")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="the data set's own")
    parser.add_argument("--contaminate", metavar="KIND:PERCENT", help="damage the test images, such as mosaic:20")
    args = parser.parse_args()
    extraction, skipped = extract(
        args.weights,
        args.root,
        args.target,
        train=args.train,
        batch_size=args.batch_size,
        workers=args.workers,
        precision=args.precision,
        on_bad_image=args.on_bad_image,
        contaminate=damage.one(args.contaminate) if args.contaminate else None,
        options=parse_options(args.option, args.target),
        bar=tqdm,
    )
    extraction.save(args.out)
    log = logging.getLogger(__name__)
    log.info("%s: %s", extraction.summary, args.out)
    for path in skipped:
        log.warning("skipped, could not be read: %s", path)


if __name__ == "__main__":
    main()
