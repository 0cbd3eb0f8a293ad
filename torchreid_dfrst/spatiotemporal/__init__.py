"""Spatio-temporal models: one interface, chosen by name.

``build(name, **options).fit(train, network)`` learns from training sightings, ``distance(query, gallery)`` or
``transit(query, gallery).block(rows, columns)`` gives distances, ``save(path)`` and ``load(path, network)`` keep the
model, ``fuse(appearance, transit, weight)`` adds it to appearance (paper, Eq. 6).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.checks import check, expected_types
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.retrieval.transit import Transit
from torchreid_dfrst.sightings import CameraNetwork
from torchreid_dfrst.spatiotemporal.gap_model import AGAIN, GapModel, fuse, read
from torchreid_dfrst.spatiotemporal.habits import restored
from torchreid_dfrst.spatiotemporal.histogram import Histogram
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal
from torchreid_dfrst.spatiotemporal.provid import Provid
from torchreid_dfrst.spatiotemporal.transition import Transition

MODELS: dict[str, type[GapModel]] = {m.name: m for m in (LogNormal, Provid, Transition, Histogram, Likelihood)}

__all__ = ["MODELS", "GapModel", "Transit", "build", "by_pairs", "fuse", "load"]


def build(name: str, **options: Any) -> GapModel:
    """A model of ``MODELS`` that is not fitted yet; options that are left out have their defaults.

    Raises:
        KeyError: unknown model or option; the message names the nearest one.
        ValueError: an option is out of range or not of its type.
    """
    if name not in MODELS:
        raise KeyError(f"no space-time model {name!r}{nearest(name, MODELS)}")
    expected = expected_types(MODELS[name])
    for option, value in options.items():
        if option not in expected:
            raise KeyError(f"{name} has no option {option!r}{nearest(option, expected)}")
        check(f"option {option} of {name}", value, expected[option])
    return MODELS[name](**options)


def by_pairs(model: GapModel) -> GapModel:
    """The model whose distance depends on nothing but the pair, in whatever gallery; fitted where it was."""
    pairs_only = {name: value for name, value in (("relays", 0), ("pooling", False)) if name in model.options}
    made = build(model.name, **{**model.options, **pairs_only})
    return made if model.network is None else made.restore(model.fitted, model.network)


def load(path: str | Path, network: CameraNetwork) -> GapModel:
    """Read a model that ``save`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a model of ours, another format version, damaged, or fitted on another camera network.
        KeyError: a model or option this version does not have.
    """
    content = read(path, network)
    # what was learned is in the order of its own network, and a fingerprint does not see the order of rows
    rows = network.rows(content["cameras"])
    distance = network.distance_m[np.ix_(rows, rows)]
    own = replace(network, cameras=network.cameras[rows], distance_m=distance, names=network.names[rows])
    try:
        model = build(content["model"], **content["options"])
        if lacking := set(model.options) - set(content["options"]):
            raise ValueError(f"options lacks {', '.join(sorted(lacking))}")
        model.habits = restored(content["habits"])
        return model.restore(content["fitted"], own)
    except (ValueError, KeyError) as error:
        raise type(error)(f"{path}: {error.args[0]}; {AGAIN}") from error
