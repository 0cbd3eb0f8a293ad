"""Fit a space-time model on the training list and score it on query and gallery by time and camera alone."""

import argparse
import json

from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri_format import read_veri
from torchreid_dfrst.spatiotemporal import MODELS, audit, build


@command
def main() -> None:
    """Read the lists, fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder in VeRi-776's format; the lists are enough")
    parser.add_argument("--model", default="lognormal", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--save", help="write the fitted model to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()

    model = build(args.model)
    data = read_veri(args.root, images=False)
    if data.network is None:
        raise ValueError(f"{args.root} has no camera_Dist.txt: space and time need the distances between cameras")
    model.fit(data.train, data.network)
    distance = model.distance(data.query, data.gallery)
    result = audit.percent(audit.rank(distance, data.query, data.gallery))
    if args.save:
        model.save(args.save)
    if args.json:
        worst, best = (audit.percent(m)["mAP"] for m in audit.tie_bounds(distance, data.query, data.gallery))
        print(json.dumps({**result, "mAP_ties": [worst, best], **model.parameters}))
    else:
        print(model.describe())
        print("by time and camera alone: " + ", ".join(f"{name} {value:.2f}" for name, value in result.items()))


if __name__ == "__main__":
    main()
