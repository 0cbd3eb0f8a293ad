"""Join the images of a gallery to trips: tables, pictures, a map.

    dfrst trips runs/demo/features.npz --out runs/demo/trips

writes trips.csv (a row for each pass by a camera), travel_times.csv (for each camera and the next),
origin_destination.csv and pictures; with --positions FILE (a CSV of camera,longitude,latitude) trips.geojson too. What
speaks for one vehicle is fitted on the training vehicles that came with the features, or learnt from the gallery.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli.arguments import say, tell, wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst trips``."""
    words = "file of dfrst extract or dfrst import, or a gallery of dfrst gallery add"
    parser.add_argument("features", metavar="FEATURES | GALLERY", help=words)
    parser.add_argument("--out", type=Path, help="folder of tables and pictures (default: trips, or GALLERY-trips)")
    parser.add_argument("--no-labels", action="store_true", help="learn from the gallery alone")
    parser.add_argument("--positions", type=Path, metavar="CSV", help="camera,longitude,latitude of each camera")
    parser.add_argument(
        "--window", type=float, default=3600.0, metavar="SECONDS", help="of large galleries (%(default)g)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes for a large gallery (0: none but this)")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst trips``."""
    from concurrent.futures import ProcessPoolExecutor
    from contextlib import nullcontext

    from torchreid_dfrst import association, files
    from torchreid_dfrst.association import trip_tables
    from torchreid_dfrst.association.topology import alike, topology
    from torchreid_dfrst.evaluation import trips as worth
    from torchreid_dfrst.retrieval import Extraction

    if args.workers < 0:
        raise ValueError(f"--workers is {args.workers}: how many processes, 0 for none but this")
    stored = Path(args.features).is_dir()
    if stored or "://" in args.features:
        from torchreid_dfrst.gallery import Gallery
        from torchreid_dfrst.gallery.extraction import extraction as extraction_of

        extraction = extraction_of(Gallery.open(args.features))
    else:
        extraction = Extraction.load(args.features)
    positions = None if args.positions is None else read_positions(args.positions)
    if positions is not None:
        trip_tables.require_positions(extraction.gallery.sightings, positions)
    if args.out is None and "://" in args.features:
        raise ValueError(f"{args.features} is no folder of this machine: say with --out where the tables go")
    beside = Path(args.features)
    out = args.out or (beside.with_name(f"{beside.name}-trips") if stored else beside.parent / "trips")
    files.require_writable(out / "trips.csv")
    gallery, network = extraction.gallery, extraction.network
    given = None if args.no_labels else worth.evidence(extraction)
    pool: Any = ProcessPoolExecutor(args.workers) if args.workers else nullcontext()
    with pool as executor:
        trips = association.associate(gallery, network, given, window_s=args.window, executor=executor)
    links = None
    if trips.evidence is not None and len(trips.passes) <= association.MOST:
        links = topology(trips.passes, alike(trips.passes, trips.evidence))
    seen = gallery.sightings
    written = {
        out / "trips.csv": files.as_csv(trip_tables.trips_table(trips, seen)),
        out / "travel_times.csv": files.as_csv(trip_tables.travel_table(trips, seen, network, links or [])),
        out / "origin_destination.csv": files.as_csv(trip_tables.origin_destination(trips, seen)),
    }
    if positions is not None:
        lines = trip_tables.geojson(trips, seen, positions)
        written[out / "trips.geojson"] = json.dumps(lines, ensure_ascii=False).encode()
    say(summary(trips, seen, links))
    tell(*(f"note: {note}" for note in trips.notes))
    files.write(written)
    wrote(*written, *pictures(trips, seen, network, out))


def summary(trips: Any, seen: Any, links: Any) -> str:
    """What was joined, and, where vehicles are known, how much of it is right."""
    from torchreid_dfrst.evaluation import trips as worth
    from torchreid_dfrst.messages import numbered

    found = worth.about(trips, seen)
    lines = [
        f"{numbered('{count} [image|images]', len(seen))}, {numbered('{count} [pass|passes]', found['passes'])}, "
        f"{numbered('{count} [trip|trips]', found['trajectories'] - found['alone'])} of two passes or more; "
        f"{numbered('{count} [pass|passes] joined no other', found['alone'])}"
    ]
    if links is not None:
        few = "" if links else ": too few trips to tell"
        lines.append(f"{len(links)} ordered pairs of cameras with more trips of one duration than chance makes{few}")
    for name, (score, low, high) in worth.measures(trips, seen).items():
        lines.append(
            f"{name:9} precision {score.precision:.3f}, recall {score.recall:.3f}, F1 {score.f1:.3f} "
            f"(95 %: {low:.3f} to {high:.3f})"
        )
    if "passes of several vehicles" in found:
        lines.append(f"{found['passes of several vehicles']} passes hold images of more than one vehicle")
    return "\n".join(lines)


def pictures(trips: Any, seen: Any, network: Any, out: Path) -> list[Path]:
    """Those that can be drawn of these trips: all of them need times."""
    import numpy as np

    from torchreid_dfrst.association.trip_tables import legs
    from torchreid_dfrst.report import trips as report

    if np.isnan(trips.passes.first_s).all():
        return []
    found = legs(trips)
    written = [report.time_space(trips, seen, network, out / "time_space.png")]
    if any(a != b for a, b in found):
        written.append(report.network_times(found, seen, network, out / "network.png"))
        written.append(report.by_hour(found, seen, out / "by_hour.png"))
    return written


def read_positions(path: Path) -> dict[str, tuple[float, float]]:
    """Camera name to longitude and latitude, in this order where no heading (``camera,lat,lon``) says another.

    Raises:
        ValueError: a line that is not camera,longitude,latitude.
    """
    from torchreid_dfrst.data.csv_parquet import read_cells

    found: dict[str, tuple[float, float]] = {}
    place = [0, 1, 2]
    for number, row in enumerate(read_cells(path, "positions"), 1):
        names = [word.strip().lower()[:3] for word in row]
        if number == 1 and {"cam", "lon", "lat"} <= set(names):
            place = [names.index(name) for name in ("cam", "lon", "lat")]
            continue
        try:
            camera, longitude, latitude = row[place[0]].strip(), float(row[place[1]]), float(row[place[2]])
        except (IndexError, ValueError):
            raise ValueError(f"{path}, line {number}: {','.join(row)!r} is not camera,longitude,latitude") from None
        if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
            raise ValueError(f"{path}, line {number}: longitude {longitude:g}, latitude {latitude:g} is no place")
        if found.setdefault(camera, (longitude, latitude)) != (longitude, latitude):
            raise ValueError(f"{path}, line {number}: camera {camera} stands there twice, at two places: leave one out")
    return found
