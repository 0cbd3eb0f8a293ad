"""Helping words in messages: the name that was meant, the noun that fits its number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or the list of known names where none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def numbered(text: str, count: int) -> str:
    """``"{count} [image is|images are] lost"`` as ``1 image is lost`` or ``1,200 images are lost``."""
    chosen = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if count == 1 else r"\2", text)
    return chosen.replace("{count}", f"{count:,}")
