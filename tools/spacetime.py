"""Fit space-time models on the training list and score them: alone, or beside appearance in one table."""

import argparse
import json
from typing import Any

from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri_format import read_veri
from torchreid_dfrst.retrieval.features import Extraction
from torchreid_dfrst.spatiotemporal import MODELS, build, table
from torchreid_dfrst.spatiotemporal.crossvalidate import grid
from torchreid_dfrst.spatiotemporal.simulated import DIFFICULTY, extraction


@command
def main() -> None:
    """Read, fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="folder in VeRi-776's format; the lists are enough")
    parser.add_argument("--features", help="instead of --root: a features file of tools/extract.py")
    parser.add_argument("--model", default="lognormal", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model; repeatable")
    parser.add_argument("--table", action="store_true", help="all models, alone and beside appearance (slow)")
    parser.add_argument("--simulated", type=float, nargs="*", default=list(DIFFICULTY), help="appearances of the table")
    parser.add_argument("--cross-validate", action="store_true", help="options of likelihood, on training vehicles")
    parser.add_argument("--save", help="write the fitted model to this file")
    parser.add_argument("--out", help="write the table to this JSON file")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    if not args.root and not args.features:
        parser.error("give --root or --features")

    runs: dict[str, Extraction] = {}
    if args.features:
        run = Extraction.load(args.features)
        train, network = table.needed(run)
        query, gallery = run.query.sightings, run.gallery.sightings
        runs = {"features": run}
    else:
        data = read_veri(args.root, images=False)
        if data.network is None:
            raise ValueError(f"{args.root} has no camera_Dist.txt: space and time need the distances between cameras")
        train, query, gallery, network = data.train, data.query, data.gallery, data.network
        lists = train, query, gallery
        if args.table:
            wanted_levels = [(wanted, DIFFICULTY[wanted]) for wanted in args.simulated]
            runs = {f"simulated {wanted:g}": extraction(*lists, network, level) for wanted, level in wanted_levels}

    if args.cross_validate:
        for options, score in grid(train, network):
            print(json.dumps({"options": options, **score}), flush=True)
        return
    if args.table:
        result = table.make([build(name) for name in MODELS], train, query, gallery, network, runs)
        if args.out:
            with open(args.out, "w", encoding="utf-8") as file:
                json.dump(result, file, indent=1)
        print(json.dumps(result) if args.json else table.markdown(result))
        return
    model = build(args.model, **dict(_option(text) for text in args.option)).fit(train, network)
    if args.save:
        model.save(args.save)
    score = table.alone(model, query, gallery)
    if args.json:
        print(json.dumps({**score, **model.parameters}))
    else:
        print(model.describe())
        print(f"by time and camera alone: mAP {score['mAP']:.2f}, R1 {score['R1']:.2f}, R5 {score['R5']:.2f}")


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
