"""Paint on a vehicle's faces: windows, lamps, grille, doors, wheels and plate."""

from __future__ import annotations

import cv2
import numpy as np

from torchreid_dfrst.city.atlas import Atlas, Chart, Texel
from torchreid_dfrst.city.bodies import Model
from torchreid_dfrst.city.livery import apply_marks, lettering_mask
from torchreid_dfrst.city.vehicles import Vehicle

PAINTED = ("lower", "cabin", "load")
WHEEL = "wheel"

PAINT_GLOSS, GLASS_GLOSS, TRIM_GLOSS = 95, 215, 25
TRIM: Texel = (42, 40, 40, TRIM_GLOSS)
DARK: Texel = (20, 20, 20, 10)
CHROME: Texel = (190, 188, 186, 140)
LAMP: Texel = (225, 228, 228, 160)
RED_LAMP: Texel = (35, 30, 170, 120)
AMBER: Texel = (30, 130, 235, 110)

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], -1)


def paint(vehicle: Vehicle, atlas: Atlas) -> None:
    """Paint every chart of the atlas."""
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    charts = atlas.charts
    for (name, _), chart in charts.items():
        chart.fill(_PLAIN.get(name, body))
    if ("load", "top") in charts:
        _paint_load(vehicle, {face: charts["load", face] for face in ("left", "right", "front", "rear", "top")})
    apply_marks(vehicle, charts)
    for face in ("left", "right"):
        _paint_side(vehicle, charts["lower", face])
        _paint_windows(vehicle, charts["cabin", face])
    _paint_front(vehicle, charts["lower", "front"])
    _paint_rear(vehicle, charts["lower", "rear"])
    _paint_hood(vehicle, charts["lower", "top"])
    _paint_screens(vehicle, charts["cabin", "front"], charts["cabin", "rear"], charts["cabin", "top"])
    _paint_wheel(vehicle, charts[WHEEL, "all"])
    apply_marks(vehicle, charts, over_glass=True)


_PLAIN: dict[str, Texel] = {
    "chassis": DARK,
    "rack": (150, 150, 150, 80),
    "case": (50, 48, 46, 70),
    "sign": (60, 215, 245, 40),
    "beacon": (40, 120, 250, 120),
    "hatch": (205, 205, 205, 40),
}


def shade(colour: Texel, factor: float) -> Texel:
    """The colour made darker (below 1) or lighter, gloss kept."""
    b, g, r, gloss = colour
    return (min(255, int(b * factor)), min(255, int(g * factor)), min(255, int(r * factor)), gloss)


def _glass(vehicle: Vehicle) -> Texel:
    light, dark = np.array((92, 84, 74)), np.array((30, 27, 25))
    b, g, r = (light + (dark - light) * vehicle.tint).astype(int)
    return (int(b), int(g), int(r), GLASS_GLOSS)


def _arc(x: float, z: float, radius: float) -> np.ndarray:
    return np.array([x, z]) + radius * CIRCLE


def _paint_side(vehicle: Vehicle, chart: Chart) -> None:
    """Doors, arches, sills and the ends of the lamps on one side of the lower body."""
    model = vehicle.model
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    seam = shade(body, 0.45)
    rear, front, low, belt = chart.box.rear[0], chart.box.front[0], model.clearance, model.belt_z
    sill = 0.16 if model.kind in ("suv", "pickup") else 0.07
    chart.side_rectangle((rear, front), (low, low + sill), TRIM)
    crease = low + 0.62 * (belt - low)
    ends = np.linspace(rear + 0.2, front - 0.3, 8)
    chart.side_line([(x, crease) for x in ends], shade(body, 1.25))
    chart.side_line([(x, crease - 0.03) for x in ends], shade(body, 0.75))
    if model.trim == 1:
        z = low + 0.38 * (belt - low)
        chart.side_rectangle((rear + 0.3, front - 0.4), (z, z + 0.06), TRIM)
    if model.trim == 3:
        chart.side_line([(x, belt - 0.03) for x in ends], CHROME)
    for x in _door_seams(model):
        chart.side_line([(x, belt - 0.01), (x, low + 0.1)], seam)
    for x in _door_seams(model)[:-1]:
        z = belt - 0.13
        handle = CHROME if model.trim == 3 else shade(body, 0.6)
        chart.side_rectangle((x + 0.06, x + 0.24), (z, z + 0.04), handle)
    for x in model.axles:
        chart.side_polygon(_arc(x, model.wheel, model.wheel * 1.2), TRIM if sill > 0.1 else shade(body, 0.8))
        chart.side_polygon(_arc(x, model.wheel, model.wheel * 1.1), DARK)
    top = chart.box.top[-1][1]
    lamp = np.add([(0.0, -0.08), (-0.22, -0.06), (-0.1, -0.2), (0.0, -0.22)], (front, top))
    chart.side_polygon(lamp, LAMP)
    if model.kind != "truck":
        tall = 0.45 if model.tail_lamps in (1, 4) else 0.2
        lamp = np.add([(0.0, 0.0), (0.14, 0.0), (0.1, -tall), (0.0, -tall)], (rear, belt - 0.08))
        chart.side_polygon(lamp, RED_LAMP)


