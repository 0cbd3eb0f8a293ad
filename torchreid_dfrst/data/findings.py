"""One thing that the doctor found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Args:
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        check: what was looked at.
        message: what is the matter, with counts.
        count: how many.
        examples: up to three of them.
        advice: what to do.
    """

    severity: str
    check: str
    message: str
    count: int
    examples: list[str]
    advice: str


def finding(
    severity: str, check: str, message: str, where: Iterable[object], advice: str, show: bool = True
) -> list[Finding]:
    """A finding about each of ``where``, whose number replaces ``{count}``; none if there is nothing there."""
    found = [str(item) for item in where]
    if not found:
        return []
    text = message.format(count=len(found))
    return [Finding(severity, check, text, len(found), found[:EXAMPLES] if show else [], advice)]
