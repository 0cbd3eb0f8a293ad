"""Marks: stripes, lettering, odd panels and stickers, painted on a vehicle's charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from torchreid_dfrst.city.atlas import Chart, Texel
from torchreid_dfrst.city.vehicles import Mark, Vehicle

GLOSS = 70
Charts = Mapping[tuple[str, str], Chart]

_TURN = np.linspace(0, 2 * np.pi, 25)[:-1]
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], -1)
_STAR = np.stack([np.sin(_TURN[:20:2] * 1.2), -np.cos(_TURN[:20:2] * 1.2)], -1) * np.where(
    np.arange(10) % 2, 0.42, 1.0
)[:, None]  # fmt: skip
_OUTLINES: dict[str, np.ndarray] = {
    "disc": _CIRCLE,
    "ring": _CIRCLE,
    "square": np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]),
    "triangle": np.array([(0, -1), (0.95, 0.75), (-0.95, 0.75)]),
    "star": _STAR,
    "bars": np.array([(-1, -0.7), (1, -0.7), (1, 0.7), (-1, 0.7)]),
    "heart": np.array([(0, 1), (-1, -0.1), (-0.9, -0.7), (-0.45, -0.9), (0, -0.5), (0.45, -0.9), (0.9, -0.7),
                       (1, -0.1)]),
    "cross": np.array([(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1),
                       (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]),
}  # fmt: skip


def apply_marks(vehicle: Vehicle, charts: Charts, *, over_glass: bool = False) -> None:
    """Paint the marks of a vehicle: those under doors and windows first, in a second call stickers above them."""
    for mark in vehicle.marks:
        if over_glass == (mark.kind in ("sticker", "number", "lettering")):
            _PAINTERS[mark.kind](vehicle, charts, mark)


def lettering_mask(rng: np.random.Generator, letters: int) -> np.ndarray:
    """A grey ``(h, w)`` image of random capitals and digits, white on black."""
    text = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVXYZ0123456789"), size=letters))
    (wide, tall), low = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 3)
    mask = np.zeros((tall + low + 6, wide + 6), np.uint8)
    cv2.putText(mask, text, (3, tall + 3), cv2.FONT_HERSHEY_DUPLEX, 1.0, 255, 3, cv2.LINE_AA)
    return mask


def _texel(mark: Mark) -> Texel:
    return (*mark.colour, GLOSS)


def _sides(charts: Charts) -> list[Chart]:
    return [chart for (_, face), chart in charts.items() if face in ("left", "right")]


def _stripes(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """One to three stripes from the bonnet over the roof to the tail."""
    count, wide = 1 + int(mark.place[0] * 2.99), 0.05 + 0.09 * mark.size
    shift = 0.0 if mark.place[1] < 0.6 else 0.16
    for (name, face), chart in charts.items():
        if name not in ("lower", "cabin") or face in ("left", "right"):
            continue
        for k in range(count):
            middle = 0.5 + (k - (count - 1) / 2) * wide * 1.7
            if face == "top":
                chart.rectangle(-0.1, middle + shift - wide / 2, 1.1, middle + shift + wide / 2, _texel(mark))
            else:
                # seen from behind, right is right; on the upper face of the chart, right is down
                centre = middle + (shift if face == "rear" else -shift)
                chart.rectangle(centre - wide / 2, -0.1, centre + wide / 2, 1.1, _texel(mark))


def _band(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """A horizontal band along both sides, with a second thin line below it at times."""
    low, belt, half = vehicle.model.clearance, vehicle.model.belt_z, vehicle.model.length / 2
    z = low + (0.3 + 0.5 * mark.place[0]) * (belt - low)
    tall = 0.05 + 0.14 * mark.size
    for chart in _sides(charts):
        xs = np.linspace(-half - 0.3, half + 0.3, 12)
        lines = [(z, tall)] + ([(z - tall - 0.03, 0.03)] if mark.place[1] > 0.5 else [])
        for bottom, high in lines:
            edge = [(x, bottom) for x in xs] + [(x, bottom + high) for x in xs[::-1]]
            chart.side_polygon(edge, _texel(mark))


def _two_tone(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """The lower part of the body in another colour."""
    edge = 1 - (0.3 + 0.3 * mark.size)
    for (name, face), chart in charts.items():
        if name == "lower" and face != "top":
            chart.rectangle(-0.1, edge, 1.1, 1.1, _texel(mark))


def _roof(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """Roof and pillars in another colour."""
    for (name, _), chart in charts.items():
        if name == "cabin":
            chart.fill(_texel(mark))


def _lettering(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """A company's name on both sides (and the load, if there is one)."""
    rng = np.random.default_rng(mark.seed)
    mask = lettering_mask(rng, 3 + int(rng.integers(6)))
    model = vehicle.model
    targets = {face: charts.get(("load", face), charts["lower", face]) for face in ("left", "right")}
    if model.kind == "van" and model.windows < 2 and mark.place[1] > 0.4:
        targets = {face: charts["cabin", face] for face in targets}
    for face, chart in targets.items():
        tall = min(chart.size[1] * 0.45, 0.2 + 0.4 * mark.size)
        u = 0.35 + 0.2 * mark.place[0]
        chart.stamp(mask, (1 - u if face == "left" else u, 0.42), tall, _texel(mark))
        if mark.place[1] > 0.7:
            outline = chart.outline(_OUTLINES[mark.shape], (0.82 if face == "left" else 0.18, 0.42), tall * 0.6)
            chart.polygon(outline, _texel(mark))


