"""Extract the features of a data set with a trained network.

    dfrst extract --weights RUN/weights.safetensors --root DIR -t city --out features.npz
    dfrst extract --weights model.pth.tar-60 --model osnet_x1_0 --root DIR -t city --out features.npz

The second is for files that do not say what they hold, such as torchreid's. Options of the data set's own are
data.options.NAME VALUE, those of a model that is named are model.NAME VALUE.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli.arguments import NAME, ROOT, data_options, described, features_file, overrides, progress, wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst extract``."""
    parser.add_argument(
        "--weights", type=Path, required=True, help="weights.safetensors, a checkpoint, or a state dict"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the network of a file that does not say it, torchreid's or ours"
    )
    size = "with --model: the images that it takes (default: 256 128, as torchreid's)"
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help=size)
    parser.add_argument("--root", required=True, help=ROOT)
    parser.add_argument("-t", "--target", required=True, help=NAME)
    parser.add_argument("--out", type=features_file, required=True, help="file to write, ending in .npz")
    parser.add_argument("--train", action="store_true", help="training images too, for spacetime.weight auto")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loading processes (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="of the forward pass")
    parser.add_argument("--on-bad-image", default="error", choices=["error", "skip"], help="for unreadable files")
    overrides(parser, "data.options.NAME VALUE")


def run(args: argparse.Namespace, **more: Any) -> None:
    """Extract and write; ``more`` are keyword arguments of ``inference.extract`` that have no word here."""
    from torchreid_dfrst.files import require_writable
    from torchreid_dfrst.inference import extract
    from torchreid_dfrst.training import sections

    names = ("train", "batch_size", "workers", "precision", "on_bad_image")
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    options["options"], model = data_options(args.overrides, sections()["model"])
    options["described"] = described(args.model, args.size, model)
    require_writable(args.out)
    extraction, skipped = extract(args.weights, args.root, args.target, bar=progress, **options, **more)
    extraction.save(args.out)
    for path in skipped:
        logging.getLogger(__name__).warning("skipped, could not be read: %s", path)
    wrote(f"{args.out}: {extraction.summary}")
