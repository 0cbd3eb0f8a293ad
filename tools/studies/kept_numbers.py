"""Write down what the code computes and compare two such records, to see whether a change moved a number.

    python tools/studies/kept_numbers.py record runs/old --features runs/demo/features.npz
    python tools/studies/kept_numbers.py compare runs/old runs/new

``record`` takes the package of the folder it runs in, works on one thread and writes ``OUT.npz`` and ``OUT.json``.
``compare`` prints a line for each number that differs: floats by more than 1e-6, all else at all. Times, versions and
how a result was found (method, images measured against all others) are not recorded.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
sys.path.insert(0, os.getcwd())

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist

from torchreid_dfrst import evaluation, retrieval, spatiotemporal
from torchreid_dfrst.sightings import CameraNetwork, Sightings

MODELS = ("lognormal", "provid", "transition", "histogram", "likelihood")
LIMIT = 5_000  # bytes of working memory for each image, for distances in several blocks
RERANK = ((20, 6, 0.3), (7, 1, 0.0))  # k1, k2 and lambda
TRAINING = """model.name dfrst_resnet18 model.pretrained false data.sources [veri_format] data.targets [veri_format]
    data.height 64 data.width 64 data.transforms [random_flip,random_crop,random_erase] data.workers 0
    data.batch_size_train 16 optim.lr 1e-3 scheduler.warmup_epoch 2 scheduler.stepsize [3] train.max_epoch 5
    train.print_freq 1 train.eval_freq 3 train.threads 1 train.use_gpu false train.pictures false train.save_dir"""
Record = dict[str, Any]


def put(record: Record, name: str, value: Any) -> None:
    """Add a value, or each of those that a mapping or an object with fields holds."""
    fields = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if fields is None:
        record[name] = np.asarray(value) if isinstance(value, (list, tuple)) else value
    for key, part in (fields or {}).items():
        put(record, f"{name}/{key}", part)


def put_lists(record: Record, name: str, near: retrieval.Neighbors) -> None:
    """Add lists of neighbours, with their near-ties in one order."""
    ties = np.unique(near.near_ties, axis=0)
    put(record, name, {"index": near.index, "distance": near.distance, "farthest": near.farthest, "near_ties": ties})


def put_blocks(record: Record, name: str, whole: np.ndarray, blocks: Iterable[np.ndarray]) -> None:
    """Add distances, and how far those that were made in blocks are from them."""
    put(record, name, {"whole": whole, "blocks": float(np.abs(np.concatenate(list(blocks)) - whole).max())})


def cards(record: Record, features: Path) -> None:
    """Cards of a features file: every space-time model, tracks as gallery, and both ways to choose omega."""
    extraction = retrieval.Extraction.load(features)
    train, rng, rerank = extraction.train, np.random.default_rng(0), {"k1": 12, "k2": 4}
    embedding = rng.normal(size=(train.identity.max() + 1, 64))[train.identity] + 2 * rng.normal(size=(len(train), 64))
    with_train = replace(extraction, train_features=retrieval.Features(embedding.astype(np.float32), train))
    jobs: dict[str, Any] = {str(model): (extraction, {"model": model}, rerank) for model in (None, *MODELS)}
    jobs["tracks"] = (extraction, {}, rerank, {"protocol": "image-to-track-min"})
    jobs |= {how: (with_train, {"weight": how}, {}, {"rerank": False}) for how in ("auto", "calibrated")}
    for name, (source, *options) in jobs.items():
        card = evaluation.card(evaluation.score(source, *options), source, "")
        kept = {key: card.content[key] for key in ("rows", "queries", "gallery", "embedding", "data")}
        ties = {row: [met["near_ties"], met["near_ties_at_the_end"]] for row, met in card.content["neighbours"].items()}
        choices = card.content["choices"]["spacetime"]
        put(record, f"card/{name}", {**kept, "near_ties": ties, "spacetime": choices, "query": card.queries})


def spacetime(record: Record, folder: Path) -> None:
    """Every model fitted on VeRi-776's lists and scored alone, ties in the order that the spacetime command takes."""
    try:
        from torchreid_dfrst.data.veri_format import read_veri
    except ModuleNotFoundError:  # the lists are read where the data set is defined
        from torchreid_dfrst.data.veri776 import read_veri
    lists = read_veri(folder, images=False)
    put(record, "lists/network", {"cameras": lists.network.cameras, "distance_m": lists.network.distance_m})
    for part, column in itertools.product(("train", "query", "gallery"), ("camera", "time_s", "identity", "track")):
        put(record, f"lists/{part}/{column}", getattr(getattr(lists, part), column))
    query, gallery = lists.query, lists.gallery[np.random.default_rng(776).permutation(len(lists.gallery))]
    labels = query.identity, gallery.identity, query.camera, gallery.camera
    for name in MODELS:
        model = spatiotemporal.build(name).fit(lists.train, lists.network)
        with tempfile.TemporaryDirectory() as there:
            model.save(Path(there, "model.json"))
            saved = json.loads(Path(there, "model.json").read_text(encoding="utf-8"))
        metrics = retrieval.evaluate(model.distance(query, gallery), *labels)
        scores = {"mAP": metrics.mAP, "R1": metrics.rank(1), "R5": metrics.rank(5)}
        put(record, f"spacetime/{name}", {**scores, "options": saved["options"], "fitted": saved["fitted"]})


