"""What stands in each table of the paper, row by row: a network, what is different about it, and how it ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.studies.reproduction import changes as what_helps
from tools.studies.reproduction import paper
from tools.studies.reproduction.preset import Preset, merge
from torchreid_dfrst.evaluation import APPEARANCE, BOTH, FUSED, RERANKED
from torchreid_dfrst.models.dfrst import DIVIDED
from torchreid_dfrst.models.zoo import FACTORIES

LOGNORMAL = {"spacetime": {"model": "lognormal", "weight": 0.2}}
WITHOUT = {"spacetime": {"model": None}}
COARSE = {"model": {"fine": False, "divisions": [], "attention": "none"}}
OURS = ("dfrst", "dfrst_plus")
ALIKE = "trained as dfrst_plus"
TRAINED_ALIKE = ("pcb_p4", "pcb", "bot", "baseline")
BEST_PEER, WITHOUT_ST = "the best peer", "the same network without space and time"
SPACETIME = {
    "STR [16]": "provid",
    "ST (ours in the paper)": "lognormal",
    "transition times (OIN [18])": "transition",
    "histogram (st-ReID)": "histogram",
    "likelihood (ours)": "likelihood",
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        label: what stands at its left.
        network: a name registered with torchreid.
        change: sections of training on top of the preset's.
        ranking: a row of the result card.
        scoring: sections of scoring on top of the preset's.
        level: percent of damaged pixels.
        held_out: scored on the training identities that ``change`` holds out, not on a test set.
        tests: labels of the test sets whose mean it is; empty for all.
        paper: mAP, Top-1 and Top-5 of the paper, None where it has none.
    """

    label: str
    network: str
    change: Mapping[str, Any] = field(default_factory=dict)
    ranking: str = APPEARANCE
    scoring: Mapping[str, Any] = field(default_factory=lambda: WITHOUT)
    level: float = 0
    held_out: bool = False
    tests: tuple[str, ...] = ()
    paper: paper.Figures | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one of ours.

    Args:
        title: its caption.
        rows: makes the rows at the scale of a preset.
        data: where the paper's figures were measured; empty for a table that the paper does not have.
        cost: with the price of each network.
        against: label of the row that the others are tested against, query by query; empty for no test.
            ``BEST_PEER``: our networks are, each against the best of the others in the same ranking. ``WITHOUT_ST``:
            each against its own network's appearance.
        on_top: attribute of the preset with the sections that every row has on top of ``training``, for the note.
    """

    title: str
    rows: Callable[[Preset], list[Row]]
    data: str = paper.VERI
    cost: bool = False
    against: str = ""
    on_top: str = ""


def own_rows(preset: Preset) -> list[Row]:
    """Table II: the method whole."""
    network = preset.network("dfrst")
    return [
        Row("DFR-ST", network, ranking=FUSED, scoring=LOGNORMAL, paper=paper.TABLE_II["DFR-ST"]),
        Row(
            "DFR-ST + ReRanking",
            network,
            ranking=BOTH,
            scoring=LOGNORMAL,
            paper=paper.TABLE_II["DFR-ST + ReRanking"],
        ),
    ]


def components(preset: Preset) -> list[Row]:
    """Table III: one component after the other."""
    network, found = preset.network("dfrst"), paper.TABLE_III
    whole = "xc + xf1 + xfdiv"
    return [
        Row("Baseline", preset.network("baseline"), paper=found["Baseline"]),
        Row("xc", network, COARSE, paper=found["xc"]),
        Row("xc + xf1", network, {"model": {"divisions": []}}, paper=found["xc + xf1"]),
        Row(whole, network, paper=found[whole]),
        Row(f"{whole} + ST", network, ranking=FUSED, scoring=LOGNORMAL, paper=found[f"{whole} + ST"]),
        Row(f"{whole} + ReRanking", network, ranking=RERANKED),
        Row(f"{whole} + ST + ReRanking", network, ranking=BOTH, scoring=LOGNORMAL),
    ]


def spacetime_models(preset: Preset) -> list[Row]:
    """Table IV: models of space and time on DFR-ST and on the strong baseline."""
    rows = []
    for title, name in (("DFR-ST", "dfrst"), ("BoT", "bot")):
        network, figures = preset.network(name), paper.TABLE_IV if name == "dfrst" else {}
        rows.append(Row(f"{title} w/o ST", network, paper=figures.get("w/o ST")))
        for label, model in SPACETIME.items():
            key = {"provid": "+ STR", "lognormal": "+ ST"}.get(model, "")
            for weight in (0.2, "auto"):
                scoring = {"spacetime": {"model": model, "weight": weight}}
                figure = figures.get(key) if weight == 0.2 else None
                rows.append(Row(f"{title} + {label}, omega {weight}", network, {}, FUSED, scoring, paper=figure))
    return rows


def appearance_alone(preset: Preset) -> list[Row]:
    """Table V: test sets of growing size, by appearance."""
    network = preset.network("dfrst")
    return [
        Row(_named(f"DFR-ST {key}", test), network, {}, ranking, tests=(test,), paper=_of_size(key, test))
        for test in _tests(preset)
        for key, ranking in (("w/o ST", APPEARANCE), ("w/o ST + Re-Ranking", RERANKED))
    ]


def contamination(preset: Preset) -> list[Row]:
    """Tables VI and VII, Fig. 8: more and more damaged pixels."""
    rows = []
    for title, name, figures in (("DFR-ST", "dfrst", paper.TABLE_VI), ("PRN", "prn", paper.TABLE_VII)):
        for level in preset.levels:
            known = figures.get(level)
            for place, test in enumerate(_tests(preset)):
                figure = known[place] if known and len(_tests(preset)) > 1 else None
                rows.append(Row(_named(f"{title} {level} %", test), preset.network(name), level=level, tests=(test,),
                                paper=figure))  # fmt: skip
            if len(_tests(preset)) > 1:
                rows.append(Row(f"average, {title} {level} %", preset.network(name), level=level,
                                paper=known[-1] if known else None))  # fmt: skip
            elif known:
                # the paper's average stands beside the one test set there is
                rows[-1] = Row(f"{title} {level} %", preset.network(name), level=level, paper=known[-1])
    return rows


def divisions(preset: Preset) -> list[Row]:
    """Table VIII: which dimensions are divided."""
    return [
        Row(
            " + ".join(chosen) + " division" if chosen else "w/o division",
            preset.network("dfrst"),
            {} if chosen == DIVIDED else {"model": {"divisions": list(chosen)}},
            paper=figures,
        )
        for chosen, figures in paper.TABLE_VIII.items()
    ]


def placements(preset: Preset) -> list[Row]:
    """Table IX: where AttentionNet's two parts stand."""
    return [
        Row(
            f"{placement} attention",
            preset.network("dfrst"),
            {} if placement == "channel-spatial" else {"model": {"attention": placement}},
            paper=figures,
        )
        for placement, figures in paper.TABLE_IX.items()
    ]


