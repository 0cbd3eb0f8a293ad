"""Finds images by their paths as other programs write them, where only one file can be meant, and says so."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.data.boxes import Box, split_name
from torchreid_dfrst.messages import numbered, sample

logger = logging.getLogger(__name__)

ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif")
)
"""Of image files; a name may lack them."""
JPEG = {".jpeg": ".jpg", ".jpe": ".jpg"}
"""Endings of one kind of file."""
VECTORS = frozenset((".npy", ".npz", ".pt"))
"""Of files of one embedding each, which stand for no ending."""


class Name(NamedTuple):
    """A path in parts that can be compared."""

    folders: tuple[str, ...]
    stem: str
    ending: str
    box: Box | None


class Match(NamedTuple):
    """Where names were found: ``row[k]`` of the held ones or -1; how many in another spelling, and one of those."""

    row: np.ndarray
    respelt: int
    example: str


def find(
    wanted: Sequence[str], held: Sequence[str], where: str, same: Callable[[int, int], bool] = lambda a, b: False
) -> Match:
    r"""Find each name among others, as it is written or in another spelling.

    Another spelling is ``\`` for ``/``, an accent composed otherwise, ``./``, capital letters, a missing ending of an
    image, and more or fewer folders in front (of another machine). The nearest spelling counts; of held names that
    stand twice, the first. ``same`` tells whether two places of ``wanted`` show the same photograph, so that one name
    may serve both; ``where`` is what holds the names, for messages.

    Raises:
        ValueError: several names can be meant by one, or one by several; both are named.
    """
    first: dict[str, int] = {}
    for k, name in enumerate(held):
        first.setdefault(name, k)
    row = np.array([first.get(name, -1) for name in wanted], dtype=np.int64)
    lost = [k for k, place in enumerate(row.tolist()) if place < 0]
    respelt, example = 0, ""
    if not lost or not held:
        return Match(row, respelt, example)
    by_stem: dict[str, list[tuple[Name, int]]] = {}
    for other, place in zip(_names_in_parts(list(first)), first.values(), strict=True):
        by_stem.setdefault(other.stem.casefold(), []).append((other, place))
    taken = {place: k for k, place in enumerate(row.tolist()) if place >= 0}
    for k, asked in zip(lost, _names_in_parts([wanted[k] for k in lost]), strict=True):
        near = [(_distance_of_names(asked, other), place) for other, place in by_stem.get(asked.stem.casefold(), ())]
        ranked = sorted((d, place) for d, place in near if d is not None)
        nearest = [place for d, place in ranked if d == ranked[0][0]]
        if len(nearest) > 1:
            several = sample(held[place] for place in nearest)
            raise ValueError(f"{wanted[k]} may be each of {several} in {where}: write its whole path")
        for place in nearest:
            before = taken.setdefault(place, k)
            if wanted[before] != wanted[k] and not same(before, k):
                raise ValueError(
                    f"{wanted[before]} and {wanted[k]} may both be {held[place]} in {where}: names must differ by more "
                    "than folders, endings or capital letters, or be written alike on both sides"
                )
            row[k] = place
            respelt += 1
            example = example or f"{wanted[k]} is {held[place]}"
    return Match(row, respelt, example)


def tell(match: Match, of: object) -> None:
    """Log how many names were found in another spelling, and which."""
    if match.respelt:
        text = numbered("{count} [path|paths] of %s [was|were] found in another spelling (%s)", match.respelt)
        logger.warning(text, of, sample([match.example]))


def on_disk(folder: Path, words: Sequence[str], of: object) -> list[str]:
    """Paths of images that a list has relative to a folder; one that is not there is looked for below it (``find``)."""
    names = [split_name(word)[0] for word in words]
    paths = [str(folder / name) for name in names]
    inside: dict[str, set[str]] = {}
    for place in {os.path.dirname(path) for path in paths}:
        # one listing costs less than thousands of questions, above all over a network
        with contextlib.suppress(OSError):
            inside[place] = set(os.listdir(place))
    lost = [k for k, path in enumerate(paths) if os.path.basename(path) not in inside.get(os.path.dirname(path), ())]
    held = _image_files_below(folder) if lost else []
    match = find([names[k] for k in lost], held, str(folder))
    used = {os.path.normpath(path) for path in set(paths).difference(paths[k] for k in lost)}
    for k, place in zip(lost, match.row.tolist(), strict=True):
        if place >= 0:
            found = str(folder / held[place])
            if os.path.normpath(found) in used:
                raise ValueError(
                    f"{words[k]} of {of} is missing; the nearest file, {held[place]}, belongs to another row"
                )
            paths[k] = found
    tell(match, of)
    return [path + word[len(name) :] for path, word, name in zip(paths, words, names, strict=True)]


def _image_files_below(folder: Path) -> list[str]:
    """Images below a folder, relative to it."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        inside = os.path.relpath(place, folder)
        found += [os.path.normpath(os.path.join(inside, n)) for n in names if os.path.splitext(n)[1].lower() in ENDINGS]
    return sorted(found)


def _names_in_parts(words: Sequence[str]) -> list[Name]:
    """Names in parts; of absolute ones, the folder that all of them lie in is left out: it is of some machine."""
    parts = []
    for word, box in map(split_name, words):
        plain = unicodedata.normalize("NFC", word.strip()).replace("\\", "/").removeprefix("file://")
        absolute = bool(re.match(r"/|~|[A-Za-z]:/|\w+://", plain))
        steps: list[str] = []
        for step in plain.split("/"):
            if step == ".." and steps:
                steps.pop()
            elif step not in ("", "."):
                steps.append(step)
        parts.append((steps or [""], absolute, box))
    folders = [steps[:-1] for steps, absolute, _ in parts if absolute]
    ends = min(folders, default=[]), max(folders, default=[])
    common = next((k for k, (a, b) in enumerate(zip(*ends, strict=False)) if a != b), min(map(len, ends)))
    names = []
    for steps, absolute, box in parts:
        ending = os.path.splitext(steps[-1])[1]
        steps[-1] = steps[-1].removesuffix(ending) if ending.lower() in VECTORS else steps[-1]
        ending = os.path.splitext(steps[-1])[1]
        ending = ending if ending.lower() in ENDINGS else ""
        stem = steps[-1].removesuffix(ending) if ending else steps[-1]
        names.append(Name(tuple(steps[common if absolute else 0 : -1]), stem, ending, box))
    return names


def _distance_of_names(a: Name, b: Name) -> tuple[int, ...] | None:
    """How far two spellings with one stem lie apart, smaller is nearer; None if they are no spellings of one path."""
    kinds = {JPEG.get(name.ending.lower(), name.ending.lower()) for name in (a, b) if name.ending}
    if len(kinds) > 1 or (a.box and b.box and a.box != b.box):
        return None
    size = min(len(a.folders), len(b.folders))
    ends = [name.folders[len(name.folders) - size :] for name in (a, b)]
    if [f.casefold() for f in ends[0]] != [f.casefold() for f in ends[1]]:
        return None
    missing = bool(a.ending) != bool(b.ending) or bool(a.box) != bool(b.box)
    more = len(a.folders) != len(b.folders)
    letters = ends[0] != ends[1] or a.stem != b.stem or a.ending != b.ending
    return (int(more), int(missing), int(letters), -size)