def _door_seams(model: Model) -> list[float]:
    """X of the gaps between doors, from the rear."""
    rear, front = model.cab_rear, model.cab_front
    if model.kind == "truck":
        return [rear + 0.35, front - 0.35]
    if model.kind == "bus":
        return [front - 1.3, front - 0.25] if model.doors else [-0.6, 0.5, front - 1.2, front - 0.25]
    a = front - 0.30
    if model.doors == 1 or model.deck > 0.33:
        return [a - 1.25, a]
    step = min(1.0, (a - max(rear, model.axles[0])) / 2)
    return [a - 2 * step, a - step, a]


def _paint_windows(vehicle: Vehicle, chart: Chart) -> None:
    """Side windows between pillars."""
    model, glass = vehicle.model, _glass(vehicle)
    low, high = 0.10, 0.87
    rear, front = model.cab_rear + 0.10, model.cab_front - 0.22
    slope_rear, slope_front = model.rake_rear * 0.86, model.rake_front * 0.86
    back = shade((*vehicle.paint, TRIM_GLOSS), 0.9)
    if model.kind == "bus":
        count = 4 + model.windows
        edges = np.linspace(rear, front - 0.1, count + 1)
        pairs = list(zip(edges[:-1] + 0.06, edges[1:] - 0.06, strict=True))
    elif model.kind == "van" and model.windows < 2:
        pairs = [(front - 1.25, front)]  # a panel van
    elif model.kind == "truck" or model.deck > 0.33:
        pairs = [(rear + 0.05, front)]
    else:
        seams = _door_seams(model)
        b = seams[1] if len(seams) == 3 else seams[0]
        pairs = [(b + 0.05, front)]
        end = rear + (0.32 if model.windows == 3 else 0.06)
        if len(seams) == 3 and model.windows in (1, 2) and model.deck < 0.03 and seams[0] - end > 0.35:
            pairs += [(seams[0] + 0.05, b - 0.05), (end, seams[0] - 0.06)]
        else:
            pairs += [(end, b - 0.05)]
    for left, right in pairs:
        if right - left < 0.1:
            continue
        # a window leans with the screens where it meets them and stands upright at the pillars
        lean_left = slope_rear * float(np.clip(1 - (left - rear) / 0.6, 0, 1))
        lean_right = slope_front * float(np.clip(1 - (front - right) / 0.6, 0, 1))
        corners = [(left, low), (right, low), (right - lean_right, high), (left + lean_left, high)]
        if corners[2][0] - corners[3][0] < 0.05:
            corners = [*corners[:2], ((corners[2][0] + corners[3][0]) / 2, high)]
        chart.polygon(chart.leaning(corners), shade(back, 0.35))
        inner = np.array(corners)
        inner = inner.mean(0) + (inner - inner.mean(0)) * (1 - 0.05 / max(right - left, 0.3), 0.9)
        chart.polygon(chart.leaning(inner), glass)
    if model.trim == 3:
        chart.line(chart.leaning([(rear, low - 0.04), (front, low - 0.04)]), CHROME)