def triplet_weights(preset: Preset) -> list[Row]:
    """Table X: lambda of Eq. 1."""
    usual = preset.training.get("loss", {}).get("triplet_weight", 0.4)
    return [
        Row(
            f"lambda {value:g}",
            preset.network("dfrst"),
            {} if value == usual else {"loss": {"triplet_weight": value}},
            paper=paper.TABLE_X.get(value),
        )
        for value in preset.triplet_weights
    ]


def spacetime_weights(preset: Preset) -> list[Row]:
    """Table XI: omega of Eq. 6."""
    return [
        Row(
            f"omega {value:g}",
            preset.network("dfrst"),
            ranking=FUSED,
            scoring={"spacetime": {"model": "lognormal", "weight": float(value)}},
            paper=paper.TABLE_XI.get(value),
        )
        for value in preset.weights
    ]


def peers(preset: Preset) -> list[Row]:
    """Networks in one harness: same data, budget, augmentation and seeds.

    ``dfrst_plus`` also stands there with ResNet-50, as PCB brings that backbone whatever the preset's; and peers stand
    there once more with the rate, lambda and warm-up of ``dfrst_plus``, which are no part of the network.
    """
    plus = what_helps.training_of_plus(preset.training)
    plus_without_triplets = {section: keys for section, keys in plus.items() if section != "loss"}
    entries: dict[str, tuple[str, Mapping[str, Any]]]
    entries = {_entry(name, preset): (name, {}) for name in (_with_backbone(name, preset) for name in preset.peers)}
    for name in (_with_backbone(name, preset) for name in TRAINED_ALIKE if name in preset.peers):
        alike = plus_without_triplets if name.startswith("baseline") else plus
        entries[f"{_entry(name, preset)}, {ALIKE}"] = (name, alike)
    for name in (*(preset.network(name) for name in OURS), "dfrst_plus"):
        entries[_entry(name, preset)] = (name, plus if name.startswith("dfrst_plus") else {})
    return _two_rankings(entries)


