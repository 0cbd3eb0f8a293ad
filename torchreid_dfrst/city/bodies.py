"""Body styles: from a few measurements to the boxes of a vehicle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from torchreid_dfrst.city.solids import Box

TYPES = ("sedan", "suv", "van", "hatchback", "mpv", "pickup", "bus", "truck", "estate")
"""VeRi-776's own types; typeID is the place in this tuple, from 1."""

_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "sedan": dict(length=(4.3, 5.0), width=(1.72, 1.87), height=(1.40, 1.50), belt=(0.63, 0.67), hood=(0.24, 0.29),
                  deck=(0.13, 0.20), rake_front=(0.55, 0.85), rake_rear=(0.45, 0.85)),
    "suv": dict(length=(4.2, 4.95), width=(1.80, 1.96), height=(1.65, 1.88), belt=(0.60, 0.65), hood=(0.22, 0.28),
                deck=(0.0, 0.02), rake_front=(0.40, 0.70), rake_rear=(0.12, 0.55), clearance=(0.26, 0.34)),
    "van": dict(length=(4.5, 5.9), width=(1.80, 2.05), height=(1.90, 2.55), belt=(0.48, 0.54), hood=(0.06, 0.17),
                deck=(0.0, 0.01), rake_front=(0.45, 0.85), rake_rear=(0.03, 0.12)),
    "hatchback": dict(length=(3.5, 4.3), width=(1.62, 1.80), height=(1.43, 1.56), belt=(0.60, 0.65), hood=(0.19, 0.26),
                      deck=(0.0, 0.03), rake_front=(0.50, 0.75), rake_rear=(0.15, 0.60)),
    "mpv": dict(length=(4.2, 5.1), width=(1.75, 1.92), height=(1.60, 1.82), belt=(0.58, 0.62), hood=(0.15, 0.21),
                deck=(0.0, 0.01), rake_front=(0.70, 1.05), rake_rear=(0.08, 0.35)),
    "pickup": dict(length=(5.0, 5.6), width=(1.80, 1.98), height=(1.72, 1.90), belt=(0.58, 0.63), hood=(0.22, 0.27),
                   deck=(0.29, 0.40), rake_front=(0.45, 0.70), rake_rear=(0.05, 0.15), clearance=(0.28, 0.38)),
    "bus": dict(length=(6.6, 10.5), width=(2.15, 2.50), height=(2.75, 3.25), belt=(0.40, 0.48), hood=(0.0, 0.015),
                deck=(0.0, 0.005), rake_front=(0.04, 0.30), rake_rear=(0.02, 0.08), clearance=(0.28, 0.34)),
    "truck": dict(length=(5.6, 8.2), width=(2.0, 2.4), height=(2.25, 2.8), belt=(0.52, 0.58), hood=(0.0, 0.03),
                  deck=(0.0, 0.0), rake_front=(0.06, 0.30), rake_rear=(0.02, 0.06), clearance=(0.42, 0.52)),
    "estate": dict(length=(4.45, 4.95), width=(1.74, 1.87), height=(1.44, 1.54), belt=(0.62, 0.66), hood=(0.24, 0.29),
                   deck=(0.0, 0.02), rake_front=(0.55, 0.80), rake_rear=(0.15, 0.50)),
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A make and model: everything that all vehicles sold under one name share. Lengths in metres.

    ``belt`` is a fraction of the height; ``hood`` and ``deck`` are fractions of the length; ``rake_*`` is how far the
    window's upper edge lies behind (rear: before) its lower one. ``curve`` is how far roof
    and bonnet are round rather than straight, ``flare`` how far the sides bow out, ``palette`` the seed of the
    maker's shades of paint; ``lamps``, ``grille``, ``tail_lamps``, ``windows``
    and ``cargo`` are numbers of a style.
    """

    kind: str
    length: float
    width: float
    height: float
    belt: float
    hood: float
    deck: float
    rake_front: float
    rake_rear: float
    clearance: float
    wheel: float
    hood_drop: float
    nose: float
    tumble: float
    roof_fall: float
    curve: float
    flare: float
    palette: int
    lamps: int
    grille: int
    tail_lamps: int
    windows: int
    doors: int
    trim: int
    cargo: int

    @property
    def belt_z(self) -> float:
        """Height of the lower edge of the side windows."""
        return self.belt * self.height

    @property
    def cab_rear(self) -> float:
        """X of the rear end of the cabin at the belt; a truck's cab ends well before its load."""
        return self.length / 2 - 1.9 if self.kind == "truck" else (self.deck - 0.5) * self.length + 0.02

    @property
    def cab_front(self) -> float:
        """X of the foot of the windscreen."""
        return (0.5 - self.hood) * self.length - 0.02

    @property
    def axles(self) -> tuple[float, float]:
        """X of the rear and the front wheels."""
        front = {"bus": 0.24, "truck": 0.13, "van": 0.18, "mpv": 0.19}.get(self.kind, 0.19)
        rear = {"bus": 0.26, "truck": 0.22, "pickup": 0.23}.get(self.kind, 0.2)
        return (rear - 0.5) * self.length, (0.5 - front) * self.length


