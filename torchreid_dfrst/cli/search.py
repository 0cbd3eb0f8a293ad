r"""Find one vehicle in a gallery, over space and time.

    dfrst search crop.jpg --weights RUN/weights.safetensors --gallery DIR --camera "north gate" \
        --time 2026-05-01T16:52:03Z --before 30min --after 2h
    dfrst search features.npz --gallery DIR --top 10 --csv > hits.csv      (its queries)

A table path,camera,time or a folder stands for several images. Hits are ranked by appearance, and by space and time
where the gallery has a model (dfrst gallery fit). With a calibration each has the probability that it is the vehicle,
and the number of its trip: 0 is the trip of the image asked for, others are other vehicles.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchreid_dfrst.checks import within
from torchreid_dfrst.cli.arguments import moment, progress, say, span, tell, wrote
from torchreid_dfrst.messages import printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst search``."""
    parser.add_argument("what", metavar="IMAGE | FEATURES", help="an image, a folder, a table, or a features file")
    parser.add_argument("--gallery", required=True, metavar="DIR", help="of dfrst gallery add")
    parser.add_argument("--weights", type=Path, help="the network of the gallery, to embed images with")
    parser.add_argument("--camera", help="where the image was taken, as the gallery calls it")
    parser.add_argument("--time", help="when; without a zone it is taken as the gallery's, UTC")
    parser.add_argument("--before", help="how long before, such as 30min; alone: nothing later")
    parser.add_argument("--after", help="how long after, such as 2h; alone: nothing earlier")
    parser.add_argument("--top", type=int, default=20, help="hits for each image (%(default)s)")
    words = "share of searches whose vehicle is not there, for probabilities (%(default)s)"
    parser.add_argument("--strangers", type=float, default=0.5, help=words)
    words = "not seen: no hit is likelier than this (default: 0.5)"
    parser.add_argument("--least", type=float, help=words)
    words = "not seen: no hit passes the threshold that this share of pairs of two vehicles pass, such as 0.001"
    parser.add_argument("--false-match-rate", type=float, metavar="RATE", help=words)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, one object a hit")
    form.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--page", type=Path, help="write a page that opens in any browser")
    parser.add_argument("--scheduler", help="search partitions on a Dask cluster at this address")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst search``."""
    from torchreid_dfrst.gallery import Gallery

    if args.least is not None and args.false_match_rate is not None:
        raise ValueError("--least and --false-match-rate are two ways to say who is not seen: give one")
    least = 0.5 if args.least is None else args.least
    within("--least", least, lowest=0, highest=1)
    gallery = Gallery.open(args.gallery)
    if args.least is not None and gallery.content.calibration is None:
        raise ValueError(f"{args.gallery} has no calibration for --least: dfrst gallery fit {args.gallery} FEATURES")
    queries, hits = find(args, gallery)
    tell(*hits.notes)
    names = [path or f"row {row}" for row, path in enumerate(queries.path.tolist())]
    columns = {**hits.columns, "query": [names[row] for row in hits.columns["query"]]}
    if args.json or args.csv:
        from torchreid_dfrst.files import written_as

        written = written_as(Path("hits.json" if args.json else "hits.csv"), columns).decode()
        sys.stdout.write(printable(written) if sys.stdout.isatty() else written)
    else:
        say(listing(hits.columns, names, hits.candidates.tolist(), least, args.false_match_rate))
    if args.page:
        from torchreid_dfrst.inference.pictures_and_pages import page_of_hits

        page_of_hits(gallery, queries, hits).save(args.page)
        wrote(args.page)


def find(args: argparse.Namespace, gallery: Any) -> tuple[Any, Any]:
    """The queries, ``Sightings``, and their ``Hits``."""
    import numpy as np

    from torchreid_dfrst.gallery.store import cameras_of
    from torchreid_dfrst.inference.unlabelled import NOWHERE, read_crops

    crops = read_crops(args.what, "query", args.weights, args.camera, bar=progress, require=gallery.require)
    seen = crops.features.sightings
    if args.time is not None:
        if not np.isnan(seen.time_s).all():
            raise ValueError(f"{args.what} has times itself: leave --time out")
        seen = replace(seen, time_s=np.full(len(seen), moment(args.time)))
    cameras = cameras_of(seen) if NOWHERE not in seen.camera_name else None
    windows = {"before_s": args.before, "after_s": args.after}
    spans = {name: span(word) for name, word in windows.items() if word is not None}
    options = {"top": args.top, "strangers": args.strangers, "false_match_rate": args.false_match_rate}
    options |= {"path": seen.path.tolist(), "source": crops.source}
    executor = None
    if args.scheduler:
        try:
            from distributed import Client
        except ImportError:
            raise ValueError("--scheduler needs Dask: pip install 'torchreid-dfrst[distributed]'") from None
        executor = Client(args.scheduler).get_executor()
    return seen, gallery.search(crops.features.embedding, cameras, seen.time_s, **spans, **options, executor=executor)


def listing(
    columns: dict[str, list[Any]], names: list[str], candidates: list[int], least: float, rate: float | None
) -> str:
    """Hits for a screen, query by query."""
    lines = []
    for query, name in enumerate(names):
        lines.append(f"{name}: {candidates[query]:,} images in its window")
        rows = [k for k, one in enumerate(columns["query"]) if one == query]
        sure = [columns["probability"][k] for k in rows if columns["probability"][k] is not None]
        if rate is not None and not any(columns["passes"][k] for k in rows):
            chance = candidates[query] * rate
            lines.append(f"  not seen: none passes a false-match rate of {rate:g} ({chance:.3g} would by chance)")
        elif rate is None and sure and max(sure) < least:
            lines.append(f"  not seen: no image is likelier than {least:g} (the first: {max(sure):.2g})")
        lines += [_line(columns, k) for k in rows]
        own = sorted((k for k in rows if columns["trip"][k] == 0), key=lambda k: columns["time_s"][k] or 0.0)
        if own:
            stops = [list(group) for _, group in itertools.groupby(own, key=lambda k: columns["camera"][k])]
            way = [f"{columns['camera'][k[0]]} {_when(columns['time_s'][k[0]])} ({len(k)})" for k in stops]
            lines.append(f"  its trip: {', '.join(way)}")
    return "\n".join(lines)


def _line(columns: dict[str, list[Any]], k: int) -> str:
    probability, passes = columns["probability"][k], columns["passes"][k]
    sure_of = "" if probability is None else f"  {probability:6.1%}"
    sure_of += "" if passes is None else "  passes" if passes else "        "
    trip = f"  trip {columns['trip'][k]}" if columns["trip"][k] is not None else ""
    who = f"  {columns['identity'][k]}" if columns["identity"][k] else ""
    return (
        f"{columns['rank'][k]:4} {columns['distance'][k]:.4f}{sure_of}{trip}  {columns['camera'][k]}  "
        f"{_when(columns['time_s'][k])}  {columns['path'][k]}{who}"
    )


def _when(time_s: float | None) -> str:
    from torchreid_dfrst.cli.gallery import when

    return "no time" if time_s is None else when(time_s)
