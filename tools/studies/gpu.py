"""What a GPU does: re-ranking, extraction and training, each beside a floor of the same run. Not run by us yet.

    python -m tools.studies.gpu --out gpu.json --skip recipe

Every stage can be skipped, and what is found is written after each measurement. Peaks of cards are of dense products.
``--dry-run`` takes tiny sizes and the processor: it shows that the script works and measures nothing.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from torchreid_dfrst import version
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import build
from torchreid_dfrst.retrieval import Parameters, Reranking, normalise
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.step import PRECISIONS, TrainStep

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "V100": 125e12}
"""Dense operations a second that the makers state (V100: fp16)."""
VARIANTS = [
    ("bf16", True, False),
    ("fp32", True, False),
    ("tf32", True, False),
    ("fp16", True, False),
    ("bf16", False, False),
    ("fp32", False, False),
    ("bf16", True, True),
    ("fp32", True, True),
]
"""Precision, whether channels last, whether compiled; a run that is short of time has done the first ones."""
FULL = {
    "device": "cuda",
    "model": "dfrst",
    "pixels": 256,
    "batches": (64, 32, 128, 256),
    "sizes": {"VeRi-776": (1678, 11579, 2048), "MSMT17": (11659, 82161, 2048), "VERI-Wild": (10000, 138517, 2048)},
    "vehicles": 3000,
    "repeats": 5,
    "recipe": [],
}
DRY = {
    "device": "cpu",
    "model": "dfrst_resnet18",
    "pixels": 64,
    "batches": (8,),
    "sizes": {"VeRi-776": (30, 120, 16)},
    "vehicles": 4,
    "repeats": 1,
    "recipe": (
        "model.name dfrst_resnet18 model.pretrained false data.height 64 data.width 64 data.batch_size_train 8 "
        "data.workers 0 train.print_freq 1 train.max_epoch 3"
    ).split(),
}
Row = dict[str, Any]
Stage = Iterator[tuple[Row, Callable[[], Row]]]
"""What will be measured, and what measures it."""


def main() -> None:
    """Run the stages that are not skipped and keep what each one finds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--skip", nargs="*", default=[], choices=STAGES)
    parser.add_argument("--minutes", type=float, default=9, help="no stage but recipe begins a measurement after that")
    parser.add_argument("--recipe-minutes", type=float, default=10)
    parser.add_argument("--fastreid", type=Path, help="a clone of fast-reid, to run its re-ranking too")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the processor: nothing is measured")
    args = parser.parse_args()
    if not (args.dry_run or torch.cuda.is_available()):
        sys.exit("no GPU: torch finds none, and nothing was measured")
    vars(args).update(DRY if args.dry_run else FULL)
    found: dict[str, Any] = {**machine(args.dry_run), "rows": []}
    end = time.monotonic() + 60 * args.minutes
    for name in (name for name in STAGES if name not in args.skip):
        for row, measure in STAGES[name](args):
            if name != "recipe" and time.monotonic() > end:
                row = {**row, "left out": f"the {args.minutes:g} minutes were up"}
            else:
                row = {**row, **measured(measure)}
            found["rows"].append({"stage": name, **row})
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(" | ".join(f"{key} {value}" for key, value in found["rows"][-1].items()), flush=True)


def machine(dry: bool) -> Row:
    """The card, its driver and the versions."""
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "torchreid_dfrst": version.__version__}
    if dry:
        return {"card": "none: a dry run, which measures nothing", **versions}
    card = torch.cuda.get_device_properties(0)
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return {"card": card.name, "memory": card.total_memory, "driver": driver[0] if driver else None, **versions}


