"""Colours and types of VeRi-776's vehicles, and its lists of right answers and junk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.data.text import count, once, read_lines, read_text
from torchreid_dfrst.data.xml_items import read_items
from torchreid_dfrst.sightings import UNKNOWN


class Label(NamedTuple):
    """Colour and type of the vehicle in one image, numbers of ``list_color.txt`` and ``list_type.txt``; -1 unknown."""

    color: int
    type: int


def read_labels(folder: str | Path) -> dict[str, Label]:
    """Labels by image name from ``train_label.xml`` and ``test_label.xml``, whichever are there.

    Not every image has one, and the old release gives type 0 to three vehicles: read an absent name, and 0, as unknown.

    Raises:
        ValueError: a file is not well-formed XML, declares a document type, holds an item without a name, or items
            contradict each other.
    """
    files = [Path(folder) / name for name in ("train_label.xml", "test_label.xml")]
    files = [path for path in files if path.is_file()]
    return once((row for path in files for row in _read_xml(path)), " and ".join(map(str, files)))


def read_label_names(path: str | Path) -> dict[int, str]:
    """Names by number from ``list_color.txt`` or ``list_type.txt``, lines ``4 gray``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line does not begin with a number, or a number has two names.
    """
    return {int(number): name for number, name in once(_label_names(path), path).items()}


def read_index(path: str | Path, gallery_size: int) -> list[np.ndarray]:
    """Rows of the gallery for each query, from ``gt_index.txt`` or ``jk_index.txt``, counted from 0.

    Args:
        path: the file; it counts rows of ``name_test.txt`` from 1, one line per line of ``name_query.txt``.
        gallery_size: number of gallery images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something is not a number between 1 and ``gallery_size``.
    """
    rows = []
    # a query may have no entry: here an empty line means something
    for number, line in enumerate(read_text(path, "list of gallery rows").splitlines(), start=1):
        words = line.split()
        bad = [word for word in words if count(word, 1, gallery_size) is None]
        if bad:
            raise ValueError(f"line {number} of {path} holds {bad[0]!r}, expected rows from 1 to {gallery_size}")
        rows.append(np.array(words, dtype=np.int64) - 1)
    return rows


def _label_names(path: str | Path) -> Iterator[tuple[str, str]]:
    for line in read_lines(path, "list of label names"):
        number, _, name = line.partition(" ")
        if count(number, 0, 999) is None or not name:
            raise ValueError(f"{path} holds the line {line!r}, expected a number and a name such as '4 gray'")
        yield number, name.strip()


def _read_xml(path: Path) -> Iterator[tuple[str, Label]]:
    for number, item in enumerate(read_items(path), start=1):
        name = item.get("imageName")
        if not name:
            raise ValueError(f"item {number} of {path} has no imageName: expected <Item imageName=... />")
        yield name, Label(_number(item, "colorID", path), _number(item, "typeID", path))


def _number(item: dict[str, str], name: str, path: Path) -> int:
    text = item.get(name, "0").strip()
    if count(text, 0, 999) is None:
        raise ValueError(f"{name} of {item.get('imageName')} in {path} is {text!r}: expected a number")
    return int(text) or UNKNOWN
