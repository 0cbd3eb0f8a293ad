"""A texture in which every face of a vehicle has its own rectangle to be painted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from torchreid_dfrst.city.solids import Box

MARGIN = 2  # texels around a chart, so that interpolation never reaches its neighbour
FIXED = 4  # fractional bits of OpenCV's drawing coordinates

Texel = tuple[int, int, int, int]
"""Blue, green, red and gloss, 0 to 255 each. Gloss is how much of the sky a surface mirrors."""

Points = Sequence[tuple[float, float]] | np.ndarray


@dataclass(frozen=True, eq=False)
class Chart:
    """One face's rectangle.

    Args:
        texels: ``(H, W, 4)`` uint8 view into the atlas, margin included.
        origin: x and y of the rectangle without margin in the atlas.
        size: metres across and down.
        box: the solid the face belongs to.
        face: name of the face.
    """

    texels: np.ndarray
    origin: tuple[int, int]
    size: tuple[float, float]
    box: Box
    face: str

    @property
    def texel_size(self) -> tuple[int, int]:
        """Texels across and down, without the margin."""
        return self.texels.shape[1] - 2 * MARGIN, self.texels.shape[0] - 2 * MARGIN

    def fill(self, colour: Texel) -> None:
        """Paint the rectangle and its margin."""
        self.texels[:] = colour

    def polygon(self, points: Points, colour: Texel) -> None:
        """Fill a polygon given in fractions of the chart, right and down."""
        pixels = (np.asarray(points, dtype=np.float64) * self.texel_size + MARGIN - 0.5) * (1 << FIXED)
        cv2.fillPoly(self.texels, [np.round(pixels).astype(np.int32)], colour, cv2.LINE_AA, FIXED)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Texel) -> None:
        """Fill a rectangle given in fractions of the chart."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, points: Points, colour: Texel, thickness: int = 1) -> None:
        """Draw an open line through points given in fractions of the chart."""
        pixels = (np.asarray(points, dtype=np.float64) * self.texel_size + MARGIN - 0.5) * (1 << FIXED)
        cv2.polylines(self.texels, [np.round(pixels).astype(np.int32)], False, colour, thickness, cv2.LINE_AA, FIXED)

    def outline(self, shape: Points, centre: tuple[float, float], radius_m: float) -> np.ndarray:
        """A shape with corners in ``[-1, 1]``, set at ``centre`` (fractions) with a radius in metres, in fractions."""
        return np.asarray(centre) + np.asarray(shape) * radius_m / np.asarray(self.size)

    def stamp(self, mask: np.ndarray, centre: tuple[float, float], height_m: float, colour: Texel) -> None:
        """Blend ``colour`` in through a grey mask ``(h, w)`` set upright at ``centre`` (fractions)."""
        across, down = self.texel_size
        tall = max(2, round(height_m / self.size[1] * down))
        wide = max(2, round(tall * mask.shape[1] / mask.shape[0]))
        stamp = cv2.resize(mask, (wide, tall), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
        left, top = round(centre[0] * across + MARGIN - wide / 2), round(centre[1] * down + MARGIN - tall / 2)
        x, y = max(left, 0), max(top, 0)
        target = self.texels[y : max(top + tall, 0), x : max(left + wide, 0)]
        stamp = stamp[y - top : y - top + target.shape[0], x - left : x - left + target.shape[1]]
        target[:] = np.round(target * (1 - stamp) + np.array(colour, np.float32) * stamp)

    def side_polygon(self, points: Points, colour: Texel) -> None:
        """Fill a polygon given in ``(x, z)`` metres on a left or right face."""
        self.polygon(self.side(points), colour)

    def side_rectangle(self, x: tuple[float, float], z: tuple[float, float], colour: Texel) -> None:
        """Fill a rectangle given in metres on a left or right face."""
        self.side_polygon([(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])], colour)

    def side_line(self, points: Points, colour: Texel) -> None:
        """Draw an open line given in ``(x, z)`` metres on a left or right face."""
        self.line(self.side(points), colour)

    def leaning(self, points: Points) -> np.ndarray:
        """Chart fractions of ``(x, up)`` on a left or right face: metres along, but a fraction of the local height."""
        along = self.box.along(*np.asarray(points, dtype=np.float64).T)
        up = np.asarray(points, dtype=np.float64)[:, 1]
        return np.stack([1 - along if self.face == "left" else along, 1 - up], -1)

    def side(self, points: Points) -> np.ndarray:
        """Chart fractions of ``(x, z)`` metres on a left or right face; x runs forward, z up."""
        metres = np.asarray(points, dtype=np.float64)
        along, up = self.box.side_fraction(metres[:, 0], metres[:, 1])
        return np.stack([1 - along if self.face == "left" else along, 1 - up], -1)


class Atlas:
    """Charts laid out on shelves of one image.

    Args:
        requests: ``(key, box, face, metres across, metres down)``; one chart each.
        density: texels per metre.
    """

    def __init__(self, requests: Sequence[tuple[tuple[str, str], Box, str, float, float]], density: float) -> None:
        wanted = []
        for key, box, face, across, down in requests:
            wide, tall = max(4, round(across * density)), max(4, round(down * density))
            wanted.append((tall, wide, key, box, face, (across, down)))
        wanted.sort(key=lambda item: (-item[0], -item[1], item[2]))
        shelf_width = max(384, max(item[1] for item in wanted) + 2 * MARGIN)
        x = y = shelf = 0
        places = []
        for tall, wide, *_ in wanted:
            if x + wide + 2 * MARGIN > shelf_width:
                x, y, shelf = 0, y + shelf, 0
            places.append((x, y))
            x, shelf = x + wide + 2 * MARGIN, max(shelf, tall + 2 * MARGIN)
        self.image = np.zeros((y + shelf, shelf_width, 4), np.uint8)
        self.charts: dict[tuple[str, str], Chart] = {}
        for (x, y), (tall, wide, key, box, face, size) in zip(places, wanted, strict=True):
            view = self.image[y : y + tall + 2 * MARGIN, x : x + wide + 2 * MARGIN]
            self.charts[key] = Chart(view, (x + MARGIN, y + MARGIN), size, box, face)

    def texels(self, key: tuple[str, str], chart: np.ndarray) -> np.ndarray:
        """Atlas coordinates, ``(..., 2)`` as ``cv2.remap`` counts them, of chart fractions ``(..., 2)``."""
        place = self.charts[key]
        return np.asarray(place.origin) + chart * place.texel_size - 0.5
