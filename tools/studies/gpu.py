"""What a GPU does: training, extraction and re-ranking, each beside a floor of the same run. Not run by us yet.

    python -m tools.studies.gpu --out gpu.json --skip recipe

Every stage can be skipped, and what is found is written after each measurement. Peaks of cards are of dense products.
"""

import argparse
import itertools
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

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import build
from torchreid_dfrst.retrieval import Parameters, Reranking, normalise
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.step import TrainStep

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "V100": 125e12}
"""Dense operations a second that the makers state (V100: fp16)."""
SIZES = {"VeRi-776": (1678, 11579, 2048), "MSMT17": (11659, 82161, 2048), "VERI-Wild": (10000, 138517, 2048)}
GPU = torch.device("cuda")
Row = dict[str, Any]


def main() -> None:
    """Run the stages that are not skipped and keep what each one finds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--skip", nargs="*", default=[], choices=STAGES)
    parser.add_argument("--minutes", type=float, default=9, help="no stage but recipe begins a row after that")
    parser.add_argument("--recipe-minutes", type=float, default=10)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: torch finds none, and nothing was measured")
    card = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "card": card.name,
        "memory": card.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rows": [],
    }
    end = time.monotonic() + 60 * args.minutes
    for name, stage in STAGES.items():
        rows = iter(()) if name in args.skip else stage(args)
        while name == "recipe" or time.monotonic() < end:
            try:
                row = next(rows)
            except StopIteration:
                break
            except (RuntimeError, OSError, ValueError) as error:
                row, rows = {"error": str(error)[:300]}, iter(())
            found["rows"].append({"stage": name, **row})
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(" | ".join(f"{key} {value}" for key, value in found["rows"][-1].items()), flush=True)
        else:
            print(f"{name}: the time was up")


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median of some runs after two that do not count, with the device idle before and after each."""
    taken = []
    for turn in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken += [time.perf_counter() - start] if turn > 1 else []
    return statistics.median(taken)


