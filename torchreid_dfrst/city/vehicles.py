"""The population: models, paints, liveries, and vehicles that differ from another by one detail."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from torchreid_dfrst.city.bodies import TYPES, Model, draw_model

COLOURS = ("yellow", "orange", "green", "gray", "red", "blue", "white", "golden", "brown", "black")
"""VeRi-776's own colours; colorID is the place in this tuple, from 1."""

_PAINTS = {  # factory paints, BGR
    "yellow": ((30, 190, 225), (60, 205, 235), (40, 170, 200)),
    "orange": ((30, 105, 225), (45, 85, 205), (25, 130, 235)),
    "green": ((60, 105, 40), (70, 140, 60), (50, 75, 35), (120, 160, 120)),
    "gray": ((128, 124, 120), (98, 96, 95), (160, 157, 153), (180, 178, 172), (80, 82, 86)),
    "red": ((35, 30, 175), (30, 28, 135), (50, 45, 205)),
    "blue": ((140, 75, 30), (175, 110, 45), (95, 50, 25), (190, 150, 100)),
    "white": ((236, 236, 236), (226, 232, 235), (242, 238, 234)),
    "golden": ((110, 165, 190), (130, 175, 195), (90, 140, 165)),
    "brown": ((45, 65, 95), (60, 85, 115), (35, 45, 70)),
    "black": ((28, 26, 26), (40, 36, 34), (24, 26, 30)),
}
_COLOUR_SHARE = (0.08, 0.05, 0.07, 0.17, 0.13, 0.13, 0.18, 0.06, 0.05, 0.08)
_TYPE_SHARE = (0.26, 0.16, 0.12, 0.13, 0.09, 0.07, 0.05, 0.07, 0.05)

_WHEEL_COLOURS = ((196, 196, 198), (165, 166, 170), (60, 60, 62), (120, 150, 165))

Colour = tuple[int, int, int]

ACCENTS: tuple[Colour, ...] = (
    (240, 240, 240), (25, 25, 25), (35, 35, 210), (200, 95, 30), (40, 200, 235), (60, 160, 40), (30, 120, 240),
    (160, 50, 140), (190, 190, 60), (120, 120, 125),
)  # fmt: skip
CONTRAST = 160  # least difference between a twin's mark and its ground, summed over the three colours
PANELS = ("hood", "left door", "right door", "left rear", "right rear", "tail", "roof", "rear window", "bumper")
SHAPES = ("disc", "square", "triangle", "star", "bars", "heart", "cross", "ring")
LIVERIES = ("stripes", "band", "two-tone", "roof", "lettering", "number", "checker", "slash", "patches", "panel",
            "gradient")  # fmt: skip
TWIN_DIFFERENCES = ("sticker", "stripe", "rack", "wheels", "panel", "lettering")


@dataclass(frozen=True)
class Mark:
    """Something painted or stuck on.

    Args:
        kind: one of ``LIVERIES`` or ``"sticker"``.
        colour: BGR, 0 to 255.
        panel: one of ``PANELS``, for stickers and odd panels.
        shape: one of ``SHAPES``, for stickers and emblems.
        place: two numbers in ``[0, 1]``: where on the panel, or the pattern's own parameters.
        size: in ``[0, 1]``, relative to what fits.
        seed: of letters and random patterns.
    """

    kind: str
    colour: Colour
    panel: str = ""
    shape: str = ""
    place: tuple[float, float] = (0.5, 0.5)
    size: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Vehicle:
    """One identity.

    Args:
        identity: number, from 1.
        model: shape, shared with other vehicles.
        colour: one of ``COLOURS``.
        paint: BGR, 0 to 255.
        wheel_style: 0 to 7.
        wheel_colour: BGR, 0 to 255.
        tint: darkness of the windows, 0 to 1.
        marks: painted in this order.
        extras: what is mounted on the roof or the tail.
        plate: seed of the (unreadable) plate.
        twin_of: identity this vehicle was copied from; 0 for an original.
        differs_by: the one thing that was changed, one of ``TWIN_DIFFERENCES``; empty for an original.
    """

    identity: int
    model: Model
    colour: str
    paint: Colour
    wheel_style: int
    wheel_colour: Colour
    tint: float
    marks: tuple[Mark, ...]
    extras: frozenset[str]
    plate: int
    twin_of: int = 0
    differs_by: str = ""


