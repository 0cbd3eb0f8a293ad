"""What the doctor found, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torchreid_dfrst.messages import numbered

ERROR, WARNING, NOTE = "error", "warning", "note"
EXAMPLES = 3
VERDICT = ("clean", "usable, with warnings", "do not train on this before it is repaired")


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found."""

    severity: str  # "error", "warning" or "note"
    check: str  # what was looked at
    message: str  # what is the matter, with counts
    count: int  # how many
    examples: list[str]  # which; reports show the first EXAMPLES unless asked for all
    advice: str  # what to do


def finding(severity: str, check: str, message: str, where: Iterable[object] | int, advice: str) -> list[Finding]:
    """A finding about each of ``where``, or about so many; none if there are none. See ``messages.numbered``."""
    examples = [] if isinstance(where, int) else [str(item) for item in where]
    count = where if isinstance(where, int) else len(examples)
    return [Finding(severity, check, numbered(message, count), count, examples, advice)] if count else []


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the doctor found."""

    dataset: str  # registered name
    root: str  # where it was looked for
    counts: dict[str, dict[str, int]]  # split to images, vehicles, cameras
    findings: list[Finding]  # errors first

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 errors."""
        severities = {found.severity for found in self.findings}
        return 2 if ERROR in severities else 1 if WARNING in severities else 0

    def to_json(self, examples: int | None = EXAMPLES) -> dict[str, Any]:
        """JSON types only, with so many examples of each finding, None for all."""
        listed = [{**asdict(found), "examples": found.examples[:examples]} for found in self.findings]
        return {**asdict(self), "findings": listed, "exit_code": self.exit_code}

    def text(self, examples: int | None = EXAMPLES) -> str:
        """The report for a person, with so many examples of each finding, None for all."""
        lines = [f"{self.dataset} in {self.root}"]
        for split, counts in self.counts.items():
            counted = (numbered(f"{{count}} [{what[:-1]}|{what}]", count) for what, count in counts.items())
            lines.append(f"  {split:8}{', '.join(counted)}")
        for found in self.findings:
            lines += ["", f"{found.severity.upper()}: {found.check}", f"  {found.message}"]
            if examples is None:
                lines += [f"    {example}" for example in found.examples]
            elif found.examples:
                lines.append(f"  for example: {', '.join(found.examples[:examples])}")
            if found.advice:
                lines.append(f"  what to do: {found.advice}")
        severities = [found.severity for found in self.findings]
        counted = (numbered(f"{{count}} [{word}|{word}s]", severities.count(word)) for word in (ERROR, WARNING))
        return "\n".join([*lines, "", f"{', '.join(counted)}: {VERDICT[self.exit_code]}"])
