"""Checks of what users give, and the words of the messages that refuse it."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"}


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or the list of known names where none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def numbered(text: str, count: int) -> str:
    """``"{count} [image is|images are] lost"`` as ``1 image is lost`` or ``1,200 images are lost``."""
    chosen = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if count == 1 else r"\2", text)
    return chosen.replace("{count}", f"{count:,}")


def expected_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters by name; where a signature has none, the type of a default that is a number.

    A default that is text says nothing: where torchreid has one, a list does as well.
    """
    annotated = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = type(parameter.default)
        found[name] = annotated.get(name, kind if kind in (bool, int, float) else Any)
    return found


def check(what: str, value: Any, expected: Any) -> None:
    """Refuse a value that is not of the expected type.

    Args:
        what: the value's name, for the message.
        value: a whole number does where a number is expected; true and false are not numbers; text is no list.
        expected: an annotation; one that is none of the usual types of a configuration is not checked.

    Raises:
        ValueError: with the name, the value and what was expected.
    """
    if not _fits(value, expected):
        raise ValueError(f"{what} is {value!r}, expected {_words(expected)}")


def within(what: str, value: float, lowest: float = 0, highest: float = math.inf, below: float = math.inf) -> None:
    """Refuse a number out of its range; NaN is out of every range.

    Args:
        what: the number's name, for the message.
        value: the number.
        lowest: it may be this.
        highest: it may be this.
        below: it may not be this.

    Raises:
        ValueError: with the name, the value and the range.
    """
    if lowest <= value <= highest and value < below:
        return
    ends = [f"{lowest:g} or more"]
    ends += [f"at most {highest:g}"] * (highest < math.inf) + [f"less than {below:g}"] * (below < math.inf)
    raise ValueError(f"{what} is {value!r}: {', '.join(ends)}")


@contextlib.contextmanager
def named(section: str, keys: Iterable[str]) -> Iterator[None]:
    """Let an error about a parameter, such as ``lr is -1: 0 or more``, say of which section it is: ``optim.lr is ...``.

    Args:
        section: where the parameters of the body's calls came from.
        keys: the parameters' names.

    Raises:
        ValueError: the body's, which starts with one of ``keys``.
    """
    try:
        yield
    except ValueError as error:
        if str(error).partition(" ")[0] not in keys:
            raise
        raise ValueError(f"{section}.{error}") from error


def listed(words: str | Iterable[str] | None) -> list[str]:
    """A setting that may be one name, several or none, as a list."""
    return [words] if isinstance(words, str) else list(words or [])


def _fits(value: Any, expected: Any) -> bool:
    if expected is None or expected is type(None):
        return value is None
    if get_origin(expected) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(expected))
    if expected in (int, float):
        return isinstance(value, Integral if expected is int else Real) and not isinstance(value, bool)
    if expected in (bool, str):
        return isinstance(value, expected)
    if expected is Path:
        return isinstance(value, (str, os.PathLike))
    container = get_origin(expected) or expected
    if inspect.isclass(container) and issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(container) and issubclass(container, Sequence):
        item = (*get_args(expected), Any)[0]
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(each, item) for each in value)
    return True


def _words(expected: Any) -> str:
    if expected is None or expected is type(None):
        return "null"
    if get_origin(expected) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(choice) for choice in get_args(expected)))
    container = get_origin(expected) or expected
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "names and values"
    if expected not in WORDS and inspect.isclass(container) and issubclass(container, Sequence):
        item = (*get_args(expected), Any)[0]
        return f"a list, each {WORDS[item]}" if item in WORDS else "a list"
    return WORDS.get(expected, str(expected))
