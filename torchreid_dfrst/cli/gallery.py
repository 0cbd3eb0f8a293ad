"""Keep a gallery of images: add, info, expire, delete, compact.

    dfrst gallery add DIR crops.csv --weights RUN/weights.safetensors    (path,camera,time; or a folder of images)
    dfrst gallery add DIR features.npz                                   (its gallery images)
    dfrst gallery fit DIR features.npz spacetime.model likelihood        (space and time, calibration, for searches)
    dfrst gallery info DIR [--check] [--json]
    dfrst gallery expire DIR --keep 30d
    dfrst gallery delete DIR --camera "north gate" --until 2026-05-01T12:00
    dfrst gallery compact DIR
    dfrst gallery export DIR                                             (the files that Spark, DuckDB, Polars read)

DIR is a folder, or an address such as s3://bucket/gallery. Times without a zone are UTC.
"""

import argparse
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli.arguments import moment, overrides, progress, say, span, tell, wrote

USES = {
    "add": ("what", "weights", "camera", "time_format", "half", "thumbnails", "workers"),
    "fit": ("what", "overrides", "camera"),
    "info": ("check", "json"),
    "expire": ("before", "keep"),
    "delete": ("camera", "identity", "path", "from_", "until"),
    "compact": ("memory_limit",),
    "export": (),
}
"""Action to the arguments that it takes."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst gallery``."""
    parser.add_argument("action", choices=list(USES))
    parser.add_argument("gallery", metavar="DIR")
    parser.add_argument("what", nargs="?", help="add: table, folder, image or features file; fit: features file")
    overrides(parser, "fit: spacetime.key value, as dfrst evaluate takes them")
    parser.add_argument("--weights", type=Path, help="add: network for images; weights.safetensors or a checkpoint")
    parser.add_argument("--camera", help="add: of all images of a folder; delete: its images")
    parser.add_argument("--time-format", help="add: of the times of a table, such as %%d.%%m.%%Y %%H:%%M")
    parser.add_argument("--half", action="store_true", help="add: a new gallery keeps half precision")
    parser.add_argument("--thumbnails", action="store_true", help="add: keep small images as well")
    parser.add_argument("--workers", type=int, default=0, help="add: loading processes (%(default)s)")
    parser.add_argument("--check", action="store_true", help="info: read every file whole")
    parser.add_argument("--json", action="store_true", help="info: as JSON")
    parser.add_argument("--before", help="expire: hours that ended before this time")
    parser.add_argument("--keep", help="expire: hours that ended longer before the last sightings, such as 30d")
    parser.add_argument("--identity", help="delete: of this vehicle")
    parser.add_argument("--path", help="delete: of this name")
    parser.add_argument("--from", dest="from_", help="delete: this time and later")
    parser.add_argument("--until", help="delete: before this time")
    parser.add_argument("--memory-limit", type=int, default=1 << 30, help="compact: bytes (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst gallery``."""
    from torchreid_dfrst.gallery import Gallery

    words = vars(args)
    unused: dict[str, Any] = {"what": None, "overrides": [], "workers": 0, "memory_limit": 1 << 30}
    for name in {name for names in USES.values() for name in names} - {*USES[args.action]}:
        if words[name] not in (unused.get(name), None, False):
            raise ValueError(
                f"dfrst gallery {args.action} takes no {name.strip('_').replace('_', '-')} ({words[name]})"
            )
    if args.action == "add":
        add(args)
        return
    gallery = Gallery.open(args.gallery)
    if args.action == "fit":
        fit(args, gallery)
    elif args.action == "info":
        show(gallery.info(args.check), args.json)
    elif args.action == "expire":
        expire(args, gallery)
    elif args.action == "delete":
        times = {"from_s": args.from_, "until_s": args.until}
        given = {name: moment(word) for name, word in times.items() if word is not None}
        count = gallery.delete(args.camera or "", args.identity or "", args.path or "", **given)
        if not count:
            why = "nothing matches: names and paths are as dfrst search --csv prints them"
            tell(*(gallery.unseen([args.camera or ""]) or [why]))
        print(f"deleted {count:,} images" + ("; dfrst gallery compact erases them" if count else ""))
    elif args.action == "compact":
        done = gallery.compact(args.memory_limit)
        print(", ".join(f"{name} {value:,}" for name, value in done.items()))
    else:
        say("\n".join(gallery.export()))


def add(args: argparse.Namespace) -> None:
    """Run ``dfrst gallery add``."""
    from torchreid_dfrst.files import require_writable
    from torchreid_dfrst.gallery import Gallery
    from torchreid_dfrst.gallery.store import LIST, Store
    from torchreid_dfrst.inference.unlabelled import read_crops
    from torchreid_dfrst.report.canvas import small

    if args.what is None:
        raise ValueError("say what to add: a table path,camera,time, a folder of images, or a features file")
    store, gallery = Store(args.gallery), None
    try:
        gallery = Gallery.open(args.gallery)
        if args.half and gallery.content.dtype != "float16":
            raise ValueError(f"{args.gallery} keeps {gallery.content.dtype}: --half is for a new gallery")
    except FileNotFoundError:
        store.require_free()
    if store.folder:
        require_writable(store.folder / LIST)
    require = None if gallery is None else gallery.require
    given = args.weights, args.camera, args.time_format, args.workers, progress
    crops = read_crops(args.what, "gallery", *given, require=require)
    if gallery is None:
        dtype = "float16" if args.half else "float32"
        gallery = Gallery.create(args.gallery, crops.source, crops.features.embedding.shape[1], dtype)
        take_calibration(args, gallery, crops.source)
    seen = crops.features.sightings.path.tolist()
    count = gallery.add(crops.features, crops.source, [small(path) for path in seen] if args.thumbnails else None)
    wrote(f"{args.gallery}: {count:,} images more, {len(gallery):,} in all")


def take_calibration(args: argparse.Namespace, gallery: Any, source: dict[str, Any]) -> None:
    """Give a new gallery the calibration beside its network, if there is one of that network."""
    from torchreid_dfrst.evaluation.calibration import Calibration

    beside = args.weights and args.weights.with_name("calibration.json")
    if beside is None or not beside.is_file():
        return
    try:
        held = Calibration.load(beside)
        held.require(source)
    except ValueError as error:
        tell(f"no probabilities: {error}")
        return
    gallery.learn(calibration=held.content)
    wrote(f"{args.gallery}: probabilities by {beside}")


def fit(args: argparse.Namespace, gallery: Any) -> None:
    """Run ``dfrst gallery fit``."""
    from torchreid_dfrst import config, evaluation
    from torchreid_dfrst.retrieval import Extraction
    from torchreid_dfrst.spatiotemporal import by_pairs

    if args.what is None:
        raise ValueError("say which features file: dfrst gallery fit DIR features.npz")
    known = {"spacetime": evaluation.sections()["spacetime"]}
    settings = config.load(None, args.overrides, known)["spacetime"]
    held, asked = Extraction.load(args.what), settings.pop("weight", None)
    model = evaluation.fit_transit(held, **settings)
    weight = 0.0
    if model is not None:
        model = by_pairs(model)
        weight = evaluation.transit_weight(held, model, asked)[0]
    found = evaluation.calibrate(held, model)
    gallery.learn(model, weight, None if found is None else found.content)
    parts = [gallery.info()["space and time"] or "no space and time"]
    parts += [f"calibrated on {found.vehicles} vehicles" if found else "no calibration: extract with --train"]
    wrote(f"{args.gallery}: {'; '.join(parts)}")
    if found and found.held_out is False:
        tell("probabilities will be too sure: the network was trained on the vehicles that they were fitted on")


def expire(args: argparse.Namespace, gallery: Any) -> None:
    """Run ``dfrst gallery expire``."""
    if (args.before is None) == (args.keep is None):
        raise ValueError("say either --before TIME or --keep DURATION, such as 30d")
    before = moment(args.before) if args.before is not None else kept_from(gallery, args)
    files, rows = gallery.expire(before)
    print(f"removed {files:,} files with {rows:,} images")


def kept_from(gallery: Any, args: argparse.Namespace) -> float:
    """The time ``--keep`` before the newest that two cameras have reached, so that no one clock decides.

    Raises:
        ValueError: half of the cameras or more would lose all their sightings.
    """
    newest = sorted(gallery.newest().items(), key=lambda one: -one[1])
    if not newest:
        tell("no sighting has a time")
        return float("-inf")
    (first, latest), (second, reached) = newest[0], newest[min(1, len(newest) - 1)]
    before = reached - span(args.keep)
    gone = [camera for camera, time_s in newest if time_s // 3600 < before // 3600]
    clocks = f"the newest sighting of camera {first!r} is of {when(latest)}, that of {second!r} of {when(reached)}"
    if 2 * len(gone) >= len(newest):
        rows = sum(file.rows for file in gallery.older(before))
        raise ValueError(
            f"--keep {args.keep} would remove {rows:,} of {len(gallery):,} images, all of {len(gone)} of {len(newest)} "
            f"cameras: {clocks}, that of {gone[0]!r} of {when(newest[-len(gone)][1])}; say --before TIME, or, where a "
            f"clock is wrong, mend it: dfrst gallery delete {args.gallery} --camera NAME --from TIME, and add anew"
        )
    if latest - reached > span(args.keep):
        tell(f"{clocks}: --keep counts from the second; where the first is right, say --before TIME")
    return before


def show(info: dict[str, Any], as_json: bool) -> None:
    """Print what ``dfrst gallery info`` says."""
    if as_json:
        say(info)
        return
    from torchreid_dfrst.gallery.store import described

    for name, value in {**info, "network": described(info["network"])}.items():
        if name.endswith("_s") and value is not None:
            value = when(value)
        shown = ", ".join(map(str, value)) if isinstance(value, list | dict) else value
        say(f"{name.replace('_s', ''):>21}  {f'{value:,}' if isinstance(value, int) else shown}")
    tell(*info["damaged"].values())


def when(time_s: float) -> str:
    """A time as people read it: UTC, or seconds where they do not count from 1970."""
    import datetime

    from torchreid_dfrst.data.times import OLDEST

    if time_s < OLDEST:
        return f"{time_s:.2f} s"
    return datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
