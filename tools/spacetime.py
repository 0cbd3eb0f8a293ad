"""Fit space-time models on the training list and score them: alone, or beside appearance in one table."""

import argparse
import json
from pathlib import Path
from typing import Any

from tools.studies.spacetime import table
from tools.studies.spacetime.crossvalidate import grid
from tools.studies.spacetime.pictures import omegas
from tools.studies.spacetime.simulated import DIFFICULTY, extraction, level
from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri776 import read_veri
from torchreid_dfrst.retrieval.features import Extraction
from torchreid_dfrst.spatiotemporal import MODELS, build

# what each kind of run takes besides --root or --features
TAKES = {
    "one model": ("model", "option", "save", "json"),
    "--table": ("simulated", "out", "pictures", "json"),
    "--cross-validate": (),
}


@command
def main() -> None:
    """Read, fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", help="folder in VeRi-776's format; the lists are enough")
    source.add_argument("--features", help="instead of --root: a features file of tools/extract.py")
    parser.add_argument("--model", help=f"one of {', '.join(MODELS)} (default lognormal)")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="of the model; repeatable")
    parser.add_argument("--save", help="write the fitted model to this file")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--table", action="store_true", help="all models, alone and beside appearance (slow)")
    kind.add_argument("--cross-validate", action="store_true", help="options of likelihood, on training vehicles")
    parser.add_argument("--simulated", nargs="*", metavar="MAP", help="of the table with --root; MAP or MAP=DIFFICULTY")
    parser.add_argument("--out", type=Path, help="write the table to this JSON file")
    parser.add_argument("--pictures", help="draw mAP against omega for each appearance of the table into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    _refuse_what_would_be_ignored(parser, args)
    levels = [level(text) for text in map(str, DIFFICULTY if args.simulated is None else args.simulated)]
    model = build(args.model or "lognormal", **dict(_option(text) for text in args.option or ()))

    runs: dict[str, Extraction] = {}
    if args.features:
        run = Extraction.load(args.features)
        train, network = table.needed(run)
        query, gallery, runs = run.query.sightings, run.gallery.sightings, {"features": run}
    else:
        data = read_veri(args.root, images=False)
        if data.network is None:
            raise ValueError(f"{args.root} has no camera_Dist.txt: space and time need the distances between cameras")
        train, query, gallery, network = data.train, data.query, data.gallery, data.network
        for name, difficulty in levels if args.table else ():
            runs[f"simulated {name}"] = extraction(train, query, gallery, network, difficulty)

    if args.cross_validate:
        for options, score in grid(train, network):
            print(json.dumps({"options": options, **score}), flush=True)
    elif args.table:
        result = table.make([build(name) for name in MODELS], train, query, gallery, network, runs)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
        if args.pictures:
            omegas(result, args.pictures)
        print(json.dumps(result) if args.json else table.markdown(result))
    else:
        model.fit(train, network)
        if args.save:
            model.save(args.save)
        score = table.alone(model, query, gallery)
        text = f"by time and camera alone: mAP {score['mAP']:.2f}, R1 {score['R1']:.2f}, R5 {score['R5']:.2f}"
        print(json.dumps({**score, **model.parameters}) if args.json else f"{model.describe()}\n{text}")


def _refuse_what_would_be_ignored(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    kind = "--table" if args.table else "--cross-validate" if args.cross_validate else "one model"
    for name in sorted({name for names in TAKES.values() for name in names} - set(TAKES[kind])):
        if getattr(args, name) not in (None, False):
            takers = " or ".join(taker for taker, names in TAKES.items() if name in names)
            parser.error(f"--{name} goes with {takers}; {kind} does nothing with it")
    if args.features and args.simulated is not None:
        parser.error("--simulated draws appearance for the lists of --root; a features file has its own")


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--option {text}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
