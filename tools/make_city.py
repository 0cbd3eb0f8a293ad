"""Draw the synthetic city and write it in VeRi-776's format."""

import argparse
import time
from dataclasses import fields

from tqdm import tqdm

from torchreid_dfrst.city import Settings, make_city
from torchreid_dfrst.commands import command

HELP = {
    "identities": "vehicles; half of them are for testing",
    "cameras": "cameras",
    "seed": "two cities of one seed and the same settings are equal byte for byte",
    "hours": "length of the recording; in fewer hours more vehicles are about at a time, so time says less",
    "passages": "about how often a vehicle passes a camera",
    "images_per_track": "images at most of one passage",
    "models": "makes and models the vehicles share; 0: a quarter of the vehicles, at least 9",
    "twins": "share of vehicles that differ from another one by one detail",
    "test_share": "share of the vehicles that are for testing",
}


@command
def main() -> None:
    """Draw, with a progress bar, and say where and how fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the data set itself, as in data/city")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    for field in fields(Settings):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help=HELP[field.name])
    args = vars(parser.parse_args())

    started = time.perf_counter()
    with tqdm(unit="image") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        root = make_city(args.pop("out"), progress=show, **args)
        drawn = bar.n
    seconds = time.perf_counter() - started
    if drawn:
        print(f"{drawn} images in {seconds:.1f} s ({drawn / seconds:.0f} a second) in {root}")
    else:
        print(f"{root} is already there, with these settings; nothing was drawn")


if __name__ == "__main__":
    main()
