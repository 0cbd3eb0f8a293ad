"""Export a trained network for another runtime, or to share it.

    dfrst export RUN/weights.safetensors --format onnx --verify IMAGES
    dfrst export RUN/weights.safetensors --format hub --card card.json --out FOLDER

A file takes any number of images of one size. It is run beside PyTorch, on the images of --verify, and kept only if
the embeddings are the same. What it takes and gives is said beside it, in FILE.json.
"""

import argparse
from pathlib import Path

from torchreid_dfrst.cli.arguments import data_options, described, overrides, say, wrote

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".ts", "hub": "-hub"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst export``."""
    parser.add_argument("weights", type=Path, help="weights.safetensors, a checkpoint, or a state dict")
    parser.add_argument("--format", required=True, choices=list(ENDINGS), help="what to write")
    parser.add_argument("--out", type=Path, help="file, or folder of a hub, to write (default: beside the weights)")
    parser.add_argument("--verify", type=Path, metavar="IMAGES", help="folder of images to compare on (default: noise)")
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of the images (as in training)")
    parser.add_argument("--normalise", action="store_true", help="embeddings of length 1")
    parser.add_argument("--card", type=Path, help="card.json of dfrst evaluate, for the README of a hub's folder")
    parser.add_argument("--model", metavar="NAME", help="the network of a file that does not say it")
    overrides(parser, "model.NAME VALUE")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst export``."""
    weights = args.weights
    # model.pth.tar-1 and model.pth.tar-60 are two files
    stem = weights.stem if weights.suffix in (".safetensors", ".pt", ".pth") else weights.name
    out = args.out or weights.with_name(stem + ENDINGS[args.format])
    if args.format == "hub":
        from torchreid_dfrst.inference.hub import write_folder

        if args.verify or args.size or args.normalise or args.model or args.overrides:
            raise ValueError("--format hub copies weights as they are: of the options it takes --card and --out alone")
        wrote(*write_folder(weights, out, args.card))
        return
    if args.card:
        raise ValueError("--card is for --format hub")
    from torchreid_dfrst.inference.export import export
    from torchreid_dfrst.training import sections

    options, model = data_options(args.overrides, sections()["model"])
    if options:
        raise ValueError("data.options are of a data set, and --verify takes a folder of images")
    result = export(
        weights,
        out,
        args.format,
        size=args.size,
        unit_length=args.normalise,
        verify=args.verify,
        described=described(args.model, args.model and args.size, model),
    )
    parity = result["parity"]
    lists = f", {parity['equal_lists']} of {parity['lists']} lists of ten equal" if "lists" in parity else ""
    say(f"beside PyTorch on {parity['images']}: numbers differ by {parity['largest_difference']:.1e} or less{lists}")
    wrote(*(out.with_name(name) for name in result["sha256"]), f"{out}.json")
