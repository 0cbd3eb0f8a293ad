"""Deformed boxes: the one solid of which every vehicle is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FACES = ("left", "right", "front", "rear", "top")


@dataclass(frozen=True)
class Box:
    """A box bent into a car body, in the car's frame: x forward, y left, z up, metres, origin on the ground.

    Args:
        rear: x of the rear face at its bottom and at its top.
        front: x of the front face at its bottom and at its top.
        bottom: z of the lower rim.
        top: ``(fraction of the length from the rear, z)`` knots of the upper surface, joined by straight lines.
        half_width: half the width at the bottom and at the top.
        bulge: how far the sides bow out half-way up.
        crown: how far the upper surface falls from the middle line to its sides.
        nose: how far the front corners are swept back.
        tail: how far the rear corners are swept forward.
        taper: part of the width that is lost towards both ends.
        y: sideways place of the box.
    """

    rear: tuple[float, float]
    front: tuple[float, float]
    bottom: float
    top: tuple[tuple[float, float], ...]
    half_width: tuple[float, float]
    bulge: float = 0.0
    crown: float = 0.0
    nose: float = 0.0
    tail: float = 0.0
    taper: float = 0.0
    y: float = 0.0

    @classmethod
    def brick(cls, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], **bends: float) -> Box:
        """A plain box between two corners."""
        half = (y[1] - y[0]) / 2
        return cls((x[0],) * 2, (x[1],) * 2, z[0], ((0.0, z[1]), (1.0, z[1])), (half,) * 2, y=sum(y) / 2, **bends)

    @property
    def length(self) -> float:
        """Length at the bottom."""
        return self.front[0] - self.rear[0]

    @property
    def height(self) -> float:
        """Greatest height of the upper surface over the lower rim."""
        return max(z for _, z in self.top) - self.bottom

    def roof(self, along: np.ndarray | float) -> np.ndarray:
        """Z of the upper surface on the middle line at fractions ``along`` of the length."""
        knots = np.array(self.top)
        return np.interp(along, knots[:, 0], knots[:, 1])

    def point(self, along: np.ndarray | float, across: np.ndarray | float, up: np.ndarray | float) -> np.ndarray:
        """Place in metres of box coordinates.

        Args:
            along: 0 at the rear to 1 at the front.
            across: -1 at the right to 1 at the left.
            up: 0 at the lower rim to 1 at the upper surface.

        Returns:
            ``(..., 3)``.
        """
        ahead, behind = (np.clip(a, 0, 1) ** 2 for a in ((along - 0.72) / 0.28, (0.22 - along) / 0.22))
        start, end = (a + (b - a) * up for a, b in (self.rear, self.front))
        sweep = np.abs(across) ** 2.5
        x = start + (end - start) * along - self.nose * sweep * ahead + self.tail * sweep * behind
        half = self.half_width[0] + (self.half_width[1] - self.half_width[0]) * up + self.bulge * 4 * up * (1 - up)
        y = self.y + across * half * (1 - self.taper * (ahead + behind))
        z = self.bottom + (self.roof(along) - self.bottom - self.crown * across**2) * up
        return np.stack(np.broadcast_arrays(x, y, z), axis=-1)

    def side_fraction(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractions ``(along, up)`` of a place seen from the side; unbounded outside the box."""
        up = np.clip((z - self.bottom) / self.height, 0, 1)
        for _ in range(2):  # the slope of the ends depends on the height, the height on the place along
            along = self.along(x, up)
            up = (z - self.bottom) / (self.roof(np.clip(along, 0, 1)) - self.bottom)
        return along, up

    def along(self, x: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Fraction of the length at ``x`` metres and a fraction ``up`` of the height."""
        start, end = (a + (b - a) * up for a, b in (self.rear, self.front))
        return (x - start) / (end - start)

    def faces(self, cells: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """The five visible faces as grids.

        Args:
            cells: number of cells along, across and up.

        Yields:
            ``(name, points (R, C, 3), normals (R, C, 3), chart (R, C, 2))``; chart coordinates run from 0 to 1,
            to the right and down as somebody in front of that face sees it (the top: front to the right).
        """
        nx, ny, nz = cells
        along = np.unique(np.concatenate([np.linspace(0, 1, nx + 1), [a for a, _ in self.top]]))
        across, up = np.linspace(-1, 1, ny + 1), np.linspace(0, 1, nz + 1)
        for name in FACES:
            if name in ("left", "right"):
                u = along[::-1] if name == "left" else along
                grid = np.meshgrid(u, up[::-1])
                points = self.point(grid[0], 1.0 if name == "left" else -1.0, grid[1])
                chart = np.stack([1 - grid[0] if name == "left" else grid[0], 1 - grid[1]], -1)
            elif name in ("front", "rear"):
                grid = np.meshgrid(across if name == "front" else -across, up[::-1])
                points = self.point(float(name == "front"), grid[0], grid[1])
                chart = np.stack([(1 + grid[0] * (1 if name == "front" else -1)) / 2, 1 - grid[1]], -1)
            else:
                grid = np.meshgrid(along, -across)
                points = self.point(grid[0], grid[1], 1.0)
                chart = np.stack([grid[0], (1 - grid[1]) / 2], -1)
            yield name, points, _normals(points), chart


def _normals(points: np.ndarray) -> np.ndarray:
    """Outward unit normals of a grid whose rows run down and whose columns run right."""
    normal = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    return -normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
