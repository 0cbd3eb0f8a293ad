"""Draw a vehicle as a camera sees it.

Painter's order on an image of face numbers, then texture and light once per visible pixel: drawing costs a few
microseconds per face however richly the faces are painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from torchreid_dfrst.city.bodies import Part
from torchreid_dfrst.city.mesh import Mesh, build
from torchreid_dfrst.city.vehicles import Vehicle

FIXED = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True, eq=False)
class Lens:
    """A pinhole camera.

    Args:
        position: ``(3,)`` metres in the world; z is the height over the ground.
        rotation: ``(3, 3)`` whose rows are the camera's right, down and forward directions in the world.
        focal: focal length in pixels.
        centre: principal point in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    centre: tuple[float, float]

    @classmethod
    def looking(
        cls, position: np.ndarray, target: np.ndarray, focal: float, centre: tuple[float, float], roll: float = 0.0
    ) -> Lens:
        """A camera at ``position`` that looks at ``target``; ``roll`` in radians turns the picture."""
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        turned = np.cos(roll) * right + np.sin(roll) * down
        return cls(position, np.stack([turned, np.cross(forward, turned), forward]), focal, centre)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels ``(..., 2)`` of world points ``(..., 3)`` that lie before the camera."""
        seen = (points - self.position) @ self.rotation.T
        return self.focal * seen[..., :2] / seen[..., 2:] + self.centre


@dataclass(frozen=True, eq=False)
class Light:
    """Sun and sky.

    Args:
        direction: ``(3,)`` unit vector towards the sun, in the world.
        sun: strength of the sun, 0 in the shade.
        sky: strength of the sky.
        tint: blue, green and red factors.
    """

    direction: np.ndarray
    sun: float
    sky: float
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Pose:
    """Where a vehicle stands: metres on the ground, and its heading in radians from the x axis."""

    x: float
    y: float
    heading: float

    @property
    def rotation(self) -> np.ndarray:
        """``(3, 3)``: world coordinates of the vehicle's axes, as columns."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    @property
    def position(self) -> np.ndarray:
        """``(3,)`` place on the ground."""
        return np.array([self.x, self.y, 0.0])


