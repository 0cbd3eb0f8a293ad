"""Is the gain by space and time honest? Controls of every model, as JSON and pictures."""

import argparse
import json
from pathlib import Path

from tools.studies.spacetime import pictures as study
from tools.studies.spacetime import table
from tools.studies.spacetime.camera_network import camera_network
from torchreid_dfrst import retrieval
from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri_format import read_veri
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.report import spacetime as pictures
from torchreid_dfrst.retrieval.features import Extraction
from torchreid_dfrst.spatiotemporal import MODELS, build
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal
from torchreid_dfrst.spatiotemporal.transition import Transition


@command
def main() -> None:
    """Read, run the controls, write JSON and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", help="folder in VeRi-776's format: space and time alone; the lists are enough")
    source.add_argument("--features", help="instead of --root: a features file, audited fused with its appearance")
    parser.add_argument("--model", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--omega", type=float, help="weight of the fusion with --features (default 0.2)")
    parser.add_argument("--table", help="JSON written by tools/spacetime.py --table --out, for mAP against omega")
    parser.add_argument("--out", default="runs/spacetime", help="folder for audit.json and the pictures")
    args = parser.parse_args()
    if args.root and args.omega is not None:
        parser.error("--omega weighs space and time against appearance: it needs --features")
    omega = table.PAPER_OMEGA if args.omega is None else args.omega
    models = [build(name) for name in args.model]
    out, results = Path(args.out), {}
    if args.table:
        study.omegas(json.loads(Path(args.table).read_text(encoding="utf-8")), out)

    appearance = None
    if args.features:
        run = Extraction.load(args.features)
        train, network = table.needed(run)
        query, gallery = run.query.sightings, run.gallery.sightings
        appearance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (run.query, run.gallery)))
    else:
        data = read_veri(args.root, images=False)
        if data.network is None:
            raise ValueError(f"{args.root} has no camera_Dist.txt: space and time need the distances between cameras")
        train, query, gallery, network = data.train, data.query, data.gallery, data.network

    out.mkdir(parents=True, exist_ok=True)
    for model in models:
        name = model.name
        results[name] = audit.run(model, train, query, gallery, network, appearance, omega)
        kept = {key: results[name][key] for key in ("as it is", "shuffled")}
        print(name, json.dumps(kept), flush=True)
        (out / "audit.json").write_text(json.dumps(results, indent=1), encoding="utf-8")

    pictures.controls(results, out / "spacetime_controls.png")
    pictures.reliability(results, out / "spacetime_reliability.png")
    for name, result in results.items():
        pictures.pair_gains(result, out / f"spacetime_pairs_{name}.png")
    study.logistic_family(out / "spacetime_logistic.png")
    study.densities(LogNormal().fit(train, network), train, network, out / "spacetime_densities.png")
    study.evidence(Likelihood().fit(train, network), train, network, out / "spacetime_evidence.png")
    camera_network(Transition().fit(train, network), network, out / "spacetime_network.png")
    print(f"audit.json and pictures are in {out}")


if __name__ == "__main__":
    main()
