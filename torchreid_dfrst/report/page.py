"""One HTML file that opens from disk, without a network: ranked lists, a map of the cameras, a time line, and why."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from PIL import Image

from torchreid_dfrst import files
from torchreid_dfrst.messages import numbered
from torchreid_dfrst.report.camera_map import places
from torchreid_dfrst.report.canvas import small
from torchreid_dfrst.sightings import CameraNetwork

LIMIT = 15_000_000
"""Bytes of a page; what would not go in is left out, and said."""
ROOM, ROOM_OF_AN_IMAGE = 200_000, 50
"""Bytes of them for everything but queries and images, and of an image for what is neither name nor picture."""
SHOWN = ("name", "camera", "time", "vehicle")


@dataclass(eq=False)
class Page:
    """What a page shows, filled query by query until it is full.

    Args:
        title: printed above.
        rows: names of the ranked lists of each query, side by side.
        notes: a sentence each, printed below the title.
        network: road distances, for the map; None without a map.
        limit: bytes of the file.
        read: name of an image to its small JPEG, or None where there is none.
    """

    title: str
    rows: Sequence[str]
    notes: list[str] = field(default_factory=list)
    network: CameraNetwork | None = None
    limit: int = LIMIT
    read: Callable[[str], bytes | None] = small
    _queries: list[dict[str, Any]] = field(default_factory=list)
    _images: list[dict[str, Any]] = field(default_factory=list)
    _place: dict[str, int] = field(default_factory=dict)
    _left_out: int = 0
    _size: int = ROOM

    def add(self, query: dict[str, Any], lists: Sequence[Sequence[dict[str, Any]]]) -> bool:
        """Add a query and its ranked lists, one for each row.

        Args:
            query: ``name``, ``camera``, ``time`` (seconds or None), ``vehicle`` (empty where not known).
            lists: of each row, hits with the same keys and ``distance``, ``right`` (None where nobody knows), and, as
                far as known, ``appearance``, ``transit``, ``weight``, ``probability`` and ``why``.

        Returns:
            Whether there was room for it; once there is none, later queries are left out too.

        Raises:
            ValueError: what ``read`` gives for an image is no JPEG.
        """
        if self._left_out:
            self._left_out += 1
            return False
        before, size = len(self._images), self._size
        kept = {**query, "image": self._image(query)}
        kept["lists"] = [
            [{"image": self._image(hit), **{k: v for k, v in hit.items() if k not in SHOWN}} for hit in one]
            for one in lists
        ]
        self._size += len(json.dumps(kept))
        if self._size > self.limit and self._queries:
            for image in self._images[before:]:
                del self._place[image["key"]]
            del self._images[before:]
            self._size, self._left_out = size, 1
            return False
        self._queries.append(kept)
        return True

    def _image(self, about: dict[str, Any]) -> int:
        own = {name: about.get(name) for name in SHOWN}
        key = json.dumps(own)
        if key in self._place:
            return self._place[key]
        data = self.read(about["name"])
        size = [0, 0]
        if data is not None:
            try:
                with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                    size = list(image.size)
            except OSError as error:
                raise ValueError(f"the small image of {about['name']} is no JPEG: add it anew") from error
        picture = "" if data is None else "data:image/jpeg;base64," + base64.b64encode(data).decode()
        self._place[key] = len(self._images)
        self._images.append({**own, "size": size, "picture": picture, "key": key})
        self._size += len(key) + len(picture) + ROOM_OF_AN_IMAGE
        return self._place[key]

    def text(self) -> str:
        """The whole file."""
        notes = list(self.notes)
        if self._left_out:
            words = "left out: {count} [query|queries], for which there was no room in a file of %.0f MB"
            notes.append(numbered(words, self._left_out) % (self.limit / 1e6))
        lost = sum(not image["picture"] for image in self._images)
        if lost:
            notes.append(numbered("{count} [image is|images are] not where the features say, and not shown", lost))
        images = [{name: value for name, value in image.items() if name != "key"} for image in self._images]
        content = {
            "title": self.title, "rows": list(self.rows), "notes": notes, "cameras": places(self.network),
            "queries": self._queries, "images": images,
        }  # fmt: skip
        # no "<" of any name can end the script or begin a tag
        data = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
        template = (resources("torchreid_dfrst.report") / "page.html").read_text(encoding="utf-8")
        head, _, rest = template.partition("{title}")
        middle, _, tail = rest.partition("{data}")
        return "".join([head, html.escape(self.title), middle, data, tail])

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all."""
        files.write({Path(path): self.text().encode("utf-8", "replace")})