def make_vehicles(count: int, rng: np.random.Generator, *, models: int, twins: float) -> list[Vehicle]:
    """Draw a population.

    Args:
        count: number of identities.
        rng: source of randomness.
        models: number of models they share.
        twins: share of identities that copy an earlier one and differ by one of ``TWIN_DIFFERENCES``.

    Returns:
        Vehicles with identities 1 to ``count``.
    """
    kinds = list(rng.choice(TYPES, size=models, p=_TYPE_SHARE))
    kinds[: len(TYPES)] = TYPES[: len(kinds)]  # every type exists as soon as there are nine models
    catalogue = [draw_model(str(kind), rng) for kind in kinds]
    share = np.array([_TYPE_SHARE[TYPES.index(model.kind)] for model in catalogue])
    share /= np.array([kinds.count(kind) for kind in kinds])
    fleets = [_livery(rng, 2) for _ in range(max(2, count // 12))]
    vehicles: list[Vehicle] = []
    for identity in range(1, count + 1):
        originals = [vehicle for vehicle in vehicles[-40:] if not vehicle.twin_of]
        if originals and rng.random() < twins:
            vehicles.append(_twin(originals[int(rng.integers(len(originals)))], identity, rng))
        else:
            model = catalogue[int(rng.choice(len(catalogue), p=share / share.sum()))]
            vehicles.append(_original(identity, model, fleets, rng))
    return vehicles


def _original(identity: int, model: Model, fleets: list[tuple[Mark, ...]], rng: np.random.Generator) -> Vehicle:
    name = str(rng.choice(COLOURS, p=_COLOUR_SHARE))
    paint = _shade(model, name, int(rng.integers(len(_PAINTS[name]))))
    heavy = model.kind in ("van", "bus", "truck")
    marks: tuple[Mark, ...] = ()
    if rng.random() < (0.6 if heavy else 0.3):
        marks += fleets[int(rng.integers(len(fleets)))] if rng.random() < 0.35 else _livery(rng, 1)
    marks += tuple(_sticker(rng) for _ in range(int(rng.choice(4, p=(0.5, 0.27, 0.15, 0.08)))))
    extras = set()
    if heavy and rng.random() < 0.5:
        extras.add("hatch" if model.kind != "truck" else "beacon")
    elif not heavy and rng.random() < 0.3:
        extras.add(str(rng.choice(("rack", "box", "sign", "spoiler", "spoiler"))))
    return Vehicle(
        identity=identity,
        model=model,
        colour=name,
        paint=paint,
        wheel_style=int(rng.integers(8)),
        wheel_colour=_WHEEL_COLOURS[int(rng.choice(4, p=(0.5, 0.3, 0.15, 0.05)))],
        tint=float(rng.choice((0.25, 0.5, 0.85))),
        marks=marks,
        extras=frozenset(extras),
        plate=int(rng.integers(1 << 30)),
    )  # fmt: skip


def _shade(model: Model, name: str, shade: int) -> Colour:
    """One of the paints in which a model is sold; every maker mixes its own."""
    rng = np.random.default_rng([model.palette, COLOURS.index(name), shade])
    b, g, r = np.clip(np.array(_PAINTS[name][shade]) + rng.uniform(-9, 9) + rng.uniform(-9, 9, 3), 8, 248).astype(int)
    return (int(b), int(g), int(r))


def _livery(rng: np.random.Generator, count: int) -> tuple[Mark, ...]:
    kinds = rng.choice(LIVERIES, size=count, replace=False)
    return tuple(_mark(str(kind), rng) for kind in kinds)


def _mark(kind: str, rng: np.random.Generator) -> Mark:
    return Mark(
        kind=kind,
        colour=ACCENTS[int(rng.integers(len(ACCENTS)))],
        panel=PANELS[int(rng.integers(len(PANELS)))],
        shape=SHAPES[int(rng.integers(len(SHAPES)))],
        place=(float(rng.random()), float(rng.random())),
        size=float(rng.random()),
        seed=int(rng.integers(1 << 30)),
    )


def _sticker(rng: np.random.Generator) -> Mark:
    return _mark("sticker", rng)


def _noticeable(mark: Mark, original: Vehicle) -> Mark:
    """The mark made large enough to be seen, in a colour that stands out, on something that is not a window."""
    panel = "tail" if mark.kind == "panel" and mark.panel in ("rear window", "bumper", "roof") else mark.panel
    ground = (35, 35, 35) if panel in ("rear window", "bumper") else original.paint
    contrast = np.abs(np.subtract(ACCENTS, ground)).sum(axis=1)
    colour = mark.colour
    if np.abs(np.subtract(colour, ground)).sum() < CONTRAST:
        colour = ACCENTS[int(np.flatnonzero(contrast >= CONTRAST)[mark.seed % (contrast >= CONTRAST).sum()])]
    return replace(mark, panel=panel, size=max(mark.size, 0.55), colour=colour)


def _twin(original: Vehicle, identity: int, rng: np.random.Generator) -> Vehicle:
    """A copy that differs by one thing, and by its plate."""
    how = str(rng.choice(TWIN_DIFFERENCES, p=(0.4, 0.2, 0.1, 0.1, 0.1, 0.1)))
    marks, extras, wheels = original.marks, original.extras, original.wheel_colour
    if how == "rack" and original.model.kind == "bus":
        how = "stripe"
    if how == "rack":
        extras = extras ^ {"rack"}
    elif how == "wheels":
        wheels = (40, 160, 210) if wheels != (40, 160, 210) else (196, 196, 198)
    else:
        kind = {"stripe": str(rng.choice(("stripes", "band", "slash")))}.get(how, how)
        marks = (*marks, _noticeable(_mark(kind, rng), original))
    return replace(
        original,
        identity=identity,
        marks=marks,
        extras=extras,
        wheel_colour=wheels,
        plate=int(rng.integers(1 << 30)),
        twin_of=original.identity,
        differs_by=how,
    )
