"""Cameras: where they hang, the street they see, their light and their faults."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from torchreid_dfrst.city.mesh import Mesh
from torchreid_dfrst.city.render import Lens, Light, Pose, Projection, draw
from torchreid_dfrst.city.travel import Passage, Roads

FRAME = (1280, 880)  # width and height of a camera's picture, pixels
GROUND_M, GROUND_PIXELS = 64.0, 1024
LANE_M = 2.1  # how far to the right of the middle one drives
BEND_M = 8.0  # how far before and after the junction a turn begins and ends
TREES = ((45, 90, 50), (40, 75, 60), (55, 105, 75), (60, 80, 95))
WALLS = ((120, 140, 160), (150, 160, 165), (95, 110, 150), (110, 110, 115), (165, 180, 190), (90, 100, 105))


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera and its empty street.

    Args:
        number: from 1.
        lens: place and optics; the junction is the origin of the world.
        light: sun and sky there.
        frame: ``(H, W, 3)`` uint8 BGR, the empty street.
        tone: ``(256, 3)`` uint8 lookup table: exposure, contrast and colour cast.
        blur: standard deviation of the blur in pixels.
        noise: standard deviation of the sensor's noise in grey levels.
        quality: of the JPEG, 1 to 100.
        pole: column of the frame in which a pole stands before the street, or None.
    """

    number: int
    lens: Lens
    light: Light
    frame: np.ndarray
    tone: np.ndarray
    blur: float
    noise: float
    quality: int
    pole: float | None


def pose_on(passage: Passage, past_m: float) -> Pose:
    """Where a vehicle is ``past_m`` metres after the middle of a junction at the origin; it keeps to the right."""
    come, leave = (np.array([np.cos(a), np.sin(a)]) for a in (passage.come, passage.leave))
    right = lambda way: np.array([way[1], -way[0]]) * LANE_M  # noqa: E731
    entry, out = -BEND_M * come + right(come), BEND_M * leave + right(leave)
    share = (past_m / BEND_M + 1) / 2
    if share < 0:
        place, way = entry + come * (past_m + BEND_M), come
    elif share > 1:
        place, way = out + leave * (past_m - BEND_M), leave
    else:
        corner = (right(come) + right(leave)) / 2
        place = (1 - share) ** 2 * entry + 2 * share * (1 - share) * corner + share**2 * out
        way = (1 - share) * (corner - entry) + share * (out - corner)
    return Pose(float(place[0]), float(place[1]), float(np.arctan2(way[1], way[0])))


def make_camera(number: int, roads: Roads, rng: np.random.Generator, parked: list[Mesh]) -> Camera:
    """Hang a camera at its junction and look at the street.

    Args:
        number: from 1.
        roads: the town; the roads that meet at this junction are drawn.
        rng: source of randomness.
        parked: vehicles that may stand at the kerb.
    """
    junction = int(roads.camera_at[number - 1])
    arms = [roads.bearing(junction, int(other)) for other in np.flatnonzero(roads.length_m[junction])]
    bearing, away = rng.uniform(-np.pi, np.pi), rng.uniform(13.0, 24.0)
    place = np.array([away * np.cos(bearing), away * np.sin(bearing), rng.uniform(3.2, 8.5)])
    aim = np.array([*rng.uniform(-1.0, 1.0, 2), 0.8])
    focal = rng.uniform(30.0, 46.0) * float(np.linalg.norm(place - aim))
    lens = Lens.looking(place, aim, focal, (FRAME[0] / 2, FRAME[1] * 0.55), float(rng.normal(0, 0.02)))
    high, sun_bearing = rng.uniform(0.35, 1.1), rng.uniform(-np.pi, np.pi)
    direction = np.array([np.cos(high) * np.cos(sun_bearing), np.cos(high) * np.sin(sun_bearing), np.sin(high)])
    shaded = rng.random() < 0.4
    light = Light(direction, 0.0 if shaded else float(rng.uniform(0.3, 0.65)), float(rng.uniform(0.6, 0.8)))
    frame = _street(lens, light, arms, rng)
    frame = _park(frame, lens, light, arms, parked, rng)
    gain = np.array([rng.normal(1, 0.05), 1.0, rng.normal(1, 0.05)]) * rng.choice((0.75, 0.9, 1.05, 1.2, 1.35))
    level = np.arange(256)[:, None] / 255.0
    tone = 255 * (gain * level) ** rng.uniform(0.8, 1.25) + rng.uniform(0, 18)
    return Camera(
        number=number,
        lens=lens,
        light=light,
        frame=frame,
        tone=np.clip(tone, 0, 255).round().astype(np.uint8),
        blur=float(rng.choice((0.0, 0.4, 0.7, 1.1, 1.8))),
        noise=float(rng.uniform(1.0, 7.0)),
        quality=int(rng.integers(45, 93)),
        pole=float(rng.uniform(0.25, 0.75) * FRAME[0]) if rng.random() < 0.25 else None,
    )


