"""The paper's tables at the scale of a preset.

    python -m tools.studies.reproduction III --config-file configs/reproduce/city.yaml

TABLE is II, III, IV, V, VI (with VII and Fig. 8), VIII, IX, X, XI, peers, changes, resnet50, or all; or pictures:
ranked lists (Fig. 6) and attention maps (Fig. 7) of DFR-ST. Presets are in configs/reproduce: city (seconds a row),
city_a, veri776, vehicleid. Networks that are not trained yet are trained, in OUT/runs, and found again next time; an
interrupted run is resumed by the same command. Writes TABLE.md and TABLE.json, and the curves that belong to a table,
into OUT/tables, pictures into OUT/pictures.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tools.studies.reproduction import TABLES, Harness, Preset
from tools.studies.reproduction.pictures import of_a_run, pictures, put_beside
from tools.studies.reproduction.result import around, markdown, measure, put_into, save
from tools.studies.reproduction.tables import ALIASES
from torchreid_dfrst.cli import command
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError


@command
def main() -> int | None:
    """Read the arguments, measure, write."""
    args, names = arguments()
    preset = Preset.load(args.config_file)
    seeds = range(preset.seeds if args.seeds is None else args.seeds)
    if not seeds:
        raise ValueError(f"--seeds is {args.seeds}: how many trainings of each row, 1 or more")
    out = args.out or Path("runs/reproduce") / args.config_file.stem
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give the folder that is to hold runs and tables")
    again = f"python -m tools.studies.reproduction {shlex.join(sys.argv[1:])}"
    # a table takes hours: say which network is trained and how far it is
    logging.getLogger().setLevel(logging.INFO)
    with logging_redirect_tqdm():
        try:
            harness = Harness(preset, args.root, out, tqdm, again)
            for name in names:
                written = make(harness, name, list(seeds), out, args)
                print("\n".join(f"wrote {path}" for path in written), file=sys.stderr)
        except StoppedError as stopped:
            logging.getLogger(__name__).warning("%s; the same command goes on: %s", stopped, again)
            return EXIT_CODE
    return None


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """What was asked for, and the tables one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="TABLE", help=f"{', '.join(TABLES)}, or all")
    preset = "preset, such as configs/reproduce/city.yaml"
    parser.add_argument("--config-file", "--config", type=Path, required=True, help=preset)
    parser.add_argument("--root", help="folder of the data sets; not needed by a preset that draws its own")
    parser.add_argument("--out", type=Path, help="folder of runs and tables (default: runs/reproduce/PRESET)")
    parser.add_argument("--seeds", type=int, help="trainings of each row, seeds 0, 1, ... (default: the preset's)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to train, by their labels (default: all)")
    parser.add_argument("--page", type=Path, help="page with a place for each table and pictures/ beside it")
    parser.add_argument("--lists", type=int, default=4, help="queries in each of the pictures")
    args = parser.parse_args()
    known = [*TABLES, "all", "pictures"]
    names = [ALIASES.get(name, name) for name in args.tables]
    for name in names:
        if name not in known:
            raise KeyError(f"no table {name!r}{nearest(name, known)}")
    if args.only and args.page:
        raise ValueError("--only makes a part of a table, which --page would put in the place of the whole one")
    if args.lists < 1:
        raise ValueError(f"--lists is {args.lists}: how many queries to draw, 1 or more")
    names = list(dict.fromkeys(one for word in names for one in (TABLES if word == "all" else [word])))
    for name in names if args.page else []:
        if name != "pictures":
            around(args.page, name)  # before hours of training
    return args, names


def make(harness: Harness, name: str, seeds: list[int], out: Path, args: argparse.Namespace) -> list[Path]:
    """Measure and print a table, or draw the pictures; returns the files written."""
    written: list[Path] = []
    if name == "pictures":
        drawn = of_a_run(harness, out / "pictures", args.lists)
    else:
        result = measure(harness, name, seeds, args.only)
        print(f"\n## {result['title']}\n\n{markdown(result)}\n")
        written, drawn = save(result, out / "tables"), pictures(result, out / "tables")
        if args.page:
            put_into(args.page, result)
            written.append(args.page)
    return [*written, *drawn, *(put_beside(args.page, drawn) if args.page else [])]


if __name__ == "__main__":
    main()
