"""Lists as people save them: CRLF, byte order marks, blank lines, Chinese encodings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from torchreid_dfrst.checks import numbered

T = TypeVar("T")
_log = logging.getLogger(__name__)


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
    return decode(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")


def decode(raw: bytes) -> str:
    """Text of ``raw``; every byte string has one, since Latin-1 refuses nothing."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def read_lines(path: str | Path, what: str) -> list[str]:
    """Lines of a text file without surrounding blanks; empty lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
    """
    lines = (line.strip() for line in read_text(path, what).split("\n"))
    return [line for line in lines if line]


def first_words(lists: Iterable[Path]) -> set[str]:
    """The first word of every line of several lists."""
    return {line.split()[0] for path in lists for line in read_lines(path, "list of images")}


def count(word: str, low: int, high: int) -> int | None:
    """The number that ``word`` writes in plain digits if it is in ``[low, high]``, else None."""
    # the length is checked first: int() itself refuses thousands of digits with an error of its own
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        return None
    return int(word) if low <= int(word) <= high else None


def sample(items: Iterable[object], most: int = 3) -> str:
    """The first few of ``items`` for a message: ``a, b, c and 9 more``."""
    shown = [str(item) for item in items]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


def once(rows: Iterable[tuple[str, T]], where: object) -> dict[str, T]:
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
    if same:
        text = "{count} [row of %s repeats an earlier one and is|rows of %s repeat an earlier one and are] left out: %s"
        _log.warning(numbered(text, len(same)), where, sample(same))
    return found