def _street(lens: Lens, light: Light, arms: list[float], rng: np.random.Generator) -> np.ndarray:
    """The empty street as the lens sees it."""
    ground = _ground(arms, rng)
    scale = GROUND_PIXELS / GROUND_M
    to_world = np.array([[1 / scale, 0, -GROUND_M / 2], [0, 1 / scale, -GROUND_M / 2], [0, 0, 1]])
    camera = np.array([[lens.focal, 0, lens.centre[0]], [0, lens.focal, lens.centre[1]], [0, 0, 1]])
    plane = np.column_stack([lens.rotation[:, :2], -lens.rotation @ lens.position])
    frame = cv2.warpPerspective(
        ground, camera @ plane @ to_world, FRAME, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    frame = cv2.convertScaleAbs(frame, alpha=min(1.1, light.sky + 0.6 * light.sun * light.direction[2]))
    forward = lens.rotation[2, :2] / np.linalg.norm(lens.rotation[2, :2])
    aside = np.array([forward[1], -forward[0]])
    # whatever stands far off hides the horizon: a row of walls and trees across the view
    for distance in (30.0, 24.0):
        for offset in np.arange(-32.0, 32.0, 8.0) + rng.uniform(-3, 3):
            spot = forward * distance + aside * offset
            if distance < 26 and any(_on_road(spot, arm, 7.5) for arm in arms):
                continue
            if distance > 26 or rng.random() < 0.6:
                _wall(frame, lens, light, spot, aside, rng)
    grain = rng.normal(0, 2.5, (FRAME[1], FRAME[0], 1))
    return np.clip(frame + grain, 0, 255).round().astype(np.uint8)


def _on_road(spot: np.ndarray, arm: float, half_m: float) -> bool:
    way = np.array([np.cos(arm), np.sin(arm)])
    along, across = spot @ way, spot @ (-way[1], way[0])
    return bool(along > -half_m and abs(across) < half_m)


def _ground(arms: list[float], rng: np.random.Generator) -> np.ndarray:
    """Asphalt, kerbs and markings from above: ``(1024, 1024, 3)`` uint8, 64 m across, the junction in the middle."""
    scale = GROUND_PIXELS / GROUND_M
    base = ((70, 105, 80), (125, 130, 135), (100, 120, 145), (90, 95, 100))[int(rng.integers(4))]
    asphalt = np.full(3, rng.uniform(80, 140)) + rng.uniform(-8, 8, 3)
    kerb = np.clip(asphalt + rng.uniform(25, 55), 0, 220)
    white, yellow = (205, 208, 210), (80, 175, 205)
    image = np.full((GROUND_PIXELS, GROUND_PIXELS, 3), base, np.uint8)

    def strip(arm: float, start: float, end: float, left: float, right: float, colour: object) -> None:
        way = np.array([np.cos(arm), np.sin(arm)])
        across = np.array([-way[1], way[0]])
        corners = [way * s + across * t for s, t in ((start, left), (end, left), (end, right), (start, right))]
        pixels = np.round((np.array(corners) + GROUND_M / 2) * scale * 16).astype(np.int32)
        cv2.fillConvexPoly(image, pixels, tuple(float(c) for c in np.asarray(colour)), cv2.LINE_AA, 4)

    half = float(rng.uniform(4.5, 6.5))
    for widen, colour in ((2.2, kerb * 0.95), (0.25, kerb), (0.0, asphalt)):
        for arm in arms:
            strip(arm, -half - widen, 60, -half - widen, half + widen, colour)
    for arm in arms:
        middle = yellow if rng.random() < 0.5 else white
        for start in np.arange(9.0, 46.0, 4.0):
            strip(arm, start, start + (4.0 if middle == yellow else 2.0), -0.08, 0.08, middle)
        strip(arm, 8.2, 8.6, -half + 0.3, -0.1, white)
        if rng.random() < 0.45:
            for t in np.arange(-half + 0.5, half - 0.6, 0.95):
                strip(arm, 5.0, 7.6, t, t + 0.5, white)
    for size, strength in ((16, 9.0), (128, 7.0), (1024, 5.0)):
        coarse = rng.normal(0, strength, (size, size)).astype(np.float32)
        noise = cv2.resize(coarse, (GROUND_PIXELS, GROUND_PIXELS), interpolation=cv2.INTER_LINEAR)
        image = np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 9))):  # patches of newer asphalt
        spot = (rng.uniform(-9, 9, 2) + GROUND_M / 2) * scale
        box = cv2.boxPoints(
            (tuple(map(float, spot)), tuple(map(float, rng.uniform(8, 60, 2))), float(rng.uniform(0, 90)))
        )
        cv2.fillConvexPoly(image, np.round(box).astype(np.int32), tuple(map(float, asphalt * rng.uniform(0.8, 1.1))))
    return image


