"""Networks on photographs of vehicles that two cameras saw once each: a frozen backbone, DFR-ST and its peers.

    python -m tools.studies.real_pairs --config-file configs/reproduce/real_pairs.yaml --root DIR --only frozen

Every network starts from the same weights, those of the preset, or with --drawn-city-first from a backbone that was
trained on drawn cars after that. Both directions are scored, camera 1 to 2 and back,
and their mean is the figure; differences between two networks are tested over vehicles. A network is trained once, in
OUT/runs, and found again. Writes OUT/real_pairs.json (real_pairs_drawn_city_first.json) and prints the table.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.studies.reproduction import Harness, Preset
from tools.studies.reproduction.preset import merge
from torchreid_dfrst import files, retrieval
from torchreid_dfrst.checks import within
from torchreid_dfrst.cli import command
from torchreid_dfrst.evaluation.intervals import bootstrap, p_value
from torchreid_dfrst.inference import extract
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models import build
from torchreid_dfrst.training import checkpoint
from torchreid_dfrst.training.configuration import with_own_input
from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError

FROZEN = "frozen"


def frozen(harness: Harness) -> Path:
    """The backbone that every network starts from: the mean of its last map is the embedding."""
    start = harness.start("baseline")
    whole = with_own_input(merge(harness.preset.training, {"model": {"name": "baseline", **start}}))
    data, settings = whole["data"], {name: value for name, value in whole["model"].items() if name != "name"}
    network = build("baseline", 2, **settings)
    about = {
        "model": {"name": "baseline", **settings},
        "num_classes": 2,
        "height": data["height"],
        "width": data["width"],
        "backbone": network.start,
        "config": {"data": {name: data[name] for name in ("norm_mean", "norm_std") if name in data}},
    }
    return checkpoint.export(harness.out / "runs" / FROZEN / "weights.safetensors", network, about)


def directions(weights: Path, root: str, name: str) -> dict[str, Any]:
    """Average precision and first rank of each vehicle, the means of both directions.

    Args:
        weights: of a trained network.
        root: folder of the data set.
        name: of the data set.

    Returns:
        ``ap`` and ``first``: shares in [0, 1], in the order of the vehicles' numbers.
    """
    extraction, _ = extract(weights, root, name, workers=0, bar=tqdm)
    one, other = extraction.query, extraction.gallery
    found: dict[int, list[tuple[float, float]]] = {}
    for query, gallery in ((one, other), (other, one)):
        distance = retrieval.distance(*(retrieval.normalise(side.embedding) for side in (query, gallery)))
        who = (query.sightings.identity, gallery.sightings.identity)
        scores = retrieval.evaluate(distance, *who, query.sightings.camera, gallery.sightings.camera)
        for vehicle, precision, first in zip(who[0], scores.average_precision, scores.first_match, strict=True):
            found.setdefault(int(vehicle), []).append((float(precision), float(first == 1)))
    ap, first = np.array([np.mean(values, axis=0) for _, values in sorted(found.items())]).T
    return {"ap": ap.tolist(), "first": first.tolist()}


def rows(harness: Harness, names: Sequence[str], seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Name of a network to what each of its seeds gives."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        trained = [frozen(harness)] if name == FROZEN else [
            harness.train(name, seed=seed) / checkpoint.WEIGHTS for seed in range(seeds)
        ]  # fmt: skip
        found[name] = [directions(weights, str(harness.root), harness.sources[0]) for weights in trained]
    return found


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]], against: str) -> dict[str, dict[str, Any]]:
    """Percent of each network, seeds averaged, and its difference to one of them, tested over vehicles.

    The difference is over the seeds that both have; the frozen backbone, which has none, stands beside each.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, seeds in found.items():
        of_seeds = [100 * float(np.mean(seed["ap"])) for seed in seeds]
        entry: dict[str, Any] = {"mAP": round(float(np.mean(of_seeds)), 2), "of_seeds": [round(m, 2) for m in of_seeds]}
        entry["rank-1"] = round(100 * float(np.mean([np.mean(seed["first"]) for seed in seeds])), 2)
        if against in found and name != against:
            both = min(len(found[row]) for row in {name, against} - {FROZEN})
            one, other = (np.mean([seed["ap"] for seed in found[row][:both]], axis=0) for row in (name, against))
            difference = one - other
            entry[f"minus {against}"] = round(100 * float(difference.mean()), 2)
            means = bootstrap(difference, np.arange(len(difference)), 10_000, ends=None)
            entry["p over vehicles"] = p_value(means)
        table[name] = entry
    return table


@command
def main() -> int | None:
    """Train what is not trained yet, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True, help="preset, configs/reproduce/real_pairs.yaml")
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/real_pairs"), help="folder to write (%(default)s)")
    parser.add_argument("--seeds", type=int, help="trainings of each network (default: the preset's)")
    parser.add_argument("--only", nargs="+", help="some of the networks: frozen and the preset's peers")
    parser.add_argument("--against", help="network that the others are tested against (bot, or the first of --only)")
    parser.add_argument("--drawn-city-first", action="store_true", help="start from the preset's `pretraining`")
    args = parser.parse_args()
    preset = Preset.load(args.config_file)
    if not args.drawn_city_first:
        preset = replace(preset, pretraining=None)
    names = [FROZEN, *preset.peers]
    made, seeds = args.only or names, preset.seeds if args.seeds is None else args.seeds
    against = args.against or ("bot" if "bot" in made else made[0])
    for name in (*made, against):
        if name not in names:
            raise KeyError(f"no network {name!r}{nearest(name, names)}")
    if against not in made:
        raise ValueError(f"--against {against} is not among --only {' '.join(made)}: name it there too")
    within("--seeds", seeds, lowest=1)
    logging.getLogger().setLevel(logging.INFO)
    harness = Harness(preset, args.root, args.out, tqdm, "python -m tools.studies.real_pairs")
    try:
        found = rows(harness, made, seeds)
    except StoppedError as stopped:
        logging.warning("%s; the same command goes on", stopped)
        return EXIT_CODE
    table = summary(found, against)
    result = {"title": preset.title, "rows": table, "vehicles": {name: list(seeds) for name, seeds in found.items()}}
    name = "real_pairs_drawn_city_first.json" if args.drawn_city_first else "real_pairs.json"
    files.write({args.out / name: (json.dumps(result, indent=2) + "\n").encode()})
    for name, entry in table.items():
        print(f"{name:12} {', '.join(f'{key} {value}' for key, value in entry.items())}")
    return None


if __name__ == "__main__":
    main()
