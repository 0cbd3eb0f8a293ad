"""Choices between networks and between weights, made on training identities that a run was not trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tools.studies.reproduction.harness import Harness, digest, load_card, made_anew
from tools.studies.reproduction.preset import merge
from torchreid_dfrst import evaluation, files
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.retrieval import Extraction


def score(harness: Harness, run: Path) -> Card:
    """Result card, by appearance, of the training identities that a run held out.

    As in the run's own evaluation, one image of each identity and camera asks, and all of them are the gallery.

    Raises:
        ValueError: it held none out, or trained on several data sets.
    """
    choices = {**harness.preset.scoring, "spacetime": {"model": None}}
    path = run / f"card-held-out-{digest([harness.test_lists(harness.sources[0]), choices])}.json"
    if path.is_file():
        return load_card(path)
    found = _extraction(harness, run)
    assert found.train_features is not None
    gallery = found.train_features
    seen = np.stack([gallery.sightings.identity, gallery.sightings.camera])
    query = gallery[np.sort(np.unique(seen, axis=1, return_index=True)[1])]
    extraction = replace(found, query=query, gallery=gallery, train_features=None)
    card = evaluation.card(evaluation.score(extraction, **choices), extraction, harness.command)
    card.save(path)
    return card


def omega(harness: Harness, run: Path, scoring: Mapping[str, Any]) -> float:
    """The weight of space and time, chosen on the training identities that a run held out.

    Args:
        harness: whose run it is.
        run: its folder.
        scoring: sections on top of the preset's; ``spacetime.weight`` says how to choose.

    Raises:
        ValueError: as ``score`` and ``evaluation.transit_weight``.
    """
    choices = dict(merge(harness.preset.scoring, scoring)["spacetime"])
    path = run / f"omega-{digest([harness.test_lists(harness.sources[0]), choices])}.json"
    if not path.is_file():
        method, extraction = choices.pop("weight"), _extraction(harness, run)
        model = evaluation.fit_transit(extraction, **choices)
        assert model is not None
        value, reason = evaluation.transit_weight(extraction, model, method)
        files.write({path: (json.dumps({"value": value, "from": reason}, indent=2) + "\n").encode()})
    with made_anew(path):
        return float(json.loads(path.read_text(encoding="utf-8"))["value"])


def _extraction(harness: Harness, run: Path) -> Extraction:
    if len(harness.sources) > 1:
        raise ValueError(f"choices on held-out identities need one data set to train on, not {harness.sources}")
    found = harness.features(run, harness.sources[0], train=True)
    if found.source["train_features"] != evaluation.HELD_OUT:
        raise ValueError(f"{run} held no training identities out: set selection.data.validation_identities")
    return found
