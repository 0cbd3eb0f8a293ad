"""Lists as people save them: CRLF, byte order marks, blank lines, Chinese encodings; and all their mistakes at once."""

from __future__ import annotations

import datetime
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.sightings import UNKNOWN, is_unknown

T = TypeVar("T")
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%d%H%M%S", "%Y-%m-%d_%H-%M-%S")
MISTAKES = (ValueError, KeyError, OSError)
logger = logging.getLogger(__name__)


def read_text(path: str | Path, what: str) -> str:
    r"""Decode a text file of unknown encoding: UTF-8 or UTF-16 with their marks, else GB 18030, else Latin-1.

    Line ends of every system become ``\n``.

    Args:
        path: the file.
        what: what it should hold, for the message.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {what} at {path}: check that {path.parent} is the folder of the data set itself, the spelling of the "
            "file, and that the archive is complete"
        )
    return _decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    # every byte string has a text, since Latin-1 refuses nothing
    return raw.decode("latin-1")


def read_lines(path: str | Path, what: str) -> list[str]:
    """Lines of a text file without surrounding blanks, see ``read_text``; empty lines are left out."""
    lines = (line.strip() for line in read_text(path, what).split("\n"))
    return [line for line in lines if line]


def read_items(path: Path) -> list[dict[str, str]]:
    """Attributes of every ``<Item .../>`` of a label file of VeRi-776 or CityFlow.

    Raises:
        FileNotFoundError, ValueError: no such file; no well-formed XML, or entities, which can be a bomb.
    """
    # the standard parser refuses the declared gb2312, so it gets text without the declaration
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", read_text(path, "labels"), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares a document type or entities, which labels never need: refused unread")
    try:
        return [dict(item.attrib) for item in ET.fromstring(text).iter("Item")]
    except ET.ParseError as error:
        raise ValueError(f"{path} is not well-formed XML ({error}): download it again, or remove it") from error


def whole_number(word: str, low: int, high: int) -> int | None:
    """The number that ``word`` writes in plain digits if it is in ``[low, high]``, else None."""
    # the length is checked first: int() itself refuses thousands of digits with an error of its own
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        return None
    return int(word) if low <= int(word) <= high else None


def vehicle_number(word: str) -> int | None:
    """The number of a vehicle; ``UNKNOWN`` where the list says that it is not known, None for any other word."""
    return UNKNOWN if word and is_unknown(word) else whole_number(word, 0, 10**9)


def time_parser(time_format: str | None) -> Callable[[str], float]:
    """A function from the text of a date and time to seconds since 1970 (read as UTC), NaN if it is none."""
    formats = FORMATS if time_format is None else (time_format,)

    def parse(text: str) -> float:
        for form in formats:
            for whole in (form, form + ".%f"):
                try:
                    moment = datetime.datetime.strptime(text, whole)
                    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()
                except (ValueError, OverflowError):
                    continue
        return float("nan")

    return parse


def metres(rows: Iterable[Sequence[str]], path: Path) -> np.ndarray:
    """Rows of numbers, all of one length, as an array."""
    try:
        return np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        word = str(error).partition(": ")[2]
        raise ValueError(f"{path} holds {word}, which is not a number: metres are expected") from error


def sample(items: Iterable[object], most: int = 3) -> str:
    """The first few of ``items`` for a message: ``a, b, c and 9 more``."""
    shown = [str(item) for item in items]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


def warn(text: str, found: Sequence[object]) -> None:
    """Log a warning about ``found``, if there are any; see ``checks.numbered`` for the text."""
    if len(found):
        logger.warning("%s: %s", numbered(text, len(found)), sample(found))


def unrepeated(rows: Iterable[tuple[str, T]], where: object) -> dict[str, T]:
    """What a file says of each image, in its order; rows that repeat an earlier one are left out and counted.

    Args:
        rows: image and what is said of it.
        where: the file, for messages.

    Raises:
        ValueError: rows say different things of the same image.
    """
    found: dict[str, T] = {}
    same, other = [], []
    for name, said in rows:
        if name not in found:
            found[name] = said
        elif found[name] == said:
            same.append(name)
        else:
            other.append(f"{name} ({found[name]} and {said})")
    if other:
        raise ValueError(
            numbered(f"{{count}} [row|rows] of {where} [contradicts|contradict] an earlier one: ", len(other))
            + f"{sample(other)}; keep the right one of each"
        )
    warn(f"{{count}} [row of {where} repeats|rows of {where} repeat] an earlier one and [is|are] left out", same)
    return found


def warn_of_clipped(paths: Iterable[str]) -> None:
    """Log how many boxes stuck out of their images."""
    warn("{count} [box sticks|boxes stick] out of [its image and was|their images and were] clipped", sorted(paths))


class SeveralProblemsError(ValueError):
    """More than one thing is wrong; ``errors`` has each of them, in the order found."""

    errors: list[Exception]


class SeveralFilesMissingError(FileNotFoundError):
    """The same where all that is wrong is that files are missing."""

    errors: list[Exception]


class Problems:
    """Collects what reading the parts of a data set raises: nobody repairs one thing only to hear of the next."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def attempt(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns; None if a user's data makes it raise, which is noted."""
        try:
            return function(*arguments)
        except MISTAKES as error:
            self.errors += single_errors(error)
            return None

    def note(self, text: str, found: Sequence[str]) -> None:
        """Note a ``ValueError`` about each of ``found``, if there are any; see ``checks.numbered`` for the text."""
        if found:
            self.errors.append(ValueError(f"{numbered(text, len(found))}: {sample(found)}"))

    def raise_all(self) -> None:
        """Raise what was noted: a single error as it is, several as one of the classes above."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            listed = "; ".join(f"({number}) {error_text(error)}" for number, error in enumerate(self.errors, start=1))
            missing = all(isinstance(error, FileNotFoundError) for error in self.errors)
            made = SeveralFilesMissingError if missing else SeveralProblemsError
            several = made(f"{len(self.errors)} problems: {listed}")
            several.errors = self.errors
            raise several


def single_errors(error: Exception) -> list[Exception]:
    """The errors that ``error`` stands for: itself, or those of ``Problems.raise_all``."""
    return getattr(error, "errors", [error])


def error_text(error: Exception) -> str:
    """The text of an error; Python quotes that of a ``KeyError``."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
