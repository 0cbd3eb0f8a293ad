"""Train a network: ``python tools/train.py --config-file configs/dfrst_veri776.yaml --root DIR``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from torchreid_dfrst import config
from torchreid_dfrst.commands import command
from torchreid_dfrst.training import sections, train
from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError


def parser() -> argparse.ArgumentParser:
    """Torchreid's arguments."""
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog=config.listing(sections()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config-file", help="YAML file, see configs/")
    made.add_argument("--root", help="folder of the data sets (data.root)")
    made.add_argument("-s", "--sources", nargs="+", help="data sets to train on (data.sources)")
    made.add_argument("-t", "--targets", nargs="+", help="data sets to evaluate on (data.targets)")
    made.add_argument("--transforms", nargs="+", help="augmentation (data.transforms)")
    made.add_argument("--resume", help="a checkpoint, or auto for the newest whole one in train.save_dir")
    made.add_argument("opts", nargs=argparse.REMAINDER, help="section.key value pairs, such as optim.lr 1e-4")
    return made


@command
def main() -> int | None:
    """Read the arguments, train, say where the result is."""
    arguments = parser().parse_args()
    overrides = [word for word in arguments.opts if word != "--"]
    lists = {name: getattr(arguments, name) for name in ("sources", "targets", "transforms")}
    for name, words in lists.items():
        # argparse gives a list everything up to the next dash, overrides included
        end = next((place for place, word in enumerate(words or []) if "." in word), None)
        if words and end is not None:
            lists[name], overrides = words[:end], [*words[end:], *overrides]
    settings = config.load(arguments.config_file, overrides, sections())
    settings["data"].update({name: words for name, words in lists.items() if words})
    if arguments.root is not None:
        settings["data"]["root"] = arguments.root
    if arguments.resume is not None:
        settings["train"]["resume"] = arguments.resume
    with logging_redirect_tqdm():
        try:
            train(settings, bar=tqdm, command=[shlex.join(sys.argv)])
        except StoppedError as stopped:
            logging.getLogger(__name__).warning("%s", stopped)
            return EXIT_CODE
    return None


if __name__ == "__main__":
    main()