SHORTEST_ROOF = 0.9
SPORTY = 0.25  # share of the sedans and hatchbacks that are low, round two-seaters


def draw_model(kind: str, rng: np.random.Generator) -> Model:
    """A model of one of ``TYPES`` with measurements drawn from that type's ranges."""
    base = {
        "clearance": (0.17, 0.22),
        "nose": (0.10, 0.30),
        "tumble": (0.11, 0.19),
        "roof_fall": (0.0, 0.07),
        "curve": (0.0, 1.0),
        "flare": (0.015, 0.07),
    }
    if kind in ("van", "bus", "truck"):
        base |= {"nose": (0.05, 0.16), "tumble": (0.04, 0.10), "roof_fall": (0.0, 0.03), "curve": (0.0, 0.3)}
    low_high = base | _RANGES[kind]
    values: dict[str, Any] = {name: float(rng.uniform(*low_high[name])) for name in sorted(low_high)}
    values |= {name: int(rng.integers(count)) for name, count in _STYLES.items()}
    values["palette"] = int(rng.integers(1 << 30))
    if kind in ("sedan", "hatchback") and rng.random() < SPORTY:
        values |= {"length": 0.95 * values["length"], "height": 0.87 * values["height"], "doors": 1, "clearance": 0.12}
        values |= {name: 1.4 * values[name] for name in ("nose", "rake_front", "rake_rear", "tumble")}
    room = values["length"] * (1 - values["hood"] - values["deck"]) - SHORTEST_ROOF
    lean = min(1.0, room / (values["rake_front"] + values["rake_rear"]))
    values |= {name: lean * values[name] for name in ("rake_front", "rake_rear")}
    big = {"bus": 0.46, "truck": 0.44, "suv": 0.37, "pickup": 0.38, "van": 0.34}.get(kind, 0.315)
    drop = 0.05 if kind in ("bus", "truck") else 0.14 if kind == "van" else 0.2
    return Model(
        kind=kind,
        wheel=big * float(rng.uniform(0.95, 1.06)),
        hood_drop=drop * float(rng.uniform(0.7, 1.4)),
        **values,
    )


_STYLES = {"lamps": 6, "grille": 6, "tail_lamps": 6, "windows": 4, "doors": 2, "trim": 4, "cargo": 4}


@dataclass(frozen=True)
class Part:
    """A box of the vehicle and when it is painted.

    Args:
        name: what the skin knows it by; parts of one name share their charts.
        box: its shape.
        cells: cells along, across and up.
        order: painter's rank within its block; a later rank covers an earlier one.
        block: parts of a block are painted together; blocks lie one behind the other along the vehicle.
        aside: for parts that stick out (mirrors, spoilers): ``"y"`` or ``"x"``; such a part is painted first when the
            camera is on the other side of the vehicle in that direction, last when it is on the same side.
    """

    name: str
    box: Box
    cells: tuple[int, int, int]
    order: int
    block: int = 0
    aside: str = ""


def body_parts(model: Model, extras: frozenset[str] = frozenset()) -> list[Part]:
    """The boxes of a vehicle: body, cabin, load, mirrors and what its owner has put on."""
    parts = _truck(model) if model.kind == "truck" else [*_shell(model, -model.length / 2)]
    return parts + _mirrors(model) + _extras(model, extras)


def _shell(model: Model, rear: float, block: int = 0) -> list[Part]:
    """Lower body and cabin from ``rear`` to the front bumper."""
    front, half, belt = model.length / 2, model.width / 2, model.belt_z
    long = front - rear
    hood_z = belt - model.hood_drop
    knots = [(0.0, belt - (0.04 if model.deck > 0.05 else 0.0)), (min(0.98, (model.cab_front - rear) / long), belt)]
    if model.hood > 0.03:
        bow = 0.12 * model.curve * model.hood_drop
        for share in (0.3, 0.6, 0.85):
            sink = (0.3 + 0.7 * share) * share * model.hood_drop
            knots += [(1 - model.hood * (1 - share), belt - sink + bow)]
        knots += [(1.0, hood_z)]
    else:
        knots += [(1.0, belt - model.hood_drop)]
    lower = Box(
        rear=(rear + 0.04, rear + 0.02),
        front=(front - 0.03, front - 0.10),
        bottom=model.clearance,
        top=tuple(knots),
        half_width=(half * 0.95, half * 0.94),
        bulge=model.flare,
        crown=0.035,
        nose=model.nose,
        tail=model.nose * 0.55,
        taper=0.03,
    )
    shoulder = half * 0.94 - 0.03
    cabin = Box(
        rear=(model.cab_rear, model.cab_rear + model.rake_rear),
        front=(model.cab_front, model.cab_front - model.rake_front),
        bottom=belt - 0.03,
        top=_roof_line(model),
        half_width=(shoulder, shoulder - model.tumble),
        bulge=0.03,
        crown=0.05,
        nose=model.nose * 0.5,
        tail=model.nose * 0.3,
    )
    fine = 12 if model.kind != "bus" else 16
    return [
        Part("lower", lower, (fine, 6, 4), 1, block),
        Part("cabin", cabin, (8, 5, 3), 3, block),
    ]


