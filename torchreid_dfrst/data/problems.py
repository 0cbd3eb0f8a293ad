"""All that is wrong with the parts of a data set at once: nobody repairs one thing only to hear of the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.data.text import sample

MISTAKES = (ValueError, KeyError, OSError)


class SeveralProblemsError(ValueError):
    """More than one thing is wrong; ``errors`` has each of them, in the order found."""

    errors: list[Exception]


class SeveralFilesMissingError(FileNotFoundError):
    """More than one file is missing, and nothing else is wrong that could be seen without them; see ``errors``."""

    errors: list[Exception]


class Problems:
    """Collects what the parts of a loader raise, until none is left to be tried."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what a user's data makes the block raise, and go on behind it."""
        try:
            yield
        except MISTAKES as error:
            self.errors += apart(error)

    def note(self, text: str, found: Sequence[str]) -> None:
        """Note a ``ValueError`` about each of ``found``, if there are any; see ``names.numbered`` for the text."""
        if found:
            self.errors.append(ValueError(f"{numbered(text, len(found))}: {sample(found)}"))

    def raise_all(self) -> None:
        """Raise what was noted: a single error as it is, several as one of the classes above."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            listed = "; ".join(f"({number}) {words(error)}" for number, error in enumerate(self.errors, start=1))
            missing = all(isinstance(error, FileNotFoundError) for error in self.errors)
            several = (SeveralFilesMissingError if missing else SeveralProblemsError)(
                f"{len(self.errors)} problems: {listed}"
            )
            several.errors = self.errors
            raise several


def apart(error: Exception) -> list[Exception]:
    """The single errors that ``error`` stands for."""
    return error.errors if isinstance(error, (SeveralProblemsError, SeveralFilesMissingError)) else [error]


def words(error: Exception) -> str:
    """The message; Python quotes that of a ``KeyError``."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