def operations(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Operations of a forward pass in convolutions and products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def peak() -> float | None:
    """Dense bf16 operations a second of this card, if they are known."""
    name = torch.cuda.get_device_name()
    return next((value for key, value in PEAK_BF16.items() if key in name), None)


def training(args: argparse.Namespace) -> Iterator[Row]:
    """Steps of dfrst, 256 x 256, beside torchreid's own kind of step (fp32, contiguous, its Adam) in turns."""
    for batch, precision, last, compiled in itertools.product(
        (32, 64, 128, 256), ("bf16", "fp32"), (True, False), (False, True)
    ):
        images = torch.randn(batch, 3, 256, 256, device=GPU)
        labels = torch.arange(batch // 4, device=GPU).repeat_interleave(4)
        torch.cuda.reset_peak_memory_stats()
        model = build("dfrst", 576, loss="triplet", pretrained=False)
        step = TrainStep(
            model, torch.optim.Adam(model.parameters(), fused=True), DFRSTLoss(), GPU, precision, last, compiled
        )
        work = 3 * operations(model, images)
        taken, most = seconds(partial(step, images, labels)), peak()
        yield {
            "batch": batch,
            "precision": precision,
            "channels last": last,
            "compiled": compiled,
            "images/s": round(batch / taken, 1),
            "of the bf16 peak": most and round(work / taken / most, 3),
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        }
        if (precision, last, compiled) == ("fp32", False, True):
            yield {
                "batch": batch,
                "engine": "torchreid",
                "images/s": round(batch / seconds(torchreids(images, labels)), 1),
            }


def torchreids(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A step of torchreid's ImageTripletEngine on one batch."""
    import torchreid

    data = SimpleNamespace(num_train_pids=576, train_loader=[0], test_loader={})
    model = build("dfrst", 576, loss="triplet", pretrained=False).to(GPU).train()
    optimizer = torchreid.optim.build_optimizer(model, optim="adam")
    engine = torchreid.engine.ImageTripletEngine(data, model, optimizer, weight_x=1, use_gpu=True)
    return lambda: engine.forward_backward({"img": images, "pid": labels})


def extraction(args: argparse.Namespace) -> Iterator[Row]:
    """Embedding beside the bare network on images that are on the device."""
    model = build("dfrst", 576, loss="triplet", pretrained=False).to(GPU, memory_format=torch.channels_last).eval()
    host = torch.randn(128, 3, 256, 256).pin_memory()
    images = host.to(GPU, memory_format=torch.channels_last)
    label = torch.zeros(128, dtype=torch.int64)
    batch = {"img": host, "pid": label, "camid": label, "impath": ["a"] * 128}
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):

        def bare(kind: torch.dtype = kind) -> None:
            with torch.inference_mode(), torch.autocast("cuda", kind, enabled=kind != torch.float32):
                for _ in range(8):
                    model(images)

        ours = seconds(lambda precision=precision: embed(model, [batch] * 8, GPU, precision))
        yield {
            "precision": precision,
            "images/s": round(1024 / ours, 1),
            "of the bare network": round(seconds(bare) / ours, 3),
        }


def reranking(args: argparse.Namespace) -> Iterator[Row]:
    """Features in host memory to the first 100 distances, beside all products in fp32, and torchreid where it fits."""
    for name, (queries, gallery, width) in SIZES.items():
        generator = np.random.default_rng(0)
        centre = generator.normal(size=(2000, width)).astype(np.float32)
        count = queries + gallery
        noise = generator.standard_normal((count, width), dtype=np.float32)
        rows = normalise(centre[generator.integers(2000, size=count)] + 1.5 * noise)
        on_device = torch.from_numpy(rows).to(GPU)

        def floor(x: torch.Tensor = on_device) -> None:
            for part in x.split(4096):
                torch.mm(part, x.t())

        least = seconds(floor, 3)
        del on_device, floor
        torch.cuda.reset_peak_memory_stats()
        job = lambda r=rows, q=queries: Reranking(r[:q], r[q:], Parameters()).top(100)  # noqa: E731
        yield {
            "size": name,
            "seconds": round(seconds(job, 3), 3),
            "floor": round(least, 3),
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        }
        if name == "VeRi-776":
            yield {
                "size": name,
                "program": "torchreid, processor",
                "seconds": round(torchreids_reranking(rows, queries), 1),
            }


def torchreids_reranking(rows: np.ndarray, queries: int) -> float:
    """Seconds of torchreid's re-ranking on the processor, from its three matrices."""
    from torchreid.utils import re_ranking

    start = time.perf_counter()
    whole = 2 - 2 * rows @ rows.T
    re_ranking(whole[:queries, queries:], whole[:queries, :queries], whole[queries:, queries:])
    return time.perf_counter() - start


def recipe(args: argparse.Namespace) -> Iterator[Row]:
    """The paper's recipe at full size on a drawn city of 3,000 vehicles, for some minutes."""
    folder = args.out.parent / "gpu-recipe"
    dfrst = [sys.executable, "-m", "torchreid_dfrst"]
    start = time.perf_counter()
    subprocess.run([*dfrst, "city", "--out", str(folder / "city"), "--vehicles", "3000"], check=True)
    yield {"drawn in s": round(time.perf_counter() - start)}
    words = ["train", "--config-file", "dfrst_veri776", "--root", str(folder), "-s", "city", "-t", "city"]
    process = subprocess.Popen([*dfrst, *words, "train.save_dir", str(folder / "run")])
    try:
        code = process.wait(60 * args.recipe_minutes)
    except subprocess.TimeoutExpired:
        process.terminate()
        code = process.wait(120)
    journal = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    yield {"exit code": code, "last": json.loads(journal[-1]) if journal else None}


STAGES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "training": training,
    "extraction": extraction,
    "reranking": reranking,
    "recipe": recipe,
}

if __name__ == "__main__":
    main()
