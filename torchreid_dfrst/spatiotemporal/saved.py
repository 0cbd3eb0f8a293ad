"""Files of fitted models: nothing in one is believed before it was checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork

FORMAT = "torchreid_dfrst space-time model"
FORMAT_VERSION = 1
AGAIN = "fit the model again and save it"
SECTIONS = {"model": str, "network": str, "cameras": list, "options": dict, "fitted": dict}
WORDS = {str: "text", list: "a list", dict: "names and values"}


@dataclass(frozen=True)
class Expected:
    """What a fitted field holds.

    Args:
        shape: of an array; empty for a single number.
        positive: every number is above 0.
        count: every number is whole and 0 or more.
    """

    shape: tuple[int, ...] = ()
    positive: bool = False
    count: bool = False


def read(path: str | Path, network: CameraNetwork) -> dict[str, Any]:
    """Content of a saved model, checked as far as its kind does not matter.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a model of ours, of another format version, incomplete, or fitted on another camera network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no space-time model at {path}: fit one and save it there")
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a saved space-time model: it is not text (byte {error.start} is none of UTF-8); {AGAIN}"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not a whole saved space-time model: it stops being JSON in line {error.lineno}, column "
            f"{error.colno} ({error.msg}); {AGAIN}"
        ) from None
    if not isinstance(content, dict) or "format" not in content or "version" not in content:
        raise ValueError(f"{path} is not a saved space-time model: it has no format and version; {AGAIN}")
    kind, version = content["format"], content["version"]
    if kind != FORMAT or version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is {kind!r} version {version!r}, this package reads {FORMAT!r} version {FORMAT_VERSION}; {AGAIN}"
        )
    for name, wanted in SECTIONS.items():
        if not isinstance(content.get(name), wanted):
            found = f"{name} {type(content[name]).__name__}" if name in content else f"no {name}"
            raise ValueError(f"{path} has {found}, a saved space-time model has {WORDS[wanted]} there; {AGAIN}")
    if content["network"] != network.fingerprint:
        raise ValueError(
            f"{path} was fitted on camera network {content['network']} of {len(content['cameras'])} cameras, not on "
            f"{network.fingerprint} of {len(network)}: fit it again on this network"
        )
    # what was fitted follows this order, which the fingerprint does not see
    if not _same_labels(content["cameras"], network.cameras):
        raise ValueError(
            f"{path} lists cameras {content['cameras']}, its network has {np.sort(network.cameras).tolist()}; {AGAIN}"
        )
    return content


def check_fitted(fitted: Mapping[str, Any], expected: Mapping[str, Expected]) -> dict[str, Any]:
    """Fitted fields as ``fit`` leaves them: arrays of float64 or int64, or single numbers.

    Args:
        fitted: by field; arrays may be nested lists.
        expected: by field, all of them.

    Raises:
        ValueError: a field is missing or too many, has another shape, or a number it cannot have.
    """
    if set(fitted) != set(expected):
        raise ValueError(f"fitted holds {', '.join(sorted(fitted))}, not {', '.join(sorted(expected))}")
    return {name: _checked(name, fitted[name], wanted) for name, wanted in expected.items()}


def _checked(name: str, value: Any, expected: Expected) -> Any:
    kind = "a positive number" if expected.positive else "a whole number" if expected.count else "a finite number"
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths, expected shape {expected.shape}") from None
    fits = array.dtype.kind in ("i" if expected.count else "if")
    if not fits:
        number = int if expected.count else (int, float)
        for place, item in _items(value):
            if isinstance(item, bool) or not isinstance(item, number):
                raise ValueError(f"{name}{list(place) or ''} is {json.dumps(item)[:40]}, expected {kind}")
    if array.shape != expected.shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected.shape}")
    if not fits:
        raise ValueError(f"{name} holds a number of more than 18 digits, expected {kind}")
    bad = ~np.isfinite(array) | (array <= 0 if expected.positive else expected.count & (array < 0))
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{name}{place or ''} is {array[bad].flat[0]}, expected {kind}")
    array = array.astype(np.int64 if expected.count else np.float64)
    return array if expected.shape else array.item()


def _items(value: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Everything in nested lists that is no list, and where it stands."""
    if isinstance(value, list):
        for k, item in enumerate(value):
            yield from _items(item, (*place, k))
    else:
        yield place, value


def _same_labels(given: list[Any], cameras: np.ndarray) -> bool:
    whole = all(isinstance(label, int) and not isinstance(label, bool) for label in given)
    return whole and sorted(given) == np.sort(cameras).tolist()
