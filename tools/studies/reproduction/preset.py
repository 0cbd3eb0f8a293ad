"""At what scale the tables are made: one YAML file that every row shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tools.studies.reproduction.paper import TABLE_X, TABLE_XI
from torchreid_dfrst import evaluation, training
from torchreid_dfrst.checks import check, expected_types
from torchreid_dfrst.config import Config, checked, read_yaml
from torchreid_dfrst.messages import nearest

BACKBONES = ("resnet50", "resnet18")
# as YAML has them
LISTS: dict[Any, Any] = {tuple[str, ...]: list[str], tuple[int, ...]: list[int], tuple[float, ...]: list[float]}
PEERS = ("baseline", "prn", "osnet_x1_0", "pcb_p4", "bot")


@dataclass(frozen=True)
class Preset:
    """What the rows of every table have in common.

    Args:
        name: the data in a word or two, for pictures.
        title: data, input and budget in words; it stands under every table.
        training: sections of ``dfrst train``'s configuration.
        scoring: sections of ``dfrst evaluate``'s.
        backbone: ``resnet50`` or ``resnet18``, of all rows but those that name their own.
        tests: label of a test set to the name of a data set; several for VehicleID's three sizes.
        draw: settings of the synthetic city to train and test on, which is then drawn; None for data that is there.
        pretraining: what every row starts from where ImageNet's weights are not to be had: ``draw``, settings of the
            city to pre-train on, and ``training``, sections; None where ``training`` says how the rows start.
        networks: name of a network to sections that it alone needs.
        seeds: number of trainings of each row, with seeds 0, 1, ...; ``--seeds`` asks for another number.
        peers: networks of the ``peers`` table beside DFR-ST.
        triplet_weights: lambdas of Table X.
        weights: omegas of Table XI.
        levels: percent of damaged pixels of Tables VI and VII.
        short: sections of the ``resnet50`` table, on top of ``training``.
        selection: sections on top of ``training`` where a choice is made; they hold training identities out.
    """

    name: str
    title: str
    training: Config
    scoring: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backbone: str = "resnet50"
    tests: Mapping[str, str] = field(default_factory=dict)
    draw: Mapping[str, Any] | None = None
    pretraining: Mapping[str, Any] | None = None
    networks: Mapping[str, Config] = field(default_factory=dict)
    seeds: int = 1
    peers: tuple[str, ...] = PEERS
    triplet_weights: tuple[float, ...] = tuple(TABLE_X)
    weights: tuple[float, ...] = tuple(TABLE_XI)
    levels: tuple[int, ...] = (0, 5, 10, 20, 30, 40, 50)
    short: Config = field(default_factory=dict)
    selection: Config = field(default_factory=lambda: {"data": {"validation_identities": 30}})

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Read a preset and refuse what nothing would read.

        Raises:
            FileNotFoundError: there is no such file.
            KeyError: an unknown key; the message has the nearest one.
            ValueError: not YAML, a value of the wrong type, or a key that must be there is missing.
        """
        content = read_yaml(path)
        known, types = [entry.name for entry in fields(cls)], expected_types(cls)
        for name, value in content.items():
            if name not in known:
                raise KeyError(f"{path}: unknown key {name!r}{nearest(str(name), known)}")
            check(f"{path}: {name}", value, LISTS.get(types[name], types[name]))
        for name in ("name", "title", "training"):
            if name not in content:
                raise ValueError(f"{path} has no {name!r}: it is no preset of tools.studies.reproduction")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        preset = cls(**values)
        if preset.backbone not in BACKBONES:
            raise ValueError(f"{path}: backbone is {preset.backbone!r}, expected {' or '.join(BACKBONES)}")
        sections = training.sections()
        for where, config in (
            ("training", preset.training),
            ("short", preset.short),
            ("selection", preset.selection),
            *((f"networks.{name}", config) for name, config in preset.networks.items()),
            *([("pretraining.training", preset.pretraining.get("training", {}))] if preset.pretraining else []),
        ):
            checked(config, sections, f"{path}: {where}")
        checked(preset.scoring, evaluation.sections(), f"{path}: scoring")
        return preset

    def network(self, name: str) -> str:
        """Registered name of one of our networks with this preset's backbone."""
        return name if self.backbone == "resnet50" else f"{name}_{self.backbone}"


def merge(*configs: Mapping[str, Mapping[str, Any]]) -> Config:
    """Sections with the keys of all configurations; of two with the same key the later one counts."""
    merged: Config = {}
    for config in configs:
        for section, values in config.items():
            merged.setdefault(section, {}).update(values)
    return merged
