"""One photograph under two names: rows that contradict each other, and files of the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.files import what_is
from torchreid_dfrst.messages import numbered, sample
from torchreid_dfrst.sightings import UNKNOWN, Sightings

T = TypeVar("T")


def contradictions(seen: Sightings, names: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[str]:
    """Rows of a table that say different things of one image, in words that show both.

    A frame has one camera and one time, a box in it one vehicle; what is not known contradicts nothing. ``names`` are
    those of the images as the table writes them, with boxes; ``words`` maps ``camera``, ``time`` and ``identity`` to
    what it says in each row.
    """
    crops = [unicodedata.normalize("NFC", os.path.abspath(path.replace("\\", "/"))) for path in seen.path.tolist()]
    frames = [split_name(crop)[0] for crop in crops]
    found = []
    for what, keys, values, known in (
        ("camera", frames, seen.camera, np.ones(len(seen), dtype=bool)),
        ("time", frames, seen.time_s, ~np.isnan(seen.time_s)),
        ("identity", crops, seen.identity, seen.known),
    ):
        first: dict[str, int] = {}
        for row in np.flatnonzero(known).tolist():
            other = first.setdefault(keys[row], row)
            if values[other] != values[row]:
                one, two = (f"{words[what][k]!r} in row {k + 2}" for k in (other, row))
                found.append(f"{names[row]} has {what} {one} and {two}")
    return found


def refuse_copies(query: Sightings, gallery: Sightings) -> None:
    """Raise a ``ValueError`` where a query image stands in the gallery, byte for byte, under another camera or vehicle.

    It would find its own copy first. Files of one size are read; files that are not there are passed over. An image in
    both lists with one camera and vehicle, as VeRi-776's, is fine.
    """
    everyone, count = Sightings.concatenate([query, gallery]), len(query)
    files = [split_name(path) for path in everyone.path.tolist()]
    camera, identity = everyone.camera.tolist(), everyone.identity.tolist()

    def differ(q: int, g: int) -> bool:
        known = UNKNOWN not in (identity[q], identity[g])
        return camera[q] != camera[g] or (known and identity[q] != identity[g])

    def suspicious(group: list[int]) -> bool:
        ours, theirs = [k for k in group if k < count], [k for k in group if k >= count]
        labels = {(camera[k], identity[k]) for k in group}
        return bool(ours and theirs and len(labels) > 1)

    groups = [list(range(len(everyone)))]
    for read in (_file_size, _middle_of_file, _digest_of_file):
        known: dict[str, object] = {}
        groups = [finer for group in groups for finer in _split_copies(group, files, read, known) if suspicious(finer)]
    both = [(q, [g for g in group if g >= count]) for group in groups for q in group if q < count]
    pairs = [(q, g) for q, others in both for g in [next((g for g in others if differ(q, g)), None)] if g is not None]
    if pairs:

        def said(row: int) -> str:
            part = "query" if row < count else "gallery"
            vehicle, seen_by = everyone.vehicle_called(identity[row]), everyone.camera_called(camera[row])
            return f"{everyone.path[row]} ({part}, camera {seen_by}, vehicle {vehicle})"

        text = numbered("{count} query [image stands|images stand] in the gallery, byte for byte, ", len(pairs))
        shown = sample([f"{said(q)} = {said(g)}" for q, g in pairs], 2)
        raise ValueError(f"{text}under another camera or vehicle: {shown}; keep one, or name a camera in one way")


def _split_copies(
    group: list[int], files: Sequence[tuple[str, object]], read: Callable[[Path], object], known: dict[str, object]
) -> list[list[int]]:
    """The rows of a group by what is read of their files, each read once, and by their boxes."""
    parts: dict[tuple[object, object], list[int]] = defaultdict(list)
    for row in group:
        path, box = files[row]
        if path not in known:
            known[path] = None
            with contextlib.suppress(OSError):
                if what_is(path) == "":
                    known[path] = read(Path(path))
        if known[path] is not None:
            parts[known[path], box].append(row)
    return list(parts.values())


def _file_size(path: Path) -> int:
    return path.stat().st_size


def _middle_of_file(path: Path) -> bytes:
    """Photographs of one size differ here, so few are read whole."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(256)


def _digest_of_file(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes()).digest()


def unrepeated(rows: Iterable[tuple[str, T]], where: object) -> dict[str, T]:
    """What a file, ``where``, says of each image, in its order; rows that repeat an earlier one are counted, left out.

    Rows that say different things of the same image are a ``ValueError``.
    """
    found: dict[str, T] = {}
    same, other = [], []
    for name, said in rows:
        if name not in found:
            found[name] = said
        elif found[name] == said:
            same.append(name)
        else:
            other.append(f"{name} ({found[name]} and {said})")
    if other:
        raise ValueError(
            numbered(f"{{count}} [row|rows] of {where} [contradicts|contradict] an earlier one: ", len(other))
            + f"{sample(other)}; keep the right one of each"
        )
    warn(f"{{count}} [row of {where} repeats|rows of {where} repeat] an earlier one and [is|are] left out", same)
    return found
