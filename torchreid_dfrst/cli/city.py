"""Draw the synthetic city and write it in VeRi-776's format."""

import argparse
import time

from torchreid_dfrst.cli.arguments import progress, say

SETTINGS = {
    "identities": (100, "vehicles; half of them are for testing"),
    "cameras": (10, "cameras"),
    "seed": (0, "two cities of one seed and the same settings are equal byte for byte"),
    "hours": (2.0, "length of the recording; in fewer hours more vehicles are about at a time, so time says less"),
    "passages": (4, "about how often a vehicle passes a camera"),
    "images_per_track": (3, "images at most of one passage"),
    "models": (0, "makes and models the vehicles share; 0: a quarter of the vehicles, at least 9"),
    "twins": (0.35, "share of vehicles that differ from another one by one detail"),
    "test_share": (0.5, "share of the vehicles that are for testing"),
}
"""Fields of ``city.Settings``, their defaults and what they mean: written again so that a help draws nothing."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst city``."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the data set itself, as in data/city")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (%(default)s)")
    for name, (default, words) in SETTINGS.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"{words} (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst city``."""
    from torchreid_dfrst.city import make_city

    started, drawn = time.perf_counter(), 0
    with progress(unit="image") as bar:

        def show(done: int, total: int) -> None:
            nonlocal drawn
            drawn, bar.total = done, total
            bar.update(done - bar.n)

        settings = {name: getattr(args, name) for name in SETTINGS}
        root = make_city(args.out, workers=args.workers, progress=show, **settings)
    seconds = time.perf_counter() - started
    if drawn:
        say(f"{drawn} images in {seconds:.1f} s ({drawn / seconds:.0f} a second) in {root}")
    else:
        say(f"{root} is already there, with these settings; nothing was drawn")
