"""What a network costs: parameters, multiplications, seconds of a step, images per second."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tools.studies.benchmarks.training import IDENTITIES, take_turns
from tools.studies.reproduction.harness import Harness
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import build_optimizer, settings
from torchreid_dfrst.training.step import PRECISIONS, TrainStep

ROUNDS = 5


def costs(harness: Harness, networks: list[str]) -> dict[str, Any]:
    """Measure networks in one run, taking turns, with the preset's input, batch and precision.

    Returns:
        ``networks``: per name ``parameters_training`` and ``parameters_inference`` (without the classifiers), ``macs``
        of one image, median ``step_s`` and ``images_per_s`` of the forward pass in evaluation; ``how`` in words.
    """
    preset = harness.preset
    data, run = preset.training["data"], preset.training["train"]
    batch, precision, threads = data.get("batch_size_train", 32), run.get("precision", "fp32"), run.get("threads", 0)
    settings(threads=threads)
    device = torch.device("cuda" if torch.cuda.is_available() and run.get("use_gpu", True) else "cpu")
    images = torch.rand(batch, 3, data.get("height", 256), data.get("width", 128), device=device)
    labels = (torch.arange(batch) // 4).to(device)
    # with one thread the CPU's own clock is fair on a busy machine too
    clock = "cpu" if threads == 1 and device.type == "cpu" else "wall"
    steps: dict[str, Callable[[], object]] = {}
    passes: dict[str, Callable[[], object]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in networks:
        options = {**preset.training.get("model", {}), **preset.networks.get(name, {}).get("model", {})}
        model = build_model(IDENTITIES, **{**options, "name": name, "pretrained": False, "weights": None})
        found[name] = _sizes(model.to(device), images[:1])
        steps[name] = _step(model, images, labels, precision)
        passes[name] = _forward(model, images, precision)
    for key, contestants in (("step_s", steps), ("pass_s", passes)):
        for name, seconds in take_turns(contestants, ROUNDS, clock).items():
            found[name][key] = statistics.median(seconds)
    for cost in found.values():
        cost["images_per_s"] = batch / cost.pop("pass_s")
    how = (
        f"{images.shape[2]} x {images.shape[3]} images, batch {batch}, {precision}, {torch.get_num_threads()} threads, "
        f"{clock} clock, median of {ROUNDS} turns; {IDENTITIES} identities; images in memory"
    )
    return {"networks": found, "how": how}


def _sizes(model: nn.Module, image: torch.Tensor) -> dict[str, Any]:
    parameters = {name: value.numel() for name, value in model.named_parameters()}
    classifiers = sum(size for name, size in parameters.items() if "classifier" in name)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "parameters_training": sum(parameters.values()),
        "parameters_inference": sum(parameters.values()) - classifiers,
        "macs": counter.get_total_flops() // 2,
    }


def _step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str) -> Callable[[], object]:
    optimizer = build_optimizer(model, lr=1e-6)
    step = TrainStep(model, optimizer, DFRSTLoss(), images.device, precision)

    def call() -> object:
        model.train()
        return float(step(images, labels).loss)

    return call


def _forward(model: nn.Module, images: torch.Tensor, precision: str) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        model.eval()
        with torch.autocast(images.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
            return float(model(images).float().sum())

    return call