def _wall(
    frame: np.ndarray, lens: Lens, light: Light, spot: np.ndarray, aside: np.ndarray, rng: np.random.Generator
) -> None:
    """A house front with windows, or trees, 9 m wide, across the view at ``spot``."""
    tall = 14.0
    texture = np.empty((112, 72, 3), np.uint8)
    if rng.random() < 0.6:
        texture[:] = WALLS[int(rng.integers(len(WALLS)))]
        dark = rng.uniform(0.3, 0.7)
        for row in range(6, 100, 22):
            for column in range(5, 66, 17):
                texture[row : row + 12, column : column + 10] = texture[0, 0] * dark
        if rng.random() < 0.6:
            texture[92:] = rng.integers(20, 200, 3)
    else:
        texture[:] = TREES[int(rng.integers(len(TREES)))]
        for _ in range(120):
            centre = tuple(int(c) for c in rng.integers(0, (72, 112)))
            shade = np.clip(texture[0, 0] * rng.uniform(0.5, 1.6), 0, 255)
            cv2.circle(texture, centre, int(rng.integers(3, 9)), tuple(map(float, shade)), -1)
    corners = [(*(spot + aside * s), z) for s, z in ((-4.5, tall), (4.5, tall), (4.5, 0.0), (-4.5, 0.0))]
    corners_seen = (np.array(corners) - lens.position) @ lens.rotation.T
    if corners_seen[:, 2].min() < 2.0:
        return
    target = lens.project(np.array(corners)).astype(np.float32)
    source = np.array([(0, 0), (72, 0), (72, 112), (0, 112)], np.float32)
    place, inner = _overlap((*target.min(axis=0), *target.max(axis=0)), (0, 0, *FRAME))
    if place is None:
        return
    target -= place[:2]
    lit = cv2.convertScaleAbs(texture, alpha=0.75 * light.sky + 0.4 * light.sun)
    cv2.warpPerspective(
        lit, cv2.getPerspectiveTransform(source, target), place[2:], dst=frame[inner], borderMode=cv2.BORDER_TRANSPARENT
    )


def _park(
    frame: np.ndarray, lens: Lens, light: Light, arms: list[float], parked: list[Mesh], rng: np.random.Generator
) -> np.ndarray:
    """Up to four vehicles at the kerb, behind the junction as the camera sees it."""
    for _ in range(int(rng.integers(0, 5)) if parked else 0):
        arm = arms[int(rng.integers(len(arms)))]
        way = np.array([np.cos(arm), np.sin(arm)])
        spot = way * rng.uniform(13, 22) + np.array([-way[1], way[0]]) * 5.2
        if spot @ lens.rotation[2, :2] < 4.0:
            continue
        projection = Projection.of(
            parked[int(rng.integers(len(parked)))], Pose(float(spot[0]), float(spot[1]), arm), lens, light
        )
        frame = compose(frame, projection, light, (0, 0, *FRAME))
    return frame