def _paint_front(vehicle: Vehicle, chart: Chart) -> None:
    """Lamps, grille, bumper and plate."""
    model = vehicle.model
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    chart.rectangle(0.0, 0.9, 1.0, 1.1, TRIM)
    chart.rectangle(0.12, 0.66, 0.88, 0.90, TRIM if model.trim else shade(body, 0.6))
    chart.line([(0.0, 0.55), (1.0, 0.55)], shade(body, 0.55))
    style = model.grille
    left, right, top, bottom = _GRILLES[style]
    chart.polygon([(left - 0.02, top), (right + 0.02, top), (right - 0.03, bottom), (left + 0.03, bottom)], DARK)
    if style in (0, 3):
        for row in np.linspace(top + 0.05, bottom - 0.05, 4):
            chart.line([(left, row), (right, row)], CHROME)
    elif style in (1, 4):
        chart.line([(left, (top + bottom) / 2), (right, (top + bottom) / 2)], CHROME, 2)
    elif style == 5:
        chart.rectangle(0.495, top, 0.505, bottom, body)
    chart.polygon(chart.outline(CIRCLE, (0.5, top + 0.08), 0.06), CHROME)
    for side in (-1, 1):
        lamp = _LAMPS[model.lamps] * (side, 1) + (0.5, 0)
        chart.polygon(lamp.mean(0) + (lamp - lamp.mean(0)) * 1.15, shade(body, 0.4))
        chart.polygon(lamp, LAMP)
        chart.polygon(chart.outline(CIRCLE, tuple(lamp.mean(0)), 0.05), (170, 165, 160, 200))
        chart.polygon(chart.outline(CIRCLE, (0.5 + side * 0.38, 0.76), 0.06), LAMP if model.trim % 2 else DARK)
    _plate(vehicle, chart, (0.5, 0.74))


_GRILLES = (
    (0.30, 0.70, 0.14, 0.46), (0.24, 0.76, 0.22, 0.40), (0.36, 0.64, 0.12, 0.60),
    (0.28, 0.72, 0.18, 0.50), (0.22, 0.78, 0.16, 0.34), (0.40, 0.60, 0.16, 0.40),
)  # fmt: skip

_LAMPS = [
    np.array(corners)
    for corners in (
        [(0.28, 0.22), (0.47, 0.14), (0.49, 0.34), (0.30, 0.40)],
        [(0.26, 0.16), (0.49, 0.10), (0.49, 0.22), (0.28, 0.28)],
        [(0.32, 0.18), (0.46, 0.16), (0.48, 0.46), (0.34, 0.44)],
        [(0.24, 0.26), (0.36, 0.18), (0.49, 0.16), (0.49, 0.28), (0.36, 0.36)],
        (CIRCLE * (0.085, 0.15) + (0.39, 0.28)).tolist(),
        [(0.36, 0.10), (0.49, 0.08), (0.48, 0.50), (0.42, 0.46)],
    )
]


def _paint_rear(vehicle: Vehicle, chart: Chart) -> None:
    """Lamps, bumper, plate and the boot's seams."""
    model = vehicle.model
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    if model.kind == "truck":
        chart.fill(DARK)
        return
    chart.rectangle(0.0, 0.88, 1.0, 1.1, TRIM)
    chart.line([(0.0, 0.62), (1.0, 0.62)], shade(body, 0.5))
    chart.line([(0.2, 0.0), (0.22, 0.6)], shade(body, 0.55))
    chart.line([(0.8, 0.0), (0.78, 0.6)], shade(body, 0.55))
    if model.kind == "van":
        chart.line([(0.5, 0.0), (0.5, 0.85)], shade(body, 0.5))
    for side in (-1, 1):
        lamp = _TAIL_LAMPS[model.tail_lamps] * (side, 1) + (0.5, 0)
        chart.polygon(lamp, RED_LAMP)
        centre = lamp.mean(0)
        chart.polygon(centre + (lamp - centre) * 0.4, AMBER if model.tail_lamps % 2 else LAMP)
        chart.rectangle(0.5 + side * 0.38 - 0.05, 0.72, 0.5 + side * 0.38 + 0.05, 0.77, RED_LAMP)
    if model.tail_lamps == 5:
        chart.rectangle(0.2, 0.16, 0.8, 0.22, RED_LAMP)
    chart.polygon(chart.outline(CIRCLE, (0.5, 0.12), 0.05), CHROME)
    chart.polygon(chart.outline(CIRCLE, (0.24, 0.96), 0.05), CHROME if model.trim == 3 else DARK)
    _plate(vehicle, chart, (0.5, 0.42 if model.trim < 2 else 0.74))


