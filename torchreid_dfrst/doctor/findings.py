"""One thing that the doctor found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchreid_dfrst.checks import numbered

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
        examples: which; reports show the first ``EXAMPLES`` unless asked for all.
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
    """A finding about each of ``where``, none if there is nothing there; for the message see ``names.numbered``."""
    found = [str(item) for item in where]
    if not found:
        return []
    return [Finding(severity, check, numbered(message, len(found)), len(found), found if show else [], advice)]
