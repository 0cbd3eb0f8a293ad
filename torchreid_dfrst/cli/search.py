r"""Find one vehicle in a gallery, over space and time.

    dfrst search crop.jpg --weights RUN/weights.safetensors --gallery DIR --camera "north gate" \
        --time 2026-05-01T16:52:03Z --before 30min --after 2h
    dfrst search features.npz --gallery DIR --top 10 --csv > hits.csv      (its queries)

A table path,camera,time or a folder stands for several images. Hits are ranked by appearance, and by space and time
where the gallery has a model (dfrst gallery fit); with a calibration each has the probability that it is the vehicle.
"""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli.arguments import moment, progress, span, wrote


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
    words = "not seen: no hit is likelier than this (%(default)s)"
    parser.add_argument("--least", type=float, default=0.5, help=words)
    parser.add_argument("--json", action="store_true", help="print JSON, one object a hit")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--page", type=Path, help="write a page that opens in any browser")
    parser.add_argument("--scheduler", help="search partitions on a Dask cluster at this address")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst search``."""
    from torchreid_dfrst.gallery import Gallery

    gallery = Gallery.open(args.gallery)
    queries, hits = find(args, gallery)
    for note in hits.notes:
        print(note, file=sys.stderr)
    names = [path or f"row {row}" for row, path in enumerate(queries.path.tolist())]
    columns = {**hits.columns, "query": [names[row] for row in hits.columns["query"]]}
    if args.json or args.csv:
        from torchreid_dfrst.files import written_as

        sys.stdout.write(written_as(Path("hits.json" if args.json else "hits.csv"), columns).decode())
    else:
        print(listing(columns, names, hits.candidates.tolist(), args.least))
    if args.page:
        from torchreid_dfrst.inference.pages import page_of_hits

        page_of_hits(gallery, queries, hits).save(args.page)
        wrote(args.page)


def find(args: argparse.Namespace, gallery: Any) -> tuple[Any, Any]:
    """The queries, ``Sightings``, and their ``Hits``."""
    import numpy as np

    from torchreid_dfrst.gallery.store import cameras_of
    from torchreid_dfrst.inference.unlabelled import NOWHERE, read_crops

    crops = read_crops(args.what, "query", args.weights, args.camera, bar=progress)
    seen = crops.features.sightings
    if args.time is not None:
        if not np.isnan(seen.time_s).all():
            raise ValueError(f"{args.what} has times itself: leave --time out")
        seen = replace(seen, time_s=np.full(len(seen), moment(args.time)))
        if ":" in args.time and not re.search(r"(Z|UTC|GMT|[+-]\d\d(:?\d\d)?)$", args.time.strip().upper()):
            print("--time has no zone: taken as UTC, as the gallery's", file=sys.stderr)
    cameras = cameras_of(seen) if NOWHERE not in seen.camera_name else None
    windows = {"before_s": args.before, "after_s": args.after}
    spans = {name: span(word) for name, word in windows.items() if word is not None}
    options = {"top": args.top, "strangers": args.strangers, "path": seen.path.tolist(), "source": crops.source}
    executor = None
    if args.scheduler:
        from distributed import Client

        executor = Client(args.scheduler).get_executor()
    return seen, gallery.search(crops.features.embedding, cameras, seen.time_s, **spans, **options, executor=executor)


def listing(columns: dict[str, list[Any]], names: list[str], candidates: list[int], least: float) -> str:
    """Hits for a screen, query by query."""
    from torchreid_dfrst.cli.gallery import when

    lines = []
    for query, name in enumerate(names):
        lines.append(f"{name}: {candidates[query]:,} images in its window")
        rows = [k for k, word in enumerate(columns["query"]) if word == name]
        sure = [columns["probability"][k] for k in rows if columns["probability"][k] is not None]
        if rows and sure and max(sure) < least:
            lines.append(f"  not seen: no image is likelier than {least:g} (the first: {max(sure):.2g})")
        for k in rows:
            time_s, probability = columns["time_s"][k], columns["probability"][k]
            sure_of = "" if probability is None else f"  {probability:6.1%}"
            moment_of = "no time" if time_s is None else when(time_s)
            who = f"  {columns['identity'][k]}" if columns["identity"][k] else ""
            lines.append(
                f"{columns['rank'][k]:4} {columns['distance'][k]:.4f}{sure_of}  {columns['camera'][k]}  {moment_of}"
                f"  {columns['path'][k]}{who}"
            )
    return "\n".join(lines)
