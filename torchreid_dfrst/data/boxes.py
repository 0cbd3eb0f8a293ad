"""Boxes of vehicles in frames: four columns of a table become a part of the image's name, and the image is cropped.

The name ends as the Media Fragments of W3C do: ``frame.jpg#xywh=20,60,90,40`` is 90 x 40 pixels from column 20, row 60.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from torchreid_dfrst.data.numbers import number
from torchreid_dfrst.data.problems import Problems, warn

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels; the first two may be below 0."""

SIZES = tuple((x, y, w, h) for x, y in (("x", "y"), ("left", "top")) for w, h in (("w", "h"), ("width", "height")))
CORNERS = tuple(
    tuple(names.split(","))
    for names in (
        "left,top,right,bottom",
        "l,t,r,b",
        "x1,y1,x2,y2",
        "x0,y0,x1,y1",
        "xmin,ymin,xmax,ymax",
        "minx,miny,maxx,maxy",
        "tlx,tly,brx,bry",
        "xtl,ytl,xbr,ybr",
        "startx,starty,endx,endy",
    )
)
CENTRES = {f"{axis}{word}" for axis in "xy" for word in ("c", "center", "centre")} | {"cx", "cy", "centerx", "centery"}
NAMES = CENTRES.union(*SIZES, *CORNERS)
"""Columns of boxes without marks and without a word for box in front, see ``_bare_column_name``."""
IMAGE_SIZE = {"width", "height"}
WHOLE = tuple(
    "bbox box bboxes boxes boundingbox boundingboxes roi rect xywh xyxy tlwh ltwh ltrb tlbr bboxxywh bboxxyxy bboxltwh "
    "bboxtlwh bbox0 polygon".split()
)
FORMS = "x,y,w,h or left,top,right,bottom in pixels"
_MARK = re.compile(r"#xywh=(-?\d{1,6}),(-?\d{1,6}),(\d{1,6}),(\d{1,6})", re.ASCII)


def split_name(path: str) -> tuple[str, Box | None]:
    """The file of an image and the box in it, None where the image is the whole file."""
    file, mark, rest = path.rpartition("#xywh=")
    found = _MARK.fullmatch(mark + rest) if file else None
    if found is None:
        return path, None
    left, top, width, height = map(int, found.groups())
    return file, (left, top, width, height)


def boxed_names(columns: Mapping[str, Sequence[str]], names: Sequence[str], where: str) -> list[str]:
    """Names of images with the boxes that a table's columns say; as they are where it has no such column.

    Upper and lower case of the columns are the same; ``where`` is the table, for messages.

    Raises:
        ValueError: two kinds of boxes, a part of one, a word that is no number, or a box without an area.
    """
    given = {_bare_column_name(name): name for name in columns}
    whole = [given[name] for name in WHOLE if name in given]
    if whole:
        raise ValueError(f"{where} has boxes in one column, {whole[0]!r}, which can mean several things: write {FORMS}")
    twice = [name for name in columns if (bare := _bare_column_name(name)) in NAMES and given[bare] != name]
    groups = [group for group in (*SIZES, *CORNERS) if all(name in given for name in group)]
    there = NAMES.intersection(given)
    sizes = {name for name in IMAGE_SIZE if given.get(name, "").lower() == name}
    if not groups and there <= sizes:  # of the image, if anything
        return list(names)
    if not groups:
        raise ValueError(
            f"{where} has a part of a box, the columns {', '.join(given[n] for n in given if n in there)}: give "
            f"{FORMS}, or rename them if they mean something else"
        )
    group = groups[0]
    others = there - IMAGE_SIZE - set(group)
    if others or twice:
        mine, more = (",".join(given[name] for name in given if name in part) for part in (set(group), others))
        more = more or ",".join(twice)
        raise ValueError(f"{where} has boxes in the columns {mine}, and {more} besides: keep one kind, {FORMS}")
    words = [[columns[given[name]][row] for name in group] for row in range(len(names))]
    boxes, problems = [_parse_box(row, group in CORNERS) for row in words], Problems()
    bad = [
        f"row {number + 2}: {','.join(row) if any(row) else 'no box'}"
        for number, (row, box) in enumerate(zip(words, boxes, strict=True))
        if box is None
    ]
    labels = ",".join(given[name] for name in group)
    problems.note(f"{{count}} [row|rows] of {where} [has|have] no box of a pixel or more in {labels}", bad)
    problems.raise_all()
    return [f"{name}#xywh={','.join(map(str, box or ()))}" for name, box in zip(names, boxes, strict=True)]


def _bare_column_name(name: str) -> str:
    """A column's name in lower case, without marks and without a word for box in front."""
    whole = re.sub(r"[\W_]+", "", name.lower())
    part = re.sub(r"^(boundingbox|bbox|box|bb|roi|rect|crop|det|obj|object)", "", whole)
    return part if part in NAMES else whole


def _parse_box(words: Sequence[str], corners: bool) -> Box | None:
    found = map(number, words)
    left, top, right, bottom = (math.nan if value is None else value for value in found)
    if not corners:
        right, bottom = left + right, top + bottom
    if not all(math.isfinite(edge) and abs(edge) < 1e6 for edge in (left, top, right, bottom)):
        return None
    if right - left < 1 or bottom - top < 1:  # fractions of the image too
        return None
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in (left, top, right, bottom))
    return left, top, right - left, bottom - top


def inside(box: Box, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the part of a box that lies in an image; None if less than half of it does."""
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    if right <= left or bottom <= top or 2 * (right - left) * (bottom - top) < box[2] * box[3]:
        return None
    return left, top, right, bottom


def warn_of_clipped(paths: Iterable[str]) -> None:
    """Log how many boxes stuck out of their images."""
    warn("{count} [box sticks|boxes stick] out of [its image and was|their images and were] clipped", sorted(paths))
