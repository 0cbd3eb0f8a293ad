"""Checks of what users give: types, and ranges of numbers."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    Path: ((str, os.PathLike), "text"),
    type(None): (type(None), "null"),
}
"""Annotation to what its values are instances of, and to its name in messages."""


def expected_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters by name; where a signature has none, the type of a default that is a number.

    Of torchreid's defaults, one that is text may be a list as well, and says nothing.
    """
    annotated = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = type(parameter.default)
        found[name] = annotated.get(name, kind if kind in (bool, int, float) else Any)
    return found


def check(what: str, value: Any, expected: Any) -> None:
    """Raise a ``ValueError`` if a value, called ``what``, is not of an annotation's type, of those that YAML has.

    A whole number does where a number is expected; true and false are not numbers; text is no list.
    """
    fits, words = _kind(expected)
    if not fits(value):
        raise ValueError(f"{what} is {value!r}, expected {words}")


def in_words(expected: Any) -> str:
    """What values an annotation takes; nothing for one that says nothing."""
    return "" if expected in (Any, object) else _kind(expected)[1]


def within(what: str, value: float, lowest: float = 0, highest: float = math.inf, below: float = math.inf) -> None:
    """Raise a ``ValueError`` if a number, ``what``, is NaN, not in ``[lowest, highest]`` or not below ``below``."""
    if lowest <= value <= highest and value < below:
        return
    ends = [f"{lowest:g} or more"]
    ends += [f"at most {highest:g}"] * (highest < math.inf) + [f"less than {below:g}"] * (below < math.inf)
    raise ValueError(f"{what} is {value!r}: {', '.join(ends)}")


@contextlib.contextmanager
def named(section: str, keys: Iterable[str]) -> Iterator[None]:
    """Let an error about one of ``keys``, such as ``lr is -1: 0 or more``, name its section: ``optim.lr is ...``."""
    try:
        yield
    except ValueError as error:
        if str(error).partition(" ")[0] not in keys:
            raise
        raise ValueError(f"{section}.{error}") from error


def listed(words: str | Iterable[str] | None) -> list[str]:
    """A setting that may be one name, several or none, as a list."""
    return [words] if isinstance(words, str) else list(words or [])


def _kind(expected: Any) -> tuple[Callable[[Any], bool], str]:
    """What tells whether a value is of an expected type, and the type in words."""
    expected = type(None) if expected is None else expected
    if get_origin(expected) in (Union, types.UnionType):
        choices = [_kind(choice) for choice in get_args(expected)]
        words = " or ".join(dict.fromkeys(words for _, words in choices))
        return lambda value: any(fits(value) for fits, _ in choices), words
    if expected in KINDS:
        instance, words = KINDS[expected]
        return lambda value: isinstance(value, instance) and (expected is bool or not isinstance(value, bool)), words
    container = get_origin(expected) or expected
    if inspect.isclass(container) and issubclass(container, Mapping):
        return lambda value: isinstance(value, Mapping), "names and values"
    if inspect.isclass(container) and issubclass(container, Sequence):
        item = (*get_args(expected), Any)[0]
        fits, words = _kind(item)
        words = f"a list, each {words}" if item in KINDS else "a list"
        return lambda value: isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, value)), words
    return lambda value: True, str(expected)