_TAIL_LAMPS = [
    np.array(corners)
    for corners in (
        [(0.30, 0.12), (0.49, 0.10), (0.49, 0.34), (0.34, 0.34)],
        [(0.42, 0.02), (0.50, 0.02), (0.50, 0.56), (0.43, 0.56)],
        [(0.22, 0.14), (0.50, 0.12), (0.50, 0.28), (0.26, 0.28)],
        (CIRCLE * (0.07, 0.13) + (0.41, 0.28)).tolist(),
        [(0.38, 0.04), (0.50, 0.04), (0.50, 0.50), (0.45, 0.50), (0.44, 0.22)],
        [(0.34, 0.14), (0.49, 0.12), (0.49, 0.26), (0.36, 0.24)],
    )
]


def _plate(vehicle: Vehicle, chart: Chart, centre: tuple[float, float]) -> None:
    """A plate with letters nobody can read: they are random and four texels high."""
    yellow = vehicle.model.kind in ("bus", "truck")
    ground: Texel = (50, 190, 235, 30) if yellow else (150, 70, 25, 30)
    ink: Texel = (30, 30, 30, 30) if yellow else (235, 235, 235, 30)
    plate = chart.outline([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)], centre, 0.25)
    chart.polygon(chart.outline([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)], centre, 0.27), (200, 200, 200, 30))
    chart.polygon(plate, ground)
    chart.stamp(lettering_mask(np.random.default_rng(vehicle.plate), 6), centre, 0.1, ink)


def _paint_hood(vehicle: Vehicle, chart: Chart) -> None:
    """Seams of bonnet and boot, the cowl, and a pickup's bed."""
    model = vehicle.model
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    at = lambda x: (x - chart.box.rear[1]) / (chart.box.front[1] - chart.box.rear[1])  # noqa: E731
    cowl = at(model.cab_front)
    if model.hood > 0.03:
        chart.rectangle(cowl - 0.02, 0.06, cowl + 0.02, 0.94, TRIM)
        chart.line([(cowl, 0.08), (0.95, 0.12), (0.95, 0.88), (cowl, 0.92)], shade(body, 0.5))
        if model.trim == 2:
            for v in (0.3, 0.7):
                chart.line([(cowl + 0.03, v), (0.95, 0.5 + (v - 0.5) * 0.7)], shade(body, 0.75))
    deck = at(model.cab_rear)
    if model.kind == "pickup":
        chart.rectangle(0.03, 0.07, deck - 0.01, 0.93, (38, 38, 38, 5))
        for u in np.linspace(0.05, deck - 0.03, 6):
            chart.line([(u, 0.09), (u, 0.91)], (58, 58, 58, 5))
        if model.cargo == 1:
            chart.rectangle(0.03, 0.07, deck - 0.01, 0.93, (48, 46, 46, 40))
        if model.cargo == 2:
            chart.rectangle(0.06, 0.15, deck * 0.6, 0.8, (90, 140, 180, 10))
    elif model.deck > 0.05:
        chart.line([(0.02, 0.12), (deck, 0.14), (deck, 0.86), (0.02, 0.88)], shade(body, 0.5))


def _paint_screens(vehicle: Vehicle, front: Chart, rear: Chart, top: Chart) -> None:
    """Windscreen, rear window and what can be seen through them; the roof's window and its seams."""
    model, glass = vehicle.model, _glass(vehicle)
    body: Texel = (*vehicle.paint, PAINT_GLOSS)
    front.polygon([(0.05, 0.97), (0.09, 0.06), (0.91, 0.06), (0.95, 0.97)], DARK)
    front.polygon([(0.065, 0.93), (0.105, 0.1), (0.895, 0.1), (0.935, 0.93)], glass)
    inside = shade(glass, 0.7)
    for u in (0.28, 0.72):
        front.polygon(front.outline(CIRCLE, (u, 0.52), 0.14), inside)
        front.rectangle(u - 0.14, 0.6, u + 0.14, 0.9, inside)
    front.rectangle(0.1, 0.84, 0.9, 0.93, shade(glass, 0.8))
    front.line([(0.2, 0.94), (0.48, 0.86)], DARK)
    front.line([(0.52, 0.94), (0.8, 0.86)], DARK)
    if model.kind == "truck":
        rear.rectangle(0.2, 0.2, 0.8, 0.7, glass)
    elif model.kind == "van" and model.windows < 2:
        if model.windows:
            rear.rectangle(0.08, 0.12, 0.46, 0.62, glass)
            rear.rectangle(0.54, 0.12, 0.92, 0.62, glass)
        rear.line([(0.5, 0.0), (0.5, 1.0)], shade(body, 0.5))
    else:
        low = 0.72 if model.kind in ("bus", "van") else 0.92
        rear.polygon([(0.07, low), (0.11, 0.08), (0.89, 0.08), (0.93, low)], DARK)
        rear.polygon([(0.085, low - 0.04), (0.125, 0.12), (0.875, 0.12), (0.915, low - 0.04)], glass)
        if model.rake_rear < 0.7 and model.kind != "bus":
            rear.line([(0.5, low), (0.35, low - 0.25)], DARK)
        rear.rectangle(0.42, 0.05, 0.58, 0.11, RED_LAMP)
    if model.trim == 2 and model.kind not in ("bus", "truck"):
        top.rectangle(0.45, 0.22, 0.8, 0.78, glass)
    if model.kind in ("bus", "van"):
        for u in np.linspace(0.1, 0.9, 7):
            top.line([(u, 0.06), (u, 0.94)], shade(body, 0.85))
    else:
        for v in (0.06, 0.94):
            top.line([(0.02, v), (0.98, v)], shade(body, 0.5))