def _number(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """A racing number in a disc on both front doors, at times on the bonnet as well."""
    mask = lettering_mask(np.random.default_rng(mark.seed), 1 + mark.seed % 2)
    ground: Texel = (240, 240, 240, GLOSS) if sum(mark.colour) < 420 else (25, 25, 25, GLOSS)
    x, z = (
        vehicle.model.cab_front - 0.85,
        vehicle.model.clearance + 0.5 * (vehicle.model.belt_z - vehicle.model.clearance),
    )
    for face in ("left", "right"):
        chart = charts["lower", face]
        u, v = chart.side([(x, z)])[0]
        chart.polygon(chart.outline(_CIRCLE, (u, v), 0.26), ground)
        chart.stamp(mask, (float(u), float(v)), 0.32, _texel(mark))
    if mark.place[0] > 0.4 and vehicle.model.hood > 0.03:
        chart = charts["lower", "top"]
        centre = (1 - vehicle.model.hood / 2, 0.5)
        chart.polygon(chart.outline(_CIRCLE, centre, 0.3), ground)
        turned = np.ascontiguousarray(np.rot90(mask, 1))
        chart.stamp(turned, centre, 0.35 * turned.shape[0] / turned.shape[1], _texel(mark))


def _checker(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """A chequered band along both sides."""
    low, belt, half = vehicle.model.clearance, vehicle.model.belt_z, vehicle.model.length / 2
    z, step = low + 0.55 * (belt - low), 0.09 + 0.06 * mark.size
    for chart in _sides(charts):
        for row in (0, 1):
            for x in np.arange(-half + row * step, half, 2 * step):
                bottom = z + row * step
                corners = [(x, bottom), (x + step, bottom), (x + step, bottom + step), (x, bottom + step)]
                chart.side_polygon(corners, _texel(mark))


def _slash(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """Slanted bars over both sides, windows' frames included."""
    low, high = vehicle.model.clearance, vehicle.model.height
    x = (mark.place[0] - 0.6) * vehicle.model.length * 0.8
    wide = 0.12 + 0.3 * mark.size
    for chart in _sides(charts):
        for k in range(1 + int(mark.place[1] * 2.99)):
            left = x + k * wide * 1.6
            corners = [(left, low), (left + wide, low), (left + wide + 0.7, high), (left + 0.7, high)]
            chart.side_polygon(corners, _texel(mark))


def _patches(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """Random blobs all over."""
    rng = np.random.default_rng(mark.seed)
    for (name, _), chart in charts.items():
        if name in ("lower", "cabin", "load"):
            count = round(chart.size[0] * chart.size[1] * (3 + 5 * mark.place[0]))
            for u, v in rng.random((count, 2)):
                radius = (0.06 + 0.16 * mark.size) * (0.6 + 0.8 * rng.random(len(_CIRCLE)))
                chart.polygon(chart.outline(_CIRCLE * radius[:, None], (u, v), 1.0), _texel(mark))


def _panel(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """One panel in another colour, as after a repair."""
    chart, (left, top, right, bottom) = _region(vehicle, charts, mark.panel)
    chart.rectangle(left, top, right, bottom, _texel(mark))


def _gradient(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """The paint changes from nose to tail."""
    for (name, face), chart in charts.items():
        if name not in ("lower", "cabin"):
            continue
        ramp = np.linspace(0, 1, chart.texels.shape[1], dtype=np.float32)[None, :, None]
        if face == "left":
            ramp = 1 - ramp
        elif face in ("front", "rear"):
            ramp = np.full_like(ramp, face == "front")
        ramp = np.clip((ramp - 0.5) * (1 + 3 * mark.size) + 0.5, 0, 1)
        texels = chart.texels[..., :3]
        texels[:] = np.round(texels * (1 - ramp) + np.array(mark.colour, np.float32) * ramp)


def _sticker(vehicle: Vehicle, charts: Charts, mark: Mark) -> None:
    """A shape on one panel only."""
    chart, (left, top, right, bottom) = _region(vehicle, charts, mark.panel)
    centre = (left + (0.15 + 0.7 * mark.place[0]) * (right - left), top + (0.2 + 0.6 * mark.place[1]) * (bottom - top))
    radius = (0.09 + 0.17 * mark.size) * (1.6 if vehicle.model.length > 6 else 1.0)
    texel = _texel(mark)
    chart.polygon(chart.outline(_OUTLINES[mark.shape], centre, radius), texel)
    other: Texel = (235, 235, 235, GLOSS) if sum(mark.colour) < 420 else (30, 30, 30, GLOSS)
    if mark.shape == "ring":
        chart.polygon(chart.outline(_CIRCLE, centre, radius * 0.55), other)
    if mark.shape == "bars":
        chart.polygon(chart.outline([(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)], centre, radius), other)


def _region(vehicle: Vehicle, charts: Charts, panel: str) -> tuple[Chart, tuple[float, float, float, float]]:
    """Chart and rectangle (left, top, right, bottom in fractions) of a named panel."""
    model = vehicle.model
    if panel in ("left door", "right door", "left rear", "right rear"):
        side, place = panel.split()
        load = place == "rear" and ("load", side) in charts
        chart = charts["load" if load else "lower", side]
        ahead = place == "door"
        middle = model.cab_front - 0.85 if ahead else (model.cab_front - 1.9 if not load else -model.length * 0.15)
        if place == "rear" and not load:
            middle = max(middle, -model.length / 2 + 0.7)
        low, high = (chart.box.bottom + 0.12, chart.box.bottom + chart.box.height * 0.9)
        ends = chart.side([(middle - 0.5, low), (middle + 0.5, high)])
        return chart, (
            float(ends[:, 0].min()),
            float(ends[:, 1].min()),
            float(ends[:, 0].max()),
            float(ends[:, 1].max()),
        )
    if panel == "hood" and model.hood > 0.03:
        return charts["lower", "top"], (1 - model.hood + 0.02, 0.1, 0.97, 0.9)
    if panel == "rear window":
        return charts.get(("load", "rear"), charts["cabin", "rear"]), (0.12, 0.15, 0.88, 0.85)
    if panel == "tail":
        return charts.get(("load", "rear"), charts["lower", "rear"]), (0.2, 0.05, 0.8, 0.6)
    if panel == "bumper":
        return charts["lower", "front"], (0.1, 0.5, 0.9, 0.95)
    return charts.get(("load", "top"), charts["cabin", "top"]), (
        0.1,
        0.1,
        0.9,
        0.9,
    )  # the roof; a bonnet, if there is none


_PAINTERS: dict[str, Callable[[Vehicle, Charts, Mark], None]] = {
    "stripes": _stripes,
    "band": _band,
    "two-tone": _two_tone,
    "roof": _roof,
    "lettering": _lettering,
    "number": _number,
    "checker": _checker,
    "slash": _slash,
    "patches": _patches,
    "panel": _panel,
    "gradient": _gradient,
    "sticker": _sticker,
}