def _roof_line(model: Model) -> tuple[tuple[float, float], ...]:
    """Knots of the roof: highest a little behind the driver, round or straight from there."""
    knots = []
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        to_end = (0.55 - share) / 0.55 if share < 0.55 else (share - 0.55) / 0.45
        fall = model.roof_fall if share < 0.55 else 0.03
        knots.append(
            (share, model.height - to_end * fall - to_end**2 * 0.2 * model.curve * (model.height - model.belt_z))
        )
    return tuple(knots)


def _truck(model: Model) -> list[Part]:
    half, tail, cab = model.width / 2, -model.length / 2, model.cab_rear
    floor = model.wheel * 2 + 0.08
    high = floor + {0: 1.9, 1: 0.5, 2: 1.5, 3: 1.6}[model.cargo]
    chassis = Box.brick((tail + 0.1, cab), (-half * 0.45, half * 0.45), (model.clearance, floor))
    bends = {"bulge": 0.25, "crown": 0.5} if model.cargo == 2 else {"crown": 0.12} if model.cargo == 3 else {}
    side = half * (0.75 if model.cargo == 2 else 1.02)
    load = Box.brick((tail, cab - 0.15), (-side, side), (floor, high), **bends)
    return [
        Part("chassis", chassis, (2, 1, 1), -1, -1),
        *_shell(model, cab, block=1),
        Part("load", load, (8, 6, 4), 1, 0),
    ]


def _mirrors(model: Model) -> list[Part]:
    large = model.kind in ("bus", "truck", "van")
    wide, tall, x = (0.14, 0.34, model.cab_front - 0.15) if large else (0.17, 0.13, model.cab_front - 0.35)
    inner, z = model.width / 2 * 0.94, model.belt_z + (0.15 if large else 0.0)
    block = 1 if model.kind == "truck" else 0
    return [
        Part("mirror", Box.brick((x, x + 0.09), y, (z, z + tall)), (1, 1, 1), 4, block, aside="y")
        for y in ((inner, inner + wide), (-inner - wide, -inner))
    ]


def _extras(model: Model, extras: frozenset[str]) -> list[Part]:
    """Racks, boxes, signs and spoilers on the roof or the tail."""
    top, block = model.height, 1 if model.kind == "truck" else 0
    rear, front = model.cab_rear + model.rake_rear, model.cab_front - model.rake_front
    middle, half = (rear + front) / 2, model.width / 2 * 0.94 - 0.03 - model.tumble
    z = top - 0.06
    parts: list[Part] = []

    def add(name: str, box: Box, cells: tuple[int, int, int], order: int) -> None:
        parts.append(Part(name, box, cells, order, block))

    if "rack" in extras:
        for side in (-1, 1):
            y = side * half * 0.8
            add("rack", Box.brick((rear + 0.1, front - 0.1), (y - 0.03, y + 0.03), (z, z + 0.15)), (3, 1, 1), 4)
        for x in (middle - 0.5, middle + 0.4):
            bar = Box.brick((x - 0.04, x + 0.04), (-half * 0.85, half * 0.85), (z + 0.1, z + 0.17))
            add("rack", bar, (1, 2, 1), 5)
    if "box" in extras:
        bends = {"nose": 0.2, "tail": 0.15, "crown": 0.05}
        case = Box.brick((middle - 0.75, middle + 0.75), (-0.38, 0.38), (z + 0.08, z + 0.42), **bends)
        add("case", case, (4, 3, 2), 6)
    if "sign" in extras:
        roof = ((0.0, z + 0.24), (1.0, z + 0.24))
        sign = Box((middle + 0.15, middle + 0.22), (middle + 0.42, middle + 0.35), z, roof, (0.32, 0.26))
        add("sign", sign, (1, 1, 1), 6)
    if "beacon" in extras:
        add("beacon", Box.brick((middle + 0.1, middle + 0.38), (-0.55, 0.55), (z, z + 0.2)), (1, 2, 1), 6)
    if "hatch" in extras:
        hatch = Box.brick((middle - 1.0, middle + 0.6), (-half * 0.6, half * 0.6), (z, z + 0.28), nose=0.1)
        add("hatch", hatch, (3, 3, 1), 6)
    if "spoiler" in extras:
        if model.deck > 0.05:
            x, z = -model.length / 2 + 0.08, model.belt_z + 0.14
        else:
            x, z = rear - 0.16, top - model.roof_fall - 0.08
        wing = Box.brick((x, x + 0.26), (-half, half), (z, z + 0.06))
        parts += [Part("spoiler", wing, (1, 3, 1), 4, 0, aside="x")]
    return parts
