"""The words of messages: the nearest name, the first few, one or several, what a terminal may have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 160  # characters of a name in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or the known names, the first 20 of them, where none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    more = f" and {len(known) - 20:,} more" if len(known) > 20 else ""
    return f" (known: {', '.join(known[:20])}{more})"


def printable(text: object) -> str:
    """A text as a terminal may have it: what would move its cursor or turn its order is written by its number."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def short(text: object, most: int = 1000) -> str:
    """A text that may hold a value of any length, cut to so many characters; the beginning and the end say the most."""
    text = str(text)
    return text if len(text) <= most else f"{text[: 3 * most // 4]} ... {text[-most // 4 :]}"


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def numbered(text: str, count: int) -> str:
    """``"{count} [image is|images are] lost"`` as ``1 image is lost`` or ``1,200 images are lost``."""
    chosen = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if count == 1 else r"\2", text)
    return chosen.replace("{count}", f"{count:,}")


def sample(items: Iterable[object], most: int = 3) -> str:
    """The first few of ``items`` for a message: ``a, b, c and 9 more``."""
    shown = [word if len(word) <= LONGEST else f"{word[:20]}...{word[-LONGEST:]}" for word in map(str, items)]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


def error_text(error: Exception) -> str:
    """The text of an error; Python quotes that of a ``KeyError``."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def duration(seconds: float) -> str:
    """``2 h 05 min`` or ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