def passes(vehicles: int, network: CameraNetwork, rng: np.random.Generator) -> Sightings:
    """Vehicles that drive to 4 cameras one after the other and are seen twice by each; times in whole seconds."""
    route = rng.permuted(np.tile(network.cameras, (vehicles, 1)), axis=1)[:, :4]
    took = network.distance_m[route[:, :-1], route[:, 1:]] / rng.lognormal(2.3, 0.3, (vehicles, 1))
    time_s = np.cumsum(np.hstack([rng.uniform(0, 1800, (vehicles, 1)), took]), axis=1).round()
    vehicle, stop, shot = np.indices((vehicles, 4, 2)).reshape(3, -1)
    return Sightings(route[vehicle, stop], time_s[vehicle, stop] + shot, vehicle)


def neighbours(record: Record, width: int, vehicles: int, ties: bool) -> None:
    """What ``retrieval`` computes for a gallery of eight images of each vehicle, two of which are queries as well."""
    rng, images, case = np.random.default_rng(0), 8 * vehicles, f"{'ties' if ties else 'images'}-{width}"
    place = rng.uniform(0, 2000, (6, 2))
    network = CameraNetwork(np.arange(6), np.linalg.norm(place[:, None] - place, axis=2).round())
    train, gallery = passes(60, network, rng), passes(vehicles, network, rng)
    gallery.time_s[[5, 77]] = np.nan
    rows = np.concatenate([np.arange(0, images, 4), np.arange(images)])
    q, g, every = slice(0, images // 4), slice(images // 4, len(rows)), slice(0, len(rows))
    seen, table = gallery[rows], rng.integers(0, 9, (len(rows), len(rows))).astype(np.float32) / 8
    labels = seen.identity[q], seen.identity[g], seen.camera[q], seen.camera[g]
    models = {name: spatiotemporal.build(name).fit(train, network) for name in MODELS}
    put(record, f"transit/{case}", {name: model.distance(seen[q], seen[g]) for name, model in models.items()})
    x = retrieval.normalise(rng.normal(size=(vehicles, width))[gallery.identity] + rng.normal(size=(images, width)))
    if ties:  # all products are multiples of 1/8
        x[:, :16], x[:, 16:] = rng.choice([-0.25, 0.25], (images, 16)), 0
    x[100:130] = x[100]  # more copies than a list holds
    x[140:150] = x[140] + 1e-3 * x[150:160]  # nearer to each other than float32 products can tell
    x = retrieval.normalise(x)[rows]

    def fused(name: str, rows: slice, columns: slice) -> dict[str, Any]:
        if name == "appearance":
            return {}
        if name in models:
            return {"transit": models[name].transit(seen[rows], seen[columns]), "weight": 0.2}
        value = table[rows, columns]  # a transit of one's own: no symmetry, no pairs, many equal values
        transit = SimpleNamespace(shape=value.shape, low=0.0, high=1.0, block=lambda i, j: value[i, j])
        return {"transit": transit, "weight": 0.2}

    for name in ("appearance", "lognormal", "histogram", "table"):
        measured(record, f"{case}/{name}", x[q], x[g], labels, fused(name, q, g), fused(name, every, every))
    squares = [cdist(x[a], x[b], "sqeuclidean").astype(np.float32) for a, b in ((q, g), (q, q), (g, g))]
    put(record, f"rerank_distances/{case}", {str(n): retrieval.rerank_distances(*squares, *n) for n in RERANK})


def measured(record: Record, name: str, q: np.ndarray, g: np.ndarray, labels: Any, across: Any, among: Any) -> None:
    """Distances, lists, metrics and re-ranked distances; transit from queries to gallery, and among all images."""
    x, limit = np.concatenate([q, g]), {"memory_limit": LIMIT * (len(q) + len(g))}
    distance = retrieval.distance(q, g, **across)
    put(record, f"distance/{name}/first", retrieval.first(distance, 7))
    put_blocks(record, f"distance/{name}", distance, retrieval.distance_blocks(q, g, **across, **limit))
    for kind, options in (("free", {}), ("limited", limit)):
        put_lists(record, f"neighbors/{name}/{kind}/all", retrieval.neighbors(x, x, 21, **among, **options))
        near = retrieval.neighbors(q, g, 10, **across, **options)
        put_lists(record, f"neighbors/{name}/{kind}/gallery", near)
    put(record, f"expand/{name}", {str(alpha): retrieval.expand(q, g, near, 5, alpha) for alpha in (0.0, 3.0)})
    for form in ("precision", "trapezoid"):
        put(record, f"evaluate/{name}/{form}", retrieval.evaluate(distance, *labels, average_precision=form))
        lists = retrieval.evaluate_lists(near.index, *labels, average_precision=form)
        put(record, f"evaluate_lists/{name}/{form}", lists)
    jaccard, job = retrieval.jaccard_distance(x, **among), retrieval.jaccard_blocks(x, **among, **limit)
    put_blocks(record, f"jaccard/{name}", jaccard, (block for _, block in job))
    ways = ("fused", "appearance") if among else ("fused",)
    for definition, on, numbers in itertools.product(("torchreid", "transreid"), ways, RERANK):
        chosen, case = retrieval.Parameters(*numbers, definition, on), f"rerank/{name}/{definition}/{on}/{numbers}"
        whole = retrieval.rerank(q, g, **among, **vars(chosen))
        job = retrieval.Reranking(q, g, chosen, **among, **limit)
        put(record, f"{case}/cuts", np.unique(job.cuts, axis=0))
        put_blocks(record, case, whole, job.blocks())
        put_lists(record, f"{case}/near", job.near)
        put_lists(record, f"{case}/top", job.top(10))


def training(record: Record) -> None:
    """Losses of 20 steps of ``dfrst_resnet18`` with tools/train.py; its weights, names and values apart."""
    with tempfile.TemporaryDirectory() as there:
        write_veri(Path(there, "data"))
        command = [sys.executable, "tools/train.py", "--root", f"{there}/data", *TRAINING.split(), f"{there}/run"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True)
        lines = [json.loads(line) for line in Path(there, "run", "metrics.jsonl").read_text().splitlines()]
        weights = load_file(Path(there, "run", "weights.safetensors"))
    for line in lines:
        numbers = {key: value for key, value in line.items() if key not in ("kind", "step", "time", "images_per_s")}
        put(record, f"training/{line['kind']}/{line['step']}", numbers)
    put(record, "training/names", hashlib.sha256(" ".join(sorted(weights)).encode()).hexdigest())
    put(record, "training/values", hashlib.sha256(b"".join(sorted(a.tobytes() for a in weights.values()))).hexdigest())


def write_veri(folder: Path) -> None:
    """A data set in VeRi-776's format: 8 + 4 vehicles, each with its pattern, two images at each of 4 cameras."""
    for vehicle, camera, shot in itertools.product(range(1, 13), range(1, 5), range(2)):
        pattern = np.random.default_rng(vehicle).integers(0, 180, (8, 8, 3), dtype=np.uint8)
        noise = np.random.default_rng([vehicle, camera, shot]).integers(0, 18 * camera, (64, 64, 3), dtype=np.uint8)
        image = Image.fromarray(pattern.repeat(8, axis=0).repeat(8, axis=1) + noise)
        for part in ("train",) if vehicle < 9 else ("test", "query")[: 2 - shot]:
            name = f"{vehicle:04d}_c{camera:03d}_{1000 * vehicle + 500 * camera + 5 * shot:08d}_0.jpg"
            (folder / f"image_{part}").mkdir(parents=True, exist_ok=True)
            image.save(folder / f"image_{part}" / name, quality=90)


def difference(old: Any, new: Any) -> str:
    """How two values differ, in words; nothing if they do not."""
    a, b = np.asarray(old), np.asarray(new)
    if (a.shape, a.dtype.kind) != (b.shape, b.dtype.kind):
        return f"{old} became {new}" if a.shape == b.shape == () else f"{a.dtype} {a.shape} became {b.dtype} {b.shape}"
    far = (a != b) & ((a == a) | (b == b))  # NaN equals NaN
    if a.dtype.kind == "f":
        far &= ~(np.abs(a - b) <= 1e-6)
    if not far.any():
        return ""
    largest = f", by {np.abs(a - b)[far].max():.3g} at most" if a.dtype.kind in "fi" else ""
    return f"{far.sum()} of {a.size} differ{largest}" if a.shape else f"{old} became {new}"


def compare(old: str, new: str) -> None:
    """Print a line for each difference of two records; exit with 1 if there is one."""
    a, b = ({**np.load(f"{path}.npz"), **json.loads(Path(f"{path}.json").read_text("utf-8"))} for path in (old, new))
    lines = [f"{name}: {text}" for name in a if name in b and (text := difference(a[name], b[name]))]
    lines += [f"{name}: in one of the records only" for name in sorted(a.keys() ^ b.keys())]
    print(*lines, f"{len(lines)} of {len(a)} values differ", sep="\n")
    sys.exit(bool(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("records", nargs="+", help="the one to write, or the two to compare; without their endings")
    parser.add_argument("--features", type=Path, help="the demo's; left out, no cards are recorded")
    parser.add_argument("--veri", type=Path, default="../shared/data/veri776-metadata", help="VeRi-776's lists")
    parser.add_argument("--skip", nargs="+", default=[], help="cards, spacetime, neighbours, training")
    args = parser.parse_args()
    if args.action == "compare":
        compare(*args.records)
    found: Record = {}
    jobs: list[tuple[Any, ...]] = [(cards, args.features), (spacetime, args.veri), (training,)]
    # 1,100 images at width 64, which are several tiles
    jobs += [(neighbours, *size, ties) for size in ((16, 40), (64, 110), (512, 40)) for ties in (False, True)]
    for job, *inputs in jobs:
        if job.__name__ not in args.skip and inputs != [None]:
            job(found, *inputs)
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    others = json.dumps({k: v for k, v in found.items() if k not in arrays}, indent=1, default=np.generic.item)
    (out,) = map(Path, args.records)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(f"{out}.npz", **arrays)
    Path(f"{out}.json").write_text(others + "\n", encoding="utf-8")
