"""Lists as people save them: CRLF, byte order marks, blank lines, Chinese encodings; and all their mistakes at once."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchreid_dfrst.checks import numbered, short
from torchreid_dfrst.files import require_file
from torchreid_dfrst.sightings import UNKNOWN, is_unknown

T = TypeVar("T")
KINDS = {
    b"PK\x03\x04": "a zip archive, as .xlsx, .npz and .pt files are", b"PAR1": "Parquet", b"\x93NUMPY": "NumPy's .npy",
    b"\x89HDF": "HDF5", b"MATLAB 5.0": "MATLAB's .mat", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"\x80": "a pickle", b"\xd0\xcf\x11\xe0": "an old Excel or Word file", b"%PDF": "PDF", b"\x1f\x8b": "gzip",
    b"SQLite": "a database",
}  # fmt: skip
"""How files begin that are taken for others, and what they are."""
LONGEST = 160  # characters of a name in a message
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
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
        ValueError: it is no text, or no file.
    """
    path = Path(path)
    require_file(
        path,
        f"no {what} at {path}: check that {path.parent} is the folder of the data set itself, the spelling of the "
        "file, and that the archive is complete",
    )
    raw = path.read_bytes()
    kind = kind_of(raw[:4096])
    if kind != "text":
        raise ValueError(f"{path} is no text but {kind}, where {what} should be: save it as text (CSV in UTF-8)")
    return _decoded(raw, path).replace("\r\n", "\n").replace("\r", "\n")


def kind_of(head: bytes) -> str:
    """What a file is that begins so: ``text``, or what to call it."""
    known = next((kind for start, kind in KINDS.items() if head.startswith(start)), None)
    if known:
        return known
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return "text" if marked or b"\0" not in head or _wide(head) else "binary data (it holds NUL bytes)"


def _wide(raw: bytes) -> str | None:
    """The kind of UTF-16 without a mark: nearly all of every second byte is NUL in what is mostly Latin letters."""
    for encoding, empty, full in (("utf-16-le", raw[1::2], raw[::2]), ("utf-16-be", raw[::2], raw[1::2])):
        if empty and empty.count(0) > 0.5 * len(empty) and 0 not in full:
            return encoding
    return None


def _decoded(raw: bytes, path: Path) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    wide = _wide(raw[:4096])
    if wide:
        return raw.decode(wide, errors="replace")
    for encoding in ("utf-8-sig", "gb18030", "latin-1"):  # the last refuses nothing
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "utf-8-sig":
            line = next(line for line in text.splitlines() if not line.isascii())
            logger.warning("%s is not UTF-8, but read as %s, such as %r: if wrong, save it as UTF-8", path, encoding,
                           short(line, LONGEST))  # fmt: skip
        return text
    raise AssertionError("Latin-1 refuses nothing")


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


def metres(rows: Iterable[Sequence[str]], path: Path) -> np.ndarray:
    """Rows of numbers, all of one length, as an array."""
    return numbers(zip(*rows, strict=True), path, "metres")


def sample(items: Iterable[object], most: int = 3) -> str:
    """The first few of ``items`` for a message: ``a, b, c and 9 more``."""
    shown = [word if len(word) <= LONGEST else f"{word[:20]}...{word[-LONGEST:]}" for word in map(str, items)]
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