def measured(measure: Callable[[], Row]) -> Row:
    """What is found, or the error, so that the measurements after it go on."""
    try:
        return measure()
    except (RuntimeError, OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
        return {"error": " ".join(str(error).split())[:300]}
    finally:
        torch.cuda.empty_cache()


def seconds(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """Medians of runs that take turns, after some turns that do not count, with the device idle around each."""
    taken: list[list[float]] = [[] for _ in runs]
    first = repeats // 2
    for turn in range(first + repeats):
        for run, found in zip(runs, taken, strict=True):
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            found += [time.perf_counter() - start] if turn >= first else []
    return [statistics.median(found) for found in taken]


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """Most bytes that were allocated on the GPU since the last call, in GB; 0 without one."""
    most = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return round(most / 1e9, 2)


def operations(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Operations of a forward pass in convolutions and products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def share_of_peak(work: float, taken: float) -> float | None:
    """Share of the card's dense bf16 peak, if that is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    most = next((value for key, value in PEAK_BF16.items() if key in name), None)
    return most and round(work / taken / most, 3)


@contextlib.contextmanager
def rounded(precision: str) -> Iterator[None]:
    """TF32 in place of float32 for ``tf32``."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv) if precision == "tf32" else ()
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def training(args: argparse.Namespace) -> Stage:
    """Steps beside those of torchreid's own engine (fp32, contiguous, its Adam) in turns, and where the time goes."""
    # compiling takes minutes of a processor
    for number, (precision, last, compiled) in enumerate(VARIANTS[: 6 if args.dry_run else None]):
        for batch in args.batches:
            row = {"batch": batch, "precision": precision, "channels last": last, "compiled": compiled}
            yield row, partial(steps, args, batch, precision, last, compiled, beside=number < 2)
    yield {"profile": "bf16", "batch": args.batches[0]}, partial(profile, args, args.batches[0])


def prepared(args: argparse.Namespace, batch: int, precision: str, last: bool = True, compiled: bool = False) -> Any:
    """A step, the model in it, and images and labels on the device."""
    images = torch.randn(batch, 3, args.pixels, args.pixels, device=args.device)
    labels = torch.arange(batch // 4, device=args.device).repeat_interleave(4)
    model = build(args.model, 576, loss="triplet", pretrained=False)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    kind = precision if precision in PRECISIONS else "fp32"
    return TrainStep(model, optimizer, DFRSTLoss(), torch.device(args.device), kind, last, compiled), images, labels


def steps(args: argparse.Namespace, batch: int, precision: str, last: bool, compiled: bool, beside: bool) -> Row:
    """Images a second of one kind of step."""
    peak_memory()
    step, images, labels = prepared(args, batch, precision, last, compiled)
    work = 3 * operations(step.model, images)
    with rounded(precision):
        (taken,), memory = seconds(args.repeats, lambda: step(images, labels)), peak_memory()
        found = {
            "images/s": round(batch / taken, 1),
            "of the bf16 peak": share_of_peak(work, taken),
            "peak GB": memory,
        }
        if beside:
            ours, theirs = seconds(args.repeats, lambda: step(images, labels), torchreids(args, images, labels))
            found |= {"torchreid images/s": round(batch / theirs, 1), "times torchreid": round(theirs / ours, 2)}
    return found


def torchreids(args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A step of torchreid's ImageTripletEngine on one batch."""
    import torchreid

    data = SimpleNamespace(num_train_pids=576, train_loader=[0], test_loader={})
    model = build(args.model, 576, loss="triplet", pretrained=False).to(args.device).train()
    optimizer = torchreid.optim.build_optimizer(model, optim="adam")
    engine = torchreid.engine.ImageTripletEngine(data, model, optimizer, weight_x=1, use_gpu=args.device == "cuda")
    return lambda: engine.forward_backward({"img": images, "pid": labels})


def profile(args: argparse.Namespace, batch: int) -> Row:
    """Where a step's time on the device goes: the convolutions' share of time and of the peak, the slowest routines."""
    step, images, labels = prepared(args, batch, "bf16")
    work = 3 * operations(step.model, images)
    for _ in range(args.repeats):
        step(images, labels)
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if args.device == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as found:
        step(images, labels)
        synchronize()
    name = "self_device_time_total" if args.device == "cuda" else "self_cpu_time_total"
    micro = {entry.key: getattr(entry, name) for entry in found.key_averages() if entry.key.startswith("aten::")}
    whole, convolutions = sum(micro.values()), sum(value for key, value in micro.items() if "conv" in key)
    slowest = sorted(micro, key=lambda key: -micro[key])[:8]
    return {
        "convolutions' share of time": round(convolutions / whole, 3),
        "convolutions, of the bf16 peak": share_of_peak(work, convolutions / 1e6),
        "slowest": {key: round(micro[key] / whole, 3) for key in slowest},
    }


def extraction(args: argparse.Namespace) -> Stage:
    """Embedding beside the bare network on images that are on the device."""
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        yield {"precision": precision}, partial(extracted, args, precision, kind)


def extracted(args: argparse.Namespace, precision: str, kind: torch.dtype) -> Row:
    """Images a second in one precision."""
    layout = torch.channels_last
    model = build(args.model, 576, loss="triplet", pretrained=False).to(args.device, memory_format=layout).eval()
    count = 2 * max(args.batches[:1])
    host = torch.randn(count, 3, args.pixels, args.pixels)
    host = host.pin_memory() if args.device == "cuda" else host
    images = host.to(args.device, memory_format=layout)
    label = torch.zeros(count, dtype=torch.int64)
    batch = {"img": host, "pid": label, "camid": label, "impath": ["a"] * count}

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(args.device, kind, enabled=kind != torch.float32):
            for _ in range(8):
                model(images)

    ours, floor = seconds(args.repeats, lambda: embed(model, [batch] * 8, args.device, precision), bare)
    return {"images/s": round(8 * count / ours, 1), "of the bare network": round(floor / ours, 3)}


def reranking(args: argparse.Namespace) -> Stage:
    """Features in host memory to the first 100 distances, beside all products in fp32 and other programs."""
    for name, size in args.sizes.items():
        yield {"size": name}, lambda size=size: reranked(args, *size)
    for name, size in args.sizes.items():
        if args.fastreid:
            yield {"size": name, "program": "fast-reid"}, lambda size=size: fastreids(args, *size)
    queries, gallery, width = args.sizes["VeRi-776"]
    yield {"size": "VeRi-776", "program": "torchreid, processor"}, lambda: torchreids_reranking(queries, gallery, width)


def drawn(queries: int, gallery: int, width: int) -> np.ndarray:
    """Embeddings of 2,000 vehicles in host memory."""
    generator = np.random.default_rng(0)
    centre = generator.normal(size=(2000, width)).astype(np.float32)
    noise = generator.standard_normal((queries + gallery, width), dtype=np.float32)
    return normalise(centre[generator.integers(2000, size=queries + gallery)] + 1.5 * noise)


def all_products(rows: torch.Tensor) -> None:
    """Multiply all rows by all, a block at a time, and keep nothing."""
    for part in rows.split(4096):
        torch.mm(part, rows.t())


def reranked(args: argparse.Namespace, queries: int, gallery: int, width: int) -> Row:
    """Seconds of ours, and of all products in float32."""
    rows = drawn(queries, gallery, width)
    on_device = torch.from_numpy(rows).to(args.device)
    (least,) = seconds(args.repeats, partial(all_products, on_device))
    del on_device
    peak_memory()
    (taken,) = seconds(args.repeats, lambda: Reranking(rows[:queries], rows[queries:], Parameters()).top(100))
    return {"seconds": round(taken, 3), "floor": round(least, 3), "peak GB": peak_memory()}


def fastreids(args: argparse.Namespace, queries: int, gallery: int, width: int) -> Row:
    """Seconds of fast-reid's Jaccard distance, all that its evaluator adds to the distance."""
    sys.path.insert(0, str(args.fastreid))
    from fastreid.utils.compute_dist import build_dist

    rows = torch.from_numpy(drawn(queries, gallery, width))
    start = time.perf_counter()
    build_dist(rows[:queries], rows[queries:], metric="jaccard", k1=20, k2=6)
    return {"seconds": round(time.perf_counter() - start, 3)}


def torchreids_reranking(queries: int, gallery: int, width: int) -> Row:
    """Seconds of torchreid's re-ranking on the processor, from its three matrices."""
    import torchreid

    rows = drawn(queries, gallery, width)
    start = time.perf_counter()
    whole = 2 - 2 * rows @ rows.T
    torchreid.utils.re_ranking(whole[:queries, queries:], whole[:queries, :queries], whole[queries:, queries:])
    return {"seconds": round(time.perf_counter() - start, 1)}


def recipe(args: argparse.Namespace) -> Stage:
    """The paper's recipe at full size on a drawn city, for some minutes."""
    folder = args.out.parent / "gpu-recipe"
    dfrst = [sys.executable, "-m", "torchreid_dfrst"]

    def draw() -> Row:
        start = time.perf_counter()
        words = ["city", "--out", str(folder / "city"), "--identities", str(args.vehicles)]
        subprocess.run([*dfrst, *words], check=True)
        return {"seconds": round(time.perf_counter() - start)}

    def train() -> Row:
        words = ["train", "--config-file", "dfrst_veri776", "--root", str(folder), "-s", "city", "-t", "city"]
        process = subprocess.Popen([*dfrst, *words, *args.recipe, "train.save_dir", str(folder / "run")])
        try:
            code = process.wait(60 * args.recipe_minutes)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait(120)
        journal = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {"exit code": code, "last": json.loads(journal[-1]) if journal else None}

    yield {"part": f"drawing {args.vehicles} vehicles"}, draw
    yield {"part": f"training for {args.recipe_minutes:g} minutes"}, train


STAGES: dict[str, Callable[[argparse.Namespace], Stage]] = {
    "reranking": reranking,
    "extraction": extraction,
    "training": training,
    "recipe": recipe,
}

if __name__ == "__main__":
    main()
