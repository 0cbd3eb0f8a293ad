"""All that is wrong with a data set, said at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torchreid_dfrst.messages import error_text, numbered, sample

logger = logging.getLogger(__name__)

MISTAKES = (ValueError, KeyError, OSError)


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
        """Call a function and return its result; where the user's data makes it raise, note that and return None."""
        try:
            return function(*arguments)
        except MISTAKES as error:
            self.errors += single_errors(error)
            return None

    def note(self, text: str, found: Sequence[str]) -> None:
        """Note a ``ValueError`` about each of ``found``, if there are any; see ``messages.numbered`` for the text."""
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


def warn(text: str, found: Sequence[object]) -> None:
    """Log a warning about ``found``, if there are any; see ``messages.numbered`` for the text."""
    if len(found):
        logger.warning("%s: %s", numbered(text, len(found)), sample(found))
