"""Names as people write them, of cameras, vehicles and files: which of them are one, and numbers (labels) for them."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

UNKNOWN = -1  # the label of what is not known
UNKNOWN_WORDS = frozenset(
    "-1|-99|-999|-9999|nan|nat|na|n/a|n.a.|none|null|nil|\\n|unknown|unk|not known|not available|undefined|"
    "unidentified|unlabeled|unlabelled|no label|unknown vehicle|missing|distractor|distractors|junk|background|ignore|"
    "ignored|invalid|tbd|unsure|name?".split("|")
)
"""How lists write that a vehicle, a camera, a track or a time is not known; see ``is_unknown``."""


NEGATIVE = re.compile(r"-\d+(\.\d*)?(e\d+)?", re.ASCII)


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


def says_unknown(word: str) -> bool:
    """Whether a word means "not known", in upper or lower case, in quotes or brackets, or as mere punctuation."""
    core = plain(word).casefold().strip("<>[](){}#'\" ").replace("_", " ")
    return core in UNKNOWN_WORDS or not core.strip("-?._*/ ")


def is_unknown(label: str) -> bool:
    """Whether a vehicle, camera or track is not known: a word that says so, or a number below 0."""
    return says_unknown(label) or bool(NEGATIVE.fullmatch(plain(label)))


def is_label(word: str) -> bool:
    """Whether a word is a whole number of 0 or more that can be its own label."""
    return word.isascii() and word.isdigit() and len(word) < 10


def labels(words: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """``(N,)`` int64 labels for names, which are one where ``plain`` gives one, and the names in their order.

    The words themselves if all are whole numbers of 0 or more, else 0, 1, ... in the order of the names.
    """
    words = list(map(plain, words))
    if all(map(is_label, words)):
        numbers = np.array(words, dtype=np.int64)
        return numbers, [str(number) for number in np.unique(numbers)]
    names, numbers = np.unique(np.array(words, dtype=np.str_), return_inverse=True)
    return numbers.astype(np.int64), names.tolist()


def known_labels(words: Sequence[str]) -> np.ndarray:
    """``labels``, but ``UNKNOWN`` for words that say that it is not known."""
    known = np.array([not is_unknown(word) for word in words], dtype=bool)
    numbers = np.full(len(words), UNKNOWN)
    numbers[known] = labels([word for word, one in zip(words, known, strict=True) if one])[0]
    return numbers


def last_part(path: str) -> str:
    """The name of a file without its folders, whichever system wrote the path."""
    return path.replace("\\", "/").rpartition("/")[2]


def without_common_folder(paths: np.ndarray) -> np.ndarray:
    """Paths without the folder they have in common, which differs from machine to machine."""
    split = [path.replace("\\", "/").split("/") for path in paths.tolist()]
    # what the first and the last in order share, all share
    ends = zip(min(split)[:-1], max(split)[:-1], strict=False) if split else ()
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    return np.array(["/".join(parts[common:]) for parts in split], dtype=np.str_)