def changes(preset: Preset) -> list[Row]:
    """One change to DFR-ST at a time, judged on training identities that are held out."""
    named: dict[str, tuple[str, Mapping[str, Any]]] = {"bot": ("bot", {}), "dfrst": ("dfrst", {})}
    # a rate and a warm-up are no inventions of ours: would the peer gain by them as well?
    named[f"bot, {what_helps.FASTER}"] = ("bot", what_helps.together([what_helps.FASTER], preset.training))
    named[f"bot, {ALIKE}"] = ("bot", what_helps.training_of_plus(preset.training))
    named |= {label: ("dfrst", change) for label, change in what_helps.rows(preset.training).items()}
    return [
        Row(label, preset.network(network), merge(preset.selection, change), held_out=True)
        for label, (network, change) in named.items()
    ]


def larger(preset: Preset) -> list[Row]:
    """DFR-ST and the strong baseline with ResNet-50, shorter."""
    return _two_rankings({_entry(name, preset): (name, preset.short) for name in ("bot", "dfrst")})


def _two_rankings(entries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Row]:
    """Rows by appearance and with space and time of ``label: (network, change)``."""
    return [
        Row(f"{label}{words}", network, change, ranking, LOGNORMAL if ranking == FUSED else WITHOUT)
        for label, (network, change) in entries.items()
        for words, ranking in (("", APPEARANCE), (" + ST", FUSED))
    ]


def ours(network: str) -> bool:
    """Whether a registered network is DFR-ST or made from it."""
    return network.startswith("dfrst")


def _with_backbone(network: str, preset: Preset) -> str:
    """Registered name: networks of torchreid's or a user's bring their backbones, ours have the preset's."""
    return preset.network(network) if network in FACTORIES else network


def _entry(network: str, preset: Preset) -> str:
    """How a network is called in a table: with ResNet-50 where that is its backbone and not the preset's."""
    with_resnet50 = network == "pcb_p4" or (network in FACTORIES and not network.endswith("_resnet18"))
    return f"{network} (ResNet-50)" if with_resnet50 and preset.backbone != "resnet50" else network


def _named(label: str, test: str) -> str:
    return f"{label}, {test}" if test else label


def _tests(preset: Preset) -> tuple[str, ...]:
    return tuple(preset.tests) or ("",)


def _of_size(key: str, test: str) -> paper.Figures | None:
    size = "".join(filter(str.isdigit, test))
    return paper.TABLE_V.get((key, int(size))) if size else None


TABLES: dict[str, Table] = {
    "II": Table("Table II, the paper's own rows", own_rows),
    "III": Table("Table III, components", components, against="Baseline"),
    "IV": Table("Table IV, models of space and time", spacetime_models, against=WITHOUT_ST),
    "V": Table("Table V, the appearance module", appearance_alone, data=paper.VEHICLEID),
    "VI": Table("Tables VI and VII, Fig. 8: damaged images", contamination, data=paper.VEHICLEID),
    "VIII": Table("Table VIII, divisions", divisions, against="height + width + channel division"),
    "IX": Table("Table IX, attention", placements, against="channel-spatial attention"),
    "X": Table("Table X, lambda", triplet_weights),
    "XI": Table("Table XI, omega", spacetime_weights),
    "peers": Table("Peers in one harness", peers, data="", cost=True, against=BEST_PEER),
    "changes": Table("What would help DFR-ST", changes, data="", against="dfrst", on_top="selection"),
    "resnet50": Table(
        "ResNet-50 backbones, a shorter budget", larger, data="", cost=True, against=BEST_PEER, on_top="short"
    ),
}
ALIASES = {"VII": "VI", "8": "VI"}
