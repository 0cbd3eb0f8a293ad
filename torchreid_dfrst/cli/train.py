"""Train a network.

    dfrst train --config-file dfrst_veri776 --root DIR optim.lr 3e-4

Everything that a configuration holds can be given as section.key value, which counts before the file.
"""

import argparse

from torchreid_dfrst.cli.arguments import CONFIG, ROOT, ListKeys, overrides

LISTS = ("sources", "targets", "transforms")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst train``."""
    parser.add_argument("--config-file", help=CONFIG)
    parser.add_argument("--root", help=f"{ROOT} (data.root)")
    parser.add_argument("-s", "--sources", nargs="+", help="data sets to train on (data.sources)")
    parser.add_argument("-t", "--targets", nargs="+", help="data sets to evaluate on (data.targets)")
    parser.add_argument("--transforms", nargs="+", help="augmentation (data.transforms)")
    parser.add_argument("--resume", help="a checkpoint, or auto for the newest whole one in train.save_dir")
    parser.add_argument("--list-keys", action=ListKeys, const="training")
    overrides(parser, "such as optim.lr 1e-4 or optim.lr=1e-4; --list-keys names all")


def run(args: argparse.Namespace) -> int | None:
    """Run ``dfrst train``."""
    import logging

    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from torchreid_dfrst import config
    from torchreid_dfrst.training import sections, train
    from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError

    words = list(args.overrides)
    given = {name: getattr(args, name) for name in LISTS}
    for name, values in given.items():
        # argparse gives a list everything up to the next dash, overrides included
        end = next((place for place, word in enumerate(values or []) if "." in word), None)
        if values and end is not None:
            given[name], words = values[:end], [*values[end:], *words]
    settings = config.load(args.config_file, words, sections())
    options = {f"data.{name}": values or None for name, values in given.items()}
    for dotted, value in {**options, "data.root": args.root, "train.resume": args.resume}.items():
        if value is None:
            continue
        if dotted in config.pairs(words):
            raise ValueError(f"{dotted} is given twice, as {dotted} and as --{dotted.partition('.')[2]}: leave one out")
        section, _, key = dotted.partition(".")
        settings[section][key] = value
    # how a run goes on is its result as much as how it ends
    logging.getLogger("torchreid_dfrst.training").setLevel(logging.INFO)
    with logging_redirect_tqdm():
        try:
            train(settings, bar=tqdm, command=[args.command])
        except StoppedError as stopped:
            logging.getLogger(__name__).warning("%s", stopped)
            return EXIT_CODE
    return None