def _paint_wheel(vehicle: Vehicle, chart: Chart) -> None:
    """Tyre, rim and spokes."""
    metal: Texel = (*vehicle.wheel_colour, 70)
    gap = shade(metal, 0.25)
    centre = (0.5, 0.5)
    chart.fill((32, 31, 31, 8))
    disc = lambda radius, colour: chart.polygon(CIRCLE * radius / 2 + centre, colour)  # noqa: E731
    disc(0.72, shade(metal, 0.9))
    style = vehicle.wheel_style
    if vehicle.model.kind in ("truck", "bus"):
        style = 6 + style % 2
    if style < 6:
        disc(0.64, gap)
        count, wide = ((5, 0.22), (6, 0.16), (10, 0.1), (7, 0.13), (4, 0.26), (12, 0.07))[style]
        for turn in np.arange(count) * 2 * np.pi / count + 0.3:
            along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
            spoke = [0.05 * along + wide / 3 * across, 0.33 * along + wide / 2.2 * across,
                     0.33 * along - wide / 2.2 * across, 0.05 * along - wide / 3 * across]  # fmt: skip
            chart.polygon(np.array(spoke) + centre, metal)
        disc(0.16, metal)
    else:
        disc(0.64, metal if style == 6 else shade(metal, 0.6))
        for turn in np.arange(8) * np.pi / 4:
            hole = CIRCLE * 0.035 + centre + 0.2 * np.array([np.cos(turn), np.sin(turn)])
            chart.polygon(hole, gap)
        disc(0.2, shade(metal, 0.7))


def _paint_load(vehicle: Vehicle, faces: dict[str, Chart]) -> None:
    """A lorry's box, flat bed, tank or tarpaulin."""
    rng = np.random.default_rng(vehicle.plate)
    ground = ((232, 232, 230), (210, 205, 200), vehicle.paint, (120, 90, 50), (60, 110, 70))[vehicle.plate % 5]
    base: Texel = (*ground, 35)
    for chart in faces.values():
        chart.fill(base)
    style = vehicle.model.cargo
    for face in ("left", "right"):
        chart = faces[face]
        for u in np.linspace(0, 1, {0: 9, 1: 7, 2: 4, 3: 12}[style]):
            chart.line([(u, 0), (u, 1)], shade(base, 0.75))
        chart.rectangle(0, 0.94, 1, 1.05, TRIM)
        chart.rectangle(0, 0, 1, 0.03, shade(base, 0.8))
    faces["rear"].line([(0.5, 0), (0.5, 1)], shade(base, 0.5))
    for u in (0.12, 0.88):
        faces["rear"].rectangle(u - 0.06, 0.92, u + 0.06, 1.0, RED_LAMP)
    _plate(vehicle, faces["rear"], (0.35, 0.92))
    if style == 1:
        top = faces["top"]
        top.fill((50, 55, 60, 5))
        across, down = top.texel_size
        noise = rng.integers(0, 90, (max(down // 8, 1), max(across // 8, 1)), dtype=np.uint8)
        rubble = cv2.resize(noise, top.texels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        top.texels[..., :3] += rubble[..., None]