def compose(ground: np.ndarray, projection: Projection, light: Light, window: tuple[int, int, int, int]) -> np.ndarray:
    """Put a vehicle and its shadow on a piece of street.

    Args:
        ground: ``(H, W, 3)`` uint8, the street in the window.
        projection: the vehicle before the camera.
        light: sun and sky.
        window: left, top, width and height within the camera's frame.

    Returns:
        ``(H, W, 3)`` uint8, a new array.
    """
    result = ground.copy()
    x0, y0, x1, y1 = projection.bounds
    shade = 0.35 * (x1 - x0)
    place, inner = _overlap((x0 - shade, y0 - 3, x1 + shade, y1 + shade), window)
    if place is None:
        return result
    piece = result[inner]
    piece[:] = cv2.convertScaleAbs(cv2.multiply(piece, _shadow(projection, light, place), dtype=cv2.CV_32F))
    place, inner = _overlap((x0 - 1, y0 - 1, x1 + 1, y1 + 1), window)
    if place is not None:
        picture, cover = draw(projection, light, place)
        rest = cv2.merge([1 - cover] * 3)
        result[inner] = cv2.convertScaleAbs(cv2.multiply(result[inner], rest, dtype=cv2.CV_32F) + picture)
    return result


def _overlap(
    bounds: tuple[float, float, float, float], window: tuple[int, int, int, int]
) -> tuple[tuple[int, int, int, int] | None, tuple[slice, slice]]:
    """The part of ``window`` within ``bounds``: left, top, width, height in the frame, and its slices in the window."""
    left, top, width, height = window
    x0, y0 = max(int(bounds[0]), left), max(int(bounds[1]), top)
    x1, y1 = min(int(bounds[2]) + 1, left + width), min(int(bounds[3]) + 1, top + height)
    slices = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    return (None if x1 - x0 < 4 or y1 - y0 < 4 else (x0, y0, x1 - x0, y1 - y0)), slices


def _shadow(projection: Projection, light: Light, window: tuple[int, int, int, int]) -> np.ndarray:
    """``(H, W, 3)`` float32 factor on the street's brightness."""
    left, top, width, height = window
    points, sun = projection.mesh.points, projection.sun
    factor = np.ones((height, width), np.float32)
    near = points * (1.0, 1.0, 0.0)
    layers = [(near[points[:, 2] < 0.8], 0.45, 7)]
    if light.sun > 0.05:
        cast = points - points[:, 2:] * sun / sun[2]
        layers.append((cast, 0.6 * light.sun / (light.sun + light.sky) + 0.15, 3))
    for flat, dark, soft in layers:
        pixels = projection.project(flat) - (left, top)
        outline = cv2.convexHull(np.round(pixels).astype(np.int32))
        mask = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(mask, outline, 255)
        faded = cv2.blur(mask, (soft, soft)).astype(np.float32) * (dark / 255)
        factor = np.minimum(factor, 1 - faded)
    return cv2.merge([factor] * 3)


def observe(camera: Camera, projection: Projection, behind: Projection | None, light: Light,
            rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """Cut a vehicle out of a camera's picture as a detector would.

    Args:
        camera: the camera.
        projection: the vehicle before its lens.
        behind: another vehicle further away, or None.
        light: sun and sky at this moment.
        rng: source of randomness: the box is loose or tight, the sensor noisy.

    Returns:
        ``(H, W, 3)`` uint8, BGR.
    """
    x0, y0, x1, y1 = projection.bounds
    wide, tall = x1 - x0, y1 - y0
    grow = rng.uniform(-0.02, 0.09, 4) * (wide, tall, wide, tall)
    left, top = max(int(x0 - grow[0]), 0), max(int(y0 - grow[1]), 0)
    right, bottom = min(int(x1 + grow[2]) + 1, FRAME[0]), min(int(y1 + grow[3]) + 1, FRAME[1])
    window = (left, top, right - left, bottom - top)
    picture = camera.frame[top:bottom, left:right]
    if behind is not None:
        picture = compose(picture, behind, light, window)
    picture = compose(picture, projection, light, window)
    if camera.pole is not None and left < camera.pole < right:
        at = int(camera.pole) - left
        picture[:, max(at - 4, 0) : at + 4] = (70, 72, 74)
    if camera.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur)
    picture = cv2.LUT(picture, camera.tone[None])
    noise = rng.integers(-128, 128, picture.shape, dtype=np.int8).astype(np.float32) * (camera.noise / 74)
    return cv2.convertScaleAbs(np.maximum(picture + noise, 0))


def dimmed(light: Light, cloud: float) -> Light:
    """The light under a cloud: ``cloud`` from 0 (none) to 1 (the sun is gone)."""
    return replace(light, sun=light.sun * (1 - cloud), sky=light.sky * (1 - 0.15 * cloud))
