"""How fast a training step and an extraction are, measured beside torchreid's in one run, taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchreid
from PIL import Image
from torch import nn

from torchreid_dfrst.data.batches import Images, Loader
from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.embedding import embed
from torchreid_dfrst.loop.step import PRECISIONS, TrainStep
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.training import build_model, build_optimizer

IDENTITIES = 576  # of VeRi-776's training set: the width of the classifiers


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(
    contestants: dict[str, Callable[[], object]], rounds: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of each call, one call of each contestant per round; a first round to warm up is not counted.

    Args:
        contestants: names to calls.
        rounds: turns that are counted.
        clock: ``wall``, or ``cpu``, the time of this process alone: with one thread a fair clock on a busy machine.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            began = now()
            call()
            if turn:
                seconds[name].append(now() - began)
    return seconds


def write_images(folder: Path, count: int, side: int, seed: int = 0) -> list[Path]:
    """Smooth random JPEG files, about as large as a photograph of that size."""
    rng, paths = np.random.default_rng(seed), []
    for k in range(count):
        small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        paths.append(folder / f"{k:04d}.jpg")
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def image_loader(paths: list[Path], side: int, batch: int, workers: int) -> Loader:
    """Our loader with torchreid's test transform, every file an identity's fourth."""
    transform = torchreid.data.transforms.build_transforms(side, side)[1]
    items = [(str(path), k // 4, 0, 0) for k, path in enumerate(paths)]
    return Loader(Images(items, transform), batch_size=batch, num_workers=workers)


def stock_step(name: str, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """One step of torchreid's ``ImageTripletEngine`` with both of its losses, as its scripts take it."""
    model = build_model(IDENTITIES, name=name, pretrained=False)
    optimizer = torchreid.optim.build_optimizer(model, lr=1e-5, adam_beta2=0.999)
    data = SimpleNamespace(train_loader=[], test_loader={}, num_train_pids=IDENTITIES)
    engine = torchreid.engine.ImageTripletEngine(data, model, optimizer, margin=1.2, weight_t=0.4, use_gpu=False)
    model.train()
    return lambda: engine.forward_backward({"img": images, "pid": labels})


class OurStep:
    """One step of ours, with a stopwatch on its parts.

    Args:
        name: the model.
        images: ``(B, 3, H, W)``.
        labels: ``(B,)``.
        precision: see ``TrainStep``.
        clock: see ``take_turns``.
    """

    def __init__(
        self, name: str, images: torch.Tensor, labels: torch.Tensor, precision: str, clock: str = "wall"
    ) -> None:
        self.now = CLOCKS[clock]
        model = build_model(IDENTITIES, name=name, pretrained=False)
        self.step = TrainStep(
            model, build_optimizer(model, lr=1e-5), DFRSTLoss(), torch.device("cpu"), precision=precision
        )
        model.train()
        self.images, self.labels = images, labels
        self.parts: dict[str, list[float]] = {"forward": [], "optimiser": [], "step": []}
        self.step.run = _Timed(self.step.run, self.parts["forward"], self.now)
        self.step.scaler.step = self._timed_update(self.step.scaler.step)  # type: ignore[method-assign]

    def __call__(self) -> None:
        """Take the step and look at it, as the engine does."""
        began = self.now()
        result = self.step(self.images, self.labels)
        if self.step.failed(result):
            raise ValueError("the benchmark's step is not finite")
        self.parts["step"].append(self.now() - began)

    def split(self) -> dict[str, float]:
        """Median seconds of forward, optimiser, and the rest, which is loss and backward."""
        middle = {name: statistics.median(values[1:]) for name, values in self.parts.items()}
        rest = middle["step"] - middle["forward"] - middle["optimiser"]
        return {"forward_s": middle["forward"], "loss_and_backward_s": rest, "optimiser_s": middle["optimiser"]}

    def _timed_update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = self.now()
            found = update(*args)
            self.parts["optimiser"].append(self.now() - began)
            return found

        return timed


class _Timed(nn.Module):
    def __init__(self, module: nn.Module, seconds: list[float], now: Callable[[], float]) -> None:
        super().__init__()
        self.module, self.seconds, self.now = module, seconds, now

    def forward(self, x: torch.Tensor) -> Any:
        began = self.now()
        found = self.module(x)
        self.seconds.append(self.now() - began)
        return found


def measure_steps(
    name: str, paths: list[Path], side: int, batch: int, rounds: int, clock: str = "wall"
) -> dict[str, Any]:
    """Our step in fp32 and bf16 against torchreid's, on the same batch.

    Returns:
        ``fp32_speedup`` and ``bf16_speedup`` (ratios of medians), images per second of each, and our split.
    """
    began = CLOCKS[clock]()
    data = next(iter(image_loader(paths, side, batch, workers=0)))
    loading = CLOCKS[clock]() - began
    images, labels = data["img"], data["pid"]
    ours = {precision: OurStep(name, images, labels, precision, clock) for precision in ("fp32", "bf16")}
    seconds = take_turns({"torchreid": stock_step(name, images, labels), **ours}, rounds, clock)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "fp32_speedup": middle["torchreid"] / middle["fp32"],
        "bf16_speedup": middle["torchreid"] / middle["bf16"],
        "images_per_s": {key: batch / value for key, value in middle.items()},
        "split": {key: {"data_s": loading, **step.split()} for key, step in ours.items()},
    }


def measure_extraction(
    name: str,
    paths: list[Path],
    side: int,
    batch: int,
    rounds: int,
    precision: str = "bf16",
    workers: int = 0,
    clock: str = "wall",
) -> dict[str, Any]:
    """Files to embeddings against the bare network on images that are in memory already.

    Returns:
        ``extraction_efficiency`` (ratio of medians) and images per second of both.
    """
    model = build_model(IDENTITIES, name=name, pretrained=False).eval().to(memory_format=torch.channels_last)
    loader = image_loader(paths, side, batch, workers)
    transform = torchreid.data.transforms.build_transforms(side, side)[1]
    whole = torch.stack([transform(read_image(path)) for path in paths]).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        with torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32"):
            for part in whole.split(batch):
                model(part)

    seconds = take_turns({"bare": bare, "embed": lambda: embed(model, loader, precision=precision)}, rounds, clock)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "extraction_efficiency": middle["bare"] / middle["embed"],
        "extraction_images_per_s": {key: len(paths) / value for key, value in middle.items()},
    }
