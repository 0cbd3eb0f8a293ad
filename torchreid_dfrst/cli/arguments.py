"""Arguments that several subcommands take, so that a word means the same in all of them."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from torchreid_dfrst.messages import nearest, printable

USER_ERROR = 2
SIZE = (256, 128)
"""Height and width of images where nothing says them, as torchreid's."""
SCORING = ("spacetime", "rerank", "evaluate")
"""Sections of a configuration that scoring reads."""
SETTINGS = "file of dfrst extract or dfrst import, and settings as dfrst evaluate takes them"
ROOT = "folder that holds data sets, or the data set's own folder"
NAME = "a data set's name, such as veri776"
CONFIG = "YAML file, or the name of one that is shipped, such as dfrst_veri776"


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names and once only, and ends in one line where they are wrong."""

    def __init__(self, **given: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **given)
        self.register("action", None, Once)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the right words stand."""
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            message = f"no option {unknown[1]}{nearest(unknown[1], self._option_string_actions)}"
        self.exit(USER_ERROR, f"error: {printable(message)} (see {self.prog} --help)\n")


class Once(argparse.Action):
    """Store a value; an option that is given twice would lose the first one in silence."""

    given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """As argparse does it."""
        if option_string is not None and self.given:
            raise argparse.ArgumentError(self, "given twice: leave one out")
        self.given = option_string is not None
        setattr(namespace, self.dest, values)


class ListKeys(argparse.Action):
    """Print the sections and keys of the configuration that the package ``const`` reads, and end."""

    def __init__(self, **given: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, help="list all sections and keys, and end", **given)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Only now import what the sections belong to."""
        from torchreid_dfrst.config import listing

        say(listing(importlib.import_module(f"torchreid_dfrst.{self.const}").sections()))
        parser.exit()


def overrides(parser: argparse.ArgumentParser, what: str) -> None:
    """Words of a configuration, anywhere on the command line."""
    parser.add_argument("overrides", nargs="*", metavar="section.key value", help=what)


def scoring(parser: argparse.ArgumentParser, what: str, also: str = "") -> None:
    """A features file and the configuration of its scoring, see ``evaluate.read``."""
    parser.add_argument("words", nargs="+", metavar="FEATURES | section.key value", help=what)
    parser.add_argument("--config-file", help=CONFIG + also)


def features_among(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The features file among the words of a configuration, wherever it stands, and the other words."""
    file, others, rest = None, [], iter(words)
    for word in rest:
        if word.partition(".")[0] in SCORING and not word.endswith(".npz"):
            others += [word] if "=" in word else [word, *itertools.islice(rest, 1)]
        elif file is None and "=" not in word:
            file = word
        else:
            others.append(word)
    return file, others


def features_file(word: str) -> Path:
    """A file of features to write; refused before hours of work, not after."""
    if Path(word).suffix != ".npz":
        raise argparse.ArgumentTypeError(f"{word} does not end in .npz, as files of features do")
    return Path(word)


def data_options(words: Sequence[str], model: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data set's own options, ``data.options.NAME VALUE``, and those of a model, ``model.NAME VALUE``.

    ``model`` holds the keys that a model may have, as ``config.keywords`` gives them. Raises as ``config.load`` does.
    """
    from torchreid_dfrst import config

    data = config.Keywords({"options": Mapping[str, Any]})
    settings = config.load(None, words, {"data": data, **({"model": model} if model else {})})
    return settings["data"].get("options", {}), settings.get("model", {})


def described(name: str | None, size: Sequence[int] | None, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``open_network`` is told of a file that does not say what network it holds; None without a name.

    Raises:
        ValueError: the size of its images or options of it, without its name, or weights beside those of the file.
    """
    if name is None:
        if size or model:
            raise ValueError("--size and model.NAME are of the network that --model names: give it too")
        return None
    for option in ("weights", "pretrained"):
        if option in model:
            raise ValueError(f"model.{option} is for training: the weights are those of the file")
    height, width = size or SIZE
    return {"model": {**model, "name": name}, "height": height, "width": width}


def moment(word: str) -> float:
    """A time of the command line in seconds, see ``data.times``; says so where it is taken as UTC."""
    from torchreid_dfrst.data.times import ACCEPTED, lacks_zone, read_times

    seconds, unread = read_times([word], "the command line")
    if unread or seconds[0] != seconds[0]:
        raise ValueError(f"{word!r} is no time: give {ACCEPTED}")
    if lacks_zone(word):
        tell(f"{word} has no zone: taken as UTC")
    return float(seconds[0])


def span(word: str) -> float:
    """A duration such as ``90``, ``30min``, ``2h`` or ``7d`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d)?", word.strip())
    if found is None:
        raise ValueError(f"{word!r} is no duration: give seconds, or 30min, 2h, 7d")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[found[2] or "s"]


def tell(*lines: object) -> None:
    """Say something beside the result on stdout."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def wrote(*paths: str | Path) -> None:
    """Name the files that were written."""
    tell(*(f"wrote {path}" for path in paths))


def say(result: str | Mapping[str, Any], **how: Any) -> None:
    """Print a result: text without what a terminal would obey, names and values as one JSON object."""
    print(printable(result) if isinstance(result, str) else json.dumps(result, **how), flush=True)


def progress(iterable: Any = None, **options: Any) -> Any:
    """A progress bar where a person watches."""
    from tqdm import tqdm

    return tqdm(iterable, **{"disable": None, **options})
