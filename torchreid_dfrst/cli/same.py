"""Say how probable it is that two photographs show one vehicle.

    dfrst same A.jpg B.jpg --weights RUN/weights.safetensors --calibration calibration.json
    dfrst same A.jpg B.jpg --gallery DIR --weights ... --camera-a north --time-a 2026-05-01T16:30:00Z \
        --camera-b south --time-b 2026-05-01T16:34:00Z

The calibration is what dfrst evaluate writes beside its card, or the one of a gallery, which also knows space and time.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import moment


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst same``."""
    parser.add_argument("images", nargs=2, metavar="IMAGE")
    parser.add_argument("--weights", type=Path, required=True, help="weights.safetensors or a checkpoint of training")
    words = "calibration.json of dfrst evaluate (default: beside the weights)"
    parser.add_argument("--calibration", type=Path, help=words)
    parser.add_argument("--gallery", metavar="DIR", help="take calibration, space and time from this gallery")
    for side in "ab":
        parser.add_argument(f"--camera-{side}", help=f"camera of the {'first' if side == 'a' else 'second'} image")
        parser.add_argument(f"--time-{side}", help="when it was taken")
    words = "images among which the second was picked as the likeliest (%(default)s: the two were given)"
    parser.add_argument("--candidates", type=int, default=1, help=words)
    words = "share of such questions in which the vehicle is not there at all (%(default)s)"
    parser.add_argument("--strangers", type=float, default=0.5, help=words)


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst same``."""
    import numpy as np

    from torchreid_dfrst.evaluation.calibration import Calibration
    from torchreid_dfrst.gallery import Gallery
    from torchreid_dfrst.gallery.spacetime import Trips
    from torchreid_dfrst.inference.unlabelled import read_crops
    from torchreid_dfrst.retrieval import normalise
    from torchreid_dfrst.retrieval.logistic import sigmoid
    from torchreid_dfrst.sightings import Sightings

    if args.gallery and args.calibration:
        raise ValueError("--gallery brings its own calibration: leave --calibration out")
    if args.candidates < 1:
        raise ValueError(f"--candidates is {args.candidates}: how many images the second was picked from, 1 or more")
    content = Gallery.open(args.gallery).content if args.gallery else None
    if content is not None and content.calibration is None:
        raise ValueError(f"{args.gallery} has no calibration: dfrst gallery fit {args.gallery} FEATURES makes one")
    file = args.calibration or args.weights.with_name("calibration.json")
    kept = content and content.calibration
    calibration = Calibration.of(kept) if kept else Calibration.load(file)
    a, b = (read_crops(image, "query", args.weights) for image in args.images)
    for image, crops in zip(args.images, (a, b), strict=True):
        if len(crops.features) != 1:
            raise ValueError(f"{image} holds {len(crops.features)} images: name one image on each side")
        calibration.require(crops.source)
    distance = float(
        np.linalg.norm(np.diff(normalise(np.concatenate([a.features.embedding, b.features.embedding])), axis=0))
    )
    given = [args.camera_a, args.time_a, args.camera_b, args.time_b]
    trip, words = None, "no camera and time of both: appearance alone"
    if all(word is not None for word in given):
        if content is None or content.spacetime is None:
            raise ValueError("cameras and times say nothing without a space-time model: name a --gallery that has one")
        trips = Trips.load(content.spacetime)
        trips.require([args.camera_a, args.camera_b])
        labels = trips.labels([args.camera_a, args.camera_b])
        seen = Sightings(labels, np.array([moment(args.time_a), moment(args.time_b)]))
        if labels[0] != labels[1]:  # one camera and itself is no trip
            trip = trips.model.distance(seen[:1], seen[1:])[0, 0]
        words = f"{args.camera_a} to {args.camera_b} in {seen.time_s[1] - seen.time_s[0]:+,.0f} s"
    elif any(word is not None for word in given):
        raise ValueError("--camera-a, --time-a, --camera-b and --time-b go together")
    look, way = (float(part) for part in calibration.evidence(np.array(distance), trip))
    prior = float(calibration.prior(args.candidates, args.strangers))
    print(f"{float(sigmoid(np.array(look + way + prior))):.1%} that both show one vehicle")
    print(f"  appearance      {look:+6.2f} nats  (distance {distance:.3f} of embeddings of unit length)")
    print(f"  space and time  {way:+6.2f} nats  ({words})")
    print(f"  prior odds      {prior:+6.2f} nats  ({args.candidates} candidates, {args.strangers:.0%} strangers)")
    known = {True: "was not trained on", False: "was trained on: too sure", None: "may know"}
    held = known[calibration.held_out]
    print(f"fitted on {calibration.vehicles} vehicles that the network {held}")
