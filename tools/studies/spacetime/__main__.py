"""What time is worth on one data set: all models alone and beside appearance, how their options were chosen, pictures.

    python -m tools.studies.spacetime table --root VERI --out table.json --pictures runs/spacetime
    python -m tools.studies.spacetime cross-validate --root VERI
    python -m tools.studies.spacetime simulate --root VERI --mAP 50
    python -m tools.studies.spacetime readings --root VERI
    python -m tools.studies.spacetime pictures --root VERI --table table.json --out runs/spacetime

VERI is a folder in VeRi-776's format; the lists are enough. One model alone is dfrst spacetime, controls dfrst audit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.studies.spacetime import pictures, table
from tools.studies.spacetime.camera_network import camera_network
from tools.studies.spacetime.crossvalidate import grid
from tools.studies.spacetime.simulated import DIFFICULTY, appearance_map, extraction, level
from torchreid_dfrst.cli import command
from torchreid_dfrst.data.veri776 import read_veri
from torchreid_dfrst.features import Extraction
from torchreid_dfrst.spatiotemporal import MODELS, build
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal
from torchreid_dfrst.spatiotemporal.transition import Transition

HARDEST = 4.0
# options of LogNormal; as printed, both parameters of Eq. 4 are 6 and both of Eq. 5 are 0.5
READINGS: dict[str, dict[str, Any]] = {
    "as printed": {"offset_s": 6.0, "slope_t": 0.5},
    "slope 6, offset 0.5; density over its mode": {},
    **{
        f"the same; density per {metres} and per {seconds}": {
            "density": "raw",
            "distance_unit": metres,
            "time_unit": seconds,
        }
        for metres, seconds in (("km", "s"), ("km", "min"), ("km", "h"))
    },
}


@command
def main() -> None:
    """Read the arguments and call what they name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    added = {}
    for name, job in (
        ("table", make_table),
        ("cross-validate", cross_validate),
        ("simulate", simulate),
        ("readings", readings),
        ("pictures", draw),
    ):
        added[name] = jobs.add_parser(name, description=job.__doc__)
        added[name].set_defaults(job=job)
        source = added[name].add_mutually_exclusive_group(required=True)
        source.add_argument("--root", help="folder in VeRi-776's format")
        if name not in ("simulate", "readings"):
            source.add_argument("--features", help="instead of --root: a features file with its training images")
    of_table, of_pictures = added["table"], added["pictures"]
    of_table.add_argument("--simulated", nargs="*", metavar="MAP", help="with --root; MAP or MAP=DIFFICULTY")
    of_table.add_argument("--out", type=Path, help="write the table to this JSON file")
    of_table.add_argument("--pictures", help="draw mAP against omega for each appearance into this folder")
    of_table.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    added["simulate"].add_argument("--mAP", type=float, nargs="*", default=list(DIFFICULTY), help="wanted, in percent")
    of_pictures.add_argument("--table", help="JSON of the table, for mAP against omega")
    of_pictures.add_argument("--out", type=Path, default=Path("runs/spacetime"), help="folder of the pictures")
    args = parser.parse_args()
    args.job(args)


def read(args: argparse.Namespace) -> tuple[Any, ...]:
    """Training, query and gallery sightings, the camera network, and the extraction of a features file.

    Raises:
        ValueError: there are no road distances, or a features file lacks its training images.
    """
    if getattr(args, "features", None):
        run = Extraction.load(args.features)
        train, network = table.needed(run)
        return train, run.query.sightings, run.gallery.sightings, network, run
    data = read_veri(args.root, images=False)
    if data.network is None:
        raise ValueError(f"{args.root} has no camera_Dist.txt: space and time need the distances between cameras")
    return data.train, data.query, data.gallery, data.network, None


def make_table(args: argparse.Namespace) -> None:
    """Fit all models and score them alone and beside appearance (slow)."""
    if args.features and args.simulated is not None:
        raise ValueError("--simulated draws appearance for the lists of --root; a features file has its own")
    levels = [level(text) for text in map(str, DIFFICULTY if args.simulated is None else args.simulated)]
    *lists, network, run = read(args)
    runs = {"features": run} if run else {f"simulated {name}": extraction(*lists, network, d) for name, d in levels}
    result = table.make([build(name) for name in MODELS], *lists, network, runs)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if args.pictures:
        pictures.omegas(result, args.pictures)
    print(json.dumps(result) if args.json else table.markdown(result))


def cross_validate(args: argparse.Namespace) -> None:
    """Score options of the likelihood model on training vehicles held out from each other."""
    train, _, _, network, _ = read(args)
    for options, score in grid(train, network):
        print(json.dumps({"options": options, **score}), flush=True)


def simulate(args: argparse.Namespace) -> None:
    """Find the difficulty at which simulated appearance reaches each wanted mAP on the test lists.

    What it prints is what ``table --simulated`` takes; VeRi-776's are in ``simulated.DIFFICULTY``.
    """
    data = read_veri(args.root, images=False)

    def reached(difficulty: float) -> float:
        return appearance_map(extraction(data.train[:0], data.query, data.gallery, data.network, difficulty))

    easy, hard = reached(0.0), reached(HARDEST)
    beyond = [f"{wanted:g}" for wanted in args.mAP if not hard < wanted <= easy]
    if beyond:
        raise ValueError(
            f"--mAP {' '.join(beyond)}: simulated appearance reaches {hard:.2f} to {easy:.2f} on these lists"
        )
    for wanted in args.mAP:
        low, high = 0.0, HARDEST
        for _ in tqdm(range(10), leave=False, disable=None):
            middle = (low + high) / 2
            found = reached(middle)
            low, high = (middle, high) if found > wanted else (low, middle)
        given = f"--simulated {wanted:g}={middle:.5f}"
        print(f"mAP {wanted:g}: difficulty {middle:.5f} gives {found:.2f}; {given}", flush=True)


def readings(args: argparse.Namespace) -> None:
    """Score each reading of Eq. 4 and 5 beside simulated appearance of mAP 40 on VeRi-776's lists."""
    *lists, network, _ = read(args)
    run = extraction(*lists, network, DIFFICULTY[40.0])
    print("| reading | mAP by appearance | omega 0.1 | omega 0.2 | best on test (omega) |\n|---|---|---|---|---|")
    for name, options in READINGS.items():
        found = table.beside(LogNormal(**options).fit(lists[0], network), run, methods=())
        sweep, best = found["sweep"], found["best_on_test"]
        figures = " | ".join(f"{sweep[omega]:.2f}" for omega in ("0.0", "0.1", "0.2"))
        print(f"| {name} | {figures} | {best['mAP']:.2f} ({best['omega']:g}) |", flush=True)


def draw(args: argparse.Namespace) -> None:
    """Draw the fitted laws over their data, the logistic of Eq. 4 and 5, the camera network and mAP against omega."""
    if args.table:
        pictures.omegas(json.loads(Path(args.table).read_text(encoding="utf-8")), args.out)
    train, _, _, network, _ = read(args)
    pictures.logistic_family(args.out / "spacetime_logistic.png")
    pictures.densities(LogNormal().fit(train, network), train, network, args.out / "spacetime_densities.png")
    pictures.evidence(Likelihood().fit(train, network), train, network, args.out / "spacetime_evidence.png")
    camera_network(Transition().fit(train, network), network, args.out / "spacetime_network.png")
    print(f"pictures are in {args.out}")


if __name__ == "__main__":
    main()