@dataclass(frozen=True, eq=False)
class Projection:
    """A mesh before a lens; everything that does not depend on which pixels are drawn.

    Args:
        mesh: the vehicle.
        pixels: ``(V, 2)`` in the camera's frame.
        eye: ``(3,)`` the camera in the vehicle's frame.
        sun: ``(3,)`` direction of the sun in the vehicle's frame.
        lens: the camera.
        pose: where the vehicle stands.
    """

    mesh: Mesh
    pixels: np.ndarray
    eye: np.ndarray
    sun: np.ndarray
    lens: Lens
    pose: Pose

    @classmethod
    def of(cls, mesh: Mesh, pose: Pose, lens: Lens, light: Light) -> Projection:
        """Bring lens and light into the vehicle's frame and project the mesh."""
        turn = pose.rotation
        eye = turn.T @ (lens.position - pose.position)
        pixels = lens.project(mesh.points @ turn.T + pose.position)
        return cls(mesh, pixels, eye, turn.T @ light.direction, lens, pose)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels of points ``(..., 3)`` in the vehicle's frame."""
        return self.lens.project(points @ self.pose.rotation.T + self.pose.position)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the vehicle in pixels."""
        low, high = self.pixels.min(axis=0), self.pixels.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def draw(projection: Projection, light: Light, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a vehicle.

    Args:
        projection: mesh before a lens.
        light: as given to the projection.
        window: left, top, width and height of the picture within the camera's frame, pixels.

    Returns:
        ``(H, W, 3)`` float32 blue, green, red times coverage, on a scale of 0 to 255 (highlights go beyond), and
        ``(H, W)`` float32 coverage in ``[0, 1]``.
    """
    left, top, width, height = window
    fine = float(np.clip(np.sqrt(130_000 / (width * height)), 1.0, 2.0))
    columns, rows = round(width * fine), round(height * fine)
    scale = np.array([columns / width, rows / height])
    pixels = (projection.pixels - (left, top)) * scale - 0.5
    values = np.concatenate([projection.mesh.texels, _shading(projection, light)], axis=1)
    outlines, planes = _faces(projection, pixels, values)
    canvas = np.zeros((rows, columns), np.int32)
    for number, outline in enumerate(outlines, start=1):
        cv2.fillConvexPoly(canvas, outline, number, cv2.LINE_8, FIXED)
    u, v, matt, mirror = _interpolate(planes, canvas)
    texel = cv2.remap(projection.mesh.atlas, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    *colours, gloss = cv2.split(texel)
    shine = gloss * mirror  # where there is no face, both factors are 0
    layers = [cv2.resize((c * matt + shine) * t, (width, height), interpolation=cv2.INTER_AREA)
              for c, t in zip(colours, light.tint, strict=True)]  # fmt: skip
    cover = cv2.resize((canvas > 0).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return cv2.merge(layers), cover


def _shading(projection: Projection, light: Light) -> np.ndarray:
    """``(V, 2)``: factor on the paint, and what a perfect mirror would add."""
    normals, points = projection.mesh.normals, projection.mesh.points
    to_eye = projection.eye - points
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    facing = np.clip(np.einsum("vc,vc->v", normals, to_eye), 0, 1)
    lit = np.clip(normals @ projection.sun, 0, 1) * light.sun
    dim = 0.62 + 0.38 * np.clip(points[:, 2] / 0.7, 0, 1)  # the road takes light from the lower parts
    matt = (lit + light.sky * (0.72 + 0.28 * normals[:, 2])) * dim
    bounce = 2 * facing[:, None] * normals - to_eye
    horizon = np.clip(bounce[:, 2] / 0.25 + 0.35, 0, 1)  # bright sky above, dark street below
    sky = light.sky * (0.35 + 0.75 * horizon - 0.25 * np.clip(bounce[:, 2], 0, 1))
    glare = 1.6 * light.sun * np.clip(bounce @ projection.sun, 0, 1) ** 40
    mirror = (0.16 + 0.84 * (1 - facing) ** 4) * sky + glare * 0.7
    return np.stack([matt, mirror], axis=1)


def _faces(projection: Projection, pixels: np.ndarray, values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Visible faces from back to front: outlines in fixed point, and ``(1 + F, 4, 3)`` planes of the four values."""
    mesh = projection.mesh
    corners = pixels[mesh.quads]
    diagonals = corners[:, 2:] - corners[:, :2]
    area = diagonals[:, 0, 0] * diagonals[:, 1, 1] - diagonals[:, 0, 1] * diagonals[:, 1, 0]
    shown = np.flatnonzero(area > 1e-3)
    rank = np.array(_ranks(mesh.parts, projection.eye))[mesh.part[shown]]
    far = np.linalg.norm(mesh.points[mesh.quads[shown]].mean(axis=1) - projection.eye, axis=1)
    shown = shown[np.lexsort((-far, rank))]
    fixed = np.round(pixels * (1 << FIXED)).astype(np.int32)
    discs = mesh.discs[np.sign(mesh.normals[mesh.discs[:, 0], 1]) * projection.eye[1] > mesh.points[:, 1].max()]
    tyre_planes = np.zeros((len(mesh.tyres), 4, 3))
    tyre_planes[:, :, 2] = (*mesh.tyre_texel, 0.5, 0.0)
    outlines = [cv2.convexHull(fixed[tyre]) for tyre in mesh.tyres]
    outlines += list(fixed[mesh.quads[shown]])
    outlines += list(fixed[discs])
    squares = np.concatenate([mesh.quads[shown], discs[:, ::4]])
    planes = np.concatenate([np.zeros((1, 4, 3)), tyre_planes, _planes(pixels[squares], values[squares])])
    return outlines, planes.astype(np.float32)


def _ranks(parts: tuple[Part, ...], eye: np.ndarray) -> list[int]:
    """Painter's rank of every part, seen from ``eye`` in the vehicle's frame."""
    blocks = sorted({part.block for part in parts if part.block >= 0})
    borders = [min(p.box.rear[0] for p in parts if p.block == block) for block in blocks]
    ahead = len(blocks) < 2 or eye[0] > borders[-1]  # a camera before the cab sees the cab cover the load
    ranks = []
    for part in parts:
        order = part.order
        if part.aside == "y":
            order = 5 if part.box.y * eye[1] > 0 else 2
        elif part.aside == "x":
            order = 5 if eye[0] < part.box.rear[0] else 2
        block = part.block if ahead or part.block < 0 else len(blocks) - 1 - part.block
        ranks.append(10 * block + order)
    return ranks


def _planes(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values as linear functions of the pixel: ``(F, K, 3)`` factors of x, y and 1 from ``(F, 4, 2)``, ``(F, 4, K)``.

    The faces are small, so the best parallelogram stands for the quadrilateral and perspective within it is dropped.
    """
    right = (corners[:, 1] + corners[:, 2] - corners[:, 0] - corners[:, 3]) / 2
    down = (corners[:, 3] + corners[:, 2] - corners[:, 0] - corners[:, 1]) / 2
    value_right = (values[:, 1] + values[:, 2] - values[:, 0] - values[:, 3]) / 2
    value_down = (values[:, 3] + values[:, 2] - values[:, 0] - values[:, 1]) / 2
    area = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
    area = np.where(np.abs(area) < 0.05, np.inf, area)[:, None]  # a sliver shows its middle
    by_x = (value_right * down[:, 1:] - value_down * right[:, 1:]) / area
    by_y = (value_down * right[:, :1] - value_right * down[:, :1]) / area
    middle, place = values.mean(axis=1), corners.mean(axis=1)
    return np.stack([by_x, by_y, middle - by_x * place[:, :1] - by_y * place[:, 1:]], axis=-1)


def _interpolate(planes: np.ndarray, canvas: np.ndarray) -> list[np.ndarray]:
    """The four values at every pixel of an image of face numbers, float32."""
    x = np.arange(canvas.shape[1], dtype=np.float32)[None, :]
    y = np.arange(canvas.shape[0], dtype=np.float32)[:, None]
    images = []
    for k in range(planes.shape[1]):
        image = planes[:, k, 0].take(canvas)
        image *= x
        image += planes[:, k, 1].take(canvas) * y
        image += planes[:, k, 2].take(canvas)
        images.append(image)
    return images


def render(
    vehicle: Vehicle,
    azimuth: float = 35.0,
    elevation: float = 15.0,
    *,
    size: tuple[int, int] = (192, 144),
    background: int = 150,
) -> np.ndarray:
    """One vehicle on a plain ground, for pictures and tests.

    Args:
        vehicle: what to draw.
        azimuth: degrees around the vehicle: 0 shows the front, 90 its left side, 180 the rear.
        elevation: degrees above the ground.
        size: width and height in pixels.
        background: grey value.

    Returns:
        ``(H, W, 3)`` uint8, BGR.
    """
    mesh = build(vehicle)
    a, e = np.deg2rad([azimuth, elevation])
    low, high = mesh.extent
    target = np.array([0.0, 0.0, high[2] / 2])
    reach = 6.0 * float(np.linalg.norm(high - low)) / 2
    eye = target + reach * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    light = Light(np.array([0.42, 0.35, 0.84]), 0.55, 0.62)
    lens = Lens.looking(eye, target, 1.0, (0.0, 0.0))
    left, top, right, bottom = Projection.of(mesh, Pose(0, 0, 0), lens, light).bounds
    focal = min(0.9 * size[0] / (right - left), 0.9 * size[1] / (bottom - top))
    middle = (size[0] / 2 - focal * (left + right) / 2, size[1] / 2 - focal * (top + bottom) / 2)
    projection = Projection.of(mesh, Pose(0, 0, 0), Lens(lens.position, lens.rotation, focal, middle), light)
    picture, cover = draw(projection, light, (0, 0, *size))
    return np.clip(picture + background * (1 - cover[..., None]), 0, 255).round().astype(np.uint8)
