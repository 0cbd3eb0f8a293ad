"""From a vehicle to arrays that can be drawn: vertices, faces and the painted atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.city.atlas import Atlas
from torchreid_dfrst.city.bodies import Part, body_parts
from torchreid_dfrst.city.skin import PAINTED, WHEEL, paint
from torchreid_dfrst.city.vehicles import Vehicle

WHEEL_CORNERS = 16


@dataclass(frozen=True, eq=False)
class Mesh:
    """A vehicle ready to be drawn, in its own frame: x forward, y left, z up, metres, origin on the ground.

    Args:
        points: ``(V, 3)`` float64 vertices.
        normals: ``(V, 3)`` outward unit normals.
        texels: ``(V, 2)`` atlas coordinates as ``cv2.remap`` counts them.
        quads: ``(F, 4)`` vertex numbers, clockwise as seen from outside.
        part: ``(F,)`` index into ``parts`` of every quad.
        parts: what the vehicle consists of.
        discs: ``(4, 16)`` vertex numbers of the wheels' outer faces.
        tyres: ``(4, 32)`` vertex numbers of the wheels' outer and inner rims.
        tyre_texel: atlas coordinates of a spot of tyre.
        atlas: ``(H, W, 4)`` uint8 blue, green, red and gloss.
    """

    points: np.ndarray
    normals: np.ndarray
    texels: np.ndarray
    quads: np.ndarray
    part: np.ndarray
    parts: tuple[Part, ...]
    discs: np.ndarray
    tyres: np.ndarray
    tyre_texel: tuple[float, float]
    atlas: np.ndarray

    @property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and greatest x, y and z."""
        return self.points.min(axis=0), self.points.max(axis=0)


def build(vehicle: Vehicle) -> Mesh:
    """Shape and paint a vehicle."""
    parts = body_parts(vehicle.model, vehicle.extras)
    requests = []
    for name in dict.fromkeys(part.name for part in parts):
        box = next(part.box for part in parts if part.name == name)
        long, wide, high = box.length, 2 * max(box.half_width), box.height
        if name in PAINTED:
            requests += [((name, face), box, face, long, high) for face in ("left", "right")]
            requests += [((name, face), box, face, wide, high) for face in ("front", "rear")]
            requests += [((name, "top"), box, "top", long, wide)]
        else:
            requests += [((name, "all"), box, "all", 0.1, 0.1)]
    wheel = parts[0].box
    requests += [((WHEEL, "all"), wheel, "all", 0.8, 0.8)]
    atlas = Atlas(requests, density=40 if vehicle.model.length > 6 else 64)
    paint(vehicle, atlas)

    points, normals, texels, quads, index = [], [], [], [], []
    count = 0
    for number, part in enumerate(parts):
        for face, grid, normal, chart in part.box.faces(part.cells):
            key = (part.name, face if part.name in PAINTED else "all")
            rows, columns = grid.shape[:2]
            corner = count + np.arange(rows * columns).reshape(rows, columns)
            quad = np.stack([corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]], -1).reshape(-1, 4)
            points.append(grid.reshape(-1, 3))
            normals.append(normal.reshape(-1, 3))
            texels.append(atlas.texels(key, chart if part.name in PAINTED else chart * 0 + 0.5).reshape(-1, 2))
            quads.append(quad)
            index.append(np.full(len(quad), number))
            count += rows * columns
    wheels, wheel_normals, wheel_chart = _wheels(vehicle)
    points.append(wheels.reshape(-1, 3))
    normals.append(wheel_normals.reshape(-1, 3))
    texels.append(atlas.texels((WHEEL, "all"), wheel_chart).reshape(-1, 2))
    rims = count + np.arange(8 * WHEEL_CORNERS).reshape(4, 2, WHEEL_CORNERS)
    tyre = atlas.texels((WHEEL, "all"), np.array([0.5, 0.04]))
    return Mesh(
        points=np.concatenate(points),
        normals=np.concatenate(normals),
        texels=np.concatenate(texels),
        quads=np.concatenate(quads),
        part=np.concatenate(index),
        parts=tuple(parts),
        discs=rims[:, 0],
        tyres=rims.reshape(4, -1),
        tyre_texel=(float(tyre[0]), float(tyre[1])),
        atlas=atlas.image,
    )


def _wheels(vehicle: Vehicle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rims of the four wheels, outer then inner: points, normals ``(4, 2, 16, 3)`` and chart ``(4, 2, 16, 2)``."""
    model = vehicle.model
    angle = np.arange(WHEEL_CORNERS) * 2 * np.pi / WHEEL_CORNERS
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    points = np.zeros((4, 2, WHEEL_CORNERS, 3))
    normals = np.zeros_like(points)
    for number, (x, side) in enumerate((x, side) for x in model.axles for side in (1, -1)):
        half = model.width / 2 * 0.985
        for rim, y in enumerate((half, half - 0.24)):
            points[number, rim, :, 0] = x + model.wheel * circle[:, 0]
            points[number, rim, :, 1] = side * y
            points[number, rim, :, 2] = model.wheel * (1 + circle[:, 1])
        normals[number, ..., 1] = side
    chart = np.broadcast_to(0.5 + 0.5 * circle * (1, -1), (4, 2, WHEEL_CORNERS, 2))
    return points, normals, chart
