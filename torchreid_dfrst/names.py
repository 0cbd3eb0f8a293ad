"""Names as people write them: of cameras, of vehicles, of files, and which of them are one."""

from __future__ import annotations

import itertools
import re
import unicodedata

import numpy as np

UNKNOWN_WORDS = frozenset(
    "-1|-99|-999|-9999|nan|nat|na|n/a|n.a.|none|null|nil|\\n|unknown|unk|not known|not available|undefined|"
    "unidentified|unlabeled|unlabelled|no label|missing|distractor|distractors|junk|background".split("|")
)
"""How lists write that a vehicle, a camera, a track or a time is not known; see ``is_unknown``."""


def tidy(word: str) -> str:
    """A word in Unicode NFKC with single blanks, digits of 0 to 9, one kind of dash and nothing that cannot be seen."""
    if not word.isascii():
        word = "".join(map(_character, unicodedata.normalize("NFKC", word)))
    return " ".join(word.split())


def _character(one: str) -> str:
    kind = unicodedata.category(one)
    return "" if kind == "Cf" else "-" if kind == "Pd" or one == "\u2212" else str(unicodedata.decimal(one, one))


def plain(word: str) -> str:
    """A name as names are compared: as ``tidy`` gives it, numbers by value (``3`` for ``03`` and ``3.0``)."""
    text = tidy(word)
    if not re.fullmatch(r"[+-]?\d+(\.\d*)?", text, re.ASCII):
        return text
    whole, _, part = text.lstrip("+-").partition(".")
    number = (whole.lstrip("0") or "0") + ("." + part).rstrip("0").rstrip(".")
    return f"-{number}" if text.startswith("-") and number != "0" else number


def is_unknown(word: str) -> bool:
    """Whether a word means "not known", in upper or lower case, in quotes or brackets, or as mere punctuation."""
    core = plain(word).casefold().strip("<>[](){}#'\" ")
    return core in UNKNOWN_WORDS or not core.strip("-?._*/ ")


def without_common_folder(paths: np.ndarray) -> np.ndarray:
    """Paths without the folder they have in common, which differs from machine to machine."""
    split = [path.replace("\\", "/").split("/") for path in paths.tolist()]
    # what the first and the last in order share, all share
    ends = zip(min(split)[:-1], max(split)[:-1], strict=False) if split else ()
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    return np.array(["/".join(parts[common:]) for parts in split], dtype=np.str_)
