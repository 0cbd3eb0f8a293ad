"""Numbers as people write them in lists: plain digits, decimal points or commas."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

import numpy as np

from torchreid_dfrst.messages import sample
from torchreid_dfrst.names import is_unknown
from torchreid_dfrst.sightings import UNKNOWN

logger = logging.getLogger(__name__)
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


POINTED = re.compile(r"[1-9]\d{0,2}\.\d{3}", re.ASCII)


def whole_number(word: str, low: int, high: int) -> int | None:
    """The number that ``word`` writes in plain digits if it is in ``[low, high]``, else None."""
    # the length is checked first: int() itself refuses thousands of digits with an error of its own
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        return None
    return int(word) if low <= int(word) <= high else None


def vehicle_number(word: str) -> int | None:
    """The number of a vehicle; ``UNKNOWN`` where the list says that it is not known, None for any other word."""
    return UNKNOWN if word and is_unknown(word) else whole_number(word, 0, 10**9)


def number(word: str) -> float | None:
    """The number that a word writes in plain digits, with a point or a decimal comma, else None; NaN is one."""
    if not word.isascii() or "_" in word:
        return None
    try:
        return float(word.replace(",", ".") if word.count(",") == 1 and "." not in word else word)
    except ValueError:
        return None


def numbers(columns: Iterable[Sequence[str]], where: object, what: str, first: int = 1) -> np.ndarray:
    """D columns of N words as ``(N, D)`` numbers, with points or, in the whole file, decimal commas.

    ``first`` is the row of the file that the columns begin in.

    Raises:
        ValueError: a word is no number, or every comma may be a thousands mark.
    """
    columns = list(columns)
    commas = [word for column in columns for word in column if "," in word]
    if commas:
        if all(map(GROUPED.fullmatch, commas)):
            raise ValueError(
                f"{where} holds {sample(commas)}, which may have a decimal comma or a thousands mark: write points"
            )
        logger.warning("%s: commas in numbers such as %s are read as decimal points", where, commas[0])
    words = [word for column in columns for word in column if number(word)]
    points = [word for word in words if "." in word]
    if 0 < len(points) < len(words) and all(POINTED.fullmatch(word) for word in points):
        raise ValueError(
            f"{where} holds {sample(points)} beside whole numbers, which may be thousands with a point or fractions: "
            "write the thousands without a mark, or the fractions with as many digits everywhere"
        )
    values = [[number(word) for word in column] for column in columns]
    bad = [
        f"{word!r} in row {row}"
        for words, found in zip(columns, values, strict=True)
        for row, (word, value) in enumerate(zip(words, found, strict=True), start=first)
        if value is None
    ]
    if bad:
        raise ValueError(f"{where} holds {sample(bad)}, which is not a number: {what} are expected")
    return np.array(values, dtype=np.float64).reshape(len(columns), -1).T
