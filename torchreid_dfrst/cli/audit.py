"""Test whether a gain by space and time is honest.

    dfrst audit --root DIR -t veri776
    dfrst audit features.npz spacetime.model likelihood spacetime.weight 0.37

scores what is left of it when times, cameras or clocks are wrong, and writes audit.json and pictures. With --root space
and time rank alone, with a features file fused with its appearance.
"""

import argparse
import json
from pathlib import Path

from torchreid_dfrst.cli import spacetime
from torchreid_dfrst.cli.arguments import say, wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst audit``."""
    spacetime.source(parser)
    default = Path("runs/audit")
    parser.add_argument("--out", type=Path, default=default, help="folder of audit.json and pictures (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, as in audit.json, not tables")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst audit``."""
    from torchreid_dfrst import files, retrieval
    from torchreid_dfrst.evaluation import PAPER_WEIGHT, audit
    from torchreid_dfrst.report import spacetime as pictures

    files.require_writable(args.out / "audit.json")
    data, settings = spacetime.read(args, {"weight": float})
    appearance = None
    if args.root is None:
        appearance = retrieval.distance(*(retrieval.normalise(part.embedding) for part in (data.query, data.gallery)))
    elif "weight" in settings:
        raise ValueError("spacetime.weight weighs space and time against appearance: it needs a features file")
    weight, results = settings.get("weight", PAPER_WEIGHT), {}
    lists = data.train, data.query.sightings, data.gallery.sightings, data.network
    for model in spacetime.models(settings):
        results[model.name] = audit.run(model, *lists, appearance, weight, data.called)
        if not args.json:
            say(audit.table(model.name, results[model.name]))
        files.write({args.out / "audit.json": json.dumps(results, indent=1).encode()})
    if args.json:
        say(results)
    drawn = {name: args.out / f"spacetime_{name}.png" for name in ("controls", "reliability")}
    pictures.controls(results, drawn["controls"])
    pictures.reliability(results, drawn["reliability"])
    for name, result in results.items():
        drawn[name] = args.out / f"spacetime_pairs_{name}.png"
        pictures.pair_gains(result, drawn[name])
    wrote(args.out / "audit.json", *drawn.values())
