"""How fast a training step and an extraction are, measured beside torchreid's in one run, taking turns.

python -m tools.studies.benchmarks.training --model dfrst --json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchreid
from PIL import Image
from torch import nn

from torchreid_dfrst.cli import command
from torchreid_dfrst.data.images import Images, read_image
from torchreid_dfrst.data.loader import Loader
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import build_optimizer, settings
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.step import PRECISIONS, TrainStep

IDENTITIES = 576  # of VeRi-776's training set: the width of the classifiers


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WAYS = ("compile", "contiguous")


def timed(call: Callable[[], object], clock: str = "wall") -> Callable[[], float]:
    """The call as one that returns its seconds.

    Args:
        call: what is measured.
        clock: ``wall``, or ``cpu``, the time of this process alone: with one thread a fair clock on a busy machine.
    """
    now = CLOCKS[clock]

    def measured() -> float:
        began = now()
        call()
        return now() - began

    return measured


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of each call, one call of each contestant per round; a first round to warm up is not counted.

    Args:
        contestants: names to calls.
        rounds: turns that are counted.
        clock: see ``timed``.
    """
    return rounds_of({name: timed(call, clock) for name, call in contestants.items()}, rounds)


def rounds_of(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """``take_turns`` of contestants that tell their seconds themselves."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            spent = call()
            if turn:
                seconds[name].append(spent)
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


def parts_of(variant: str) -> list[str]:
    """Precision and ways of a variant, see ``OurStep``.

    Raises:
        KeyError: it has another part.
    """
    parts = variant.split("-")
    for part, known in zip(parts, (PRECISIONS, *[WAYS] * len(parts)), strict=False):
        if part not in known:
            raise KeyError(f"unknown part {part!r} of variant {variant!r}{nearest(part, known)}")
    return parts


class OurStep:
    """One step of ours, with a stopwatch on its parts.

    Args:
        name: the model.
        images: ``(B, 3, H, W)``.
        labels: ``(B,)``.
        variant: a precision, see ``TrainStep``, and ways to compute it: ``fp32``, ``bf16-compile`` (through
            ``torch.compile``), ``fp32-contiguous`` (images and weights not laid out channel by channel).
        clock: see ``timed``.

    Raises:
        KeyError: an unknown variant.
    """

    def __init__(
        self, name: str, images: torch.Tensor, labels: torch.Tensor, variant: str, clock: str = "wall"
    ) -> None:
        self.now = CLOCKS[clock]
        precision, *ways = parts_of(variant)
        model = build_model(IDENTITIES, name=name, pretrained=False)
        self.step = TrainStep(
            model,
            build_optimizer(model, lr=1e-5),
            DFRSTLoss(),
            torch.device("cpu"),
            precision,
            channels_last="contiguous" not in ways,
            compile="compile" in ways,
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


class Contestant:
    """A step in a process of its own, so that what one does to its process is no gain or loss of another's.

    Args:
        kind: ``torchreid``, or a variant of ours, see ``OurStep``; ours prepares its process as training does.
        name: the model.
        images: ``(B, 3, H, W)``.
        labels: ``(B,)``.
        clock: see ``timed``.
    """

    def __init__(self, kind: str, name: str, images: torch.Tensor, labels: torch.Tensor, clock: str = "wall") -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        task = (theirs, kind, name, images.numpy(), labels.numpy(), clock, torch.get_num_threads())
        self.process = context.Process(target=_contend, args=task, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, what: str) -> Any:
        """``step`` (seconds of one), ``split`` or ``share``.

        Raises:
            ChildProcessError: the process ended.
        """
        try:
            self.pipe.send(what)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError) as error:
            raise ChildProcessError("a contestant's process ended: its own message is above") from error

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send("end")
        self.process.join()


def _contend(pipe: Any, kind: str, name: str, images: np.ndarray, labels: np.ndarray, clock: str, threads: int) -> None:
    torch.set_num_threads(threads)
    batch = torch.from_numpy(images), torch.from_numpy(labels)
    with contextlib.redirect_stdout(io.StringIO()):
        if kind == "torchreid":
            step: Callable[[], object] = stock_step(name, *batch)
        else:
            settings(use_gpu=False)
            step = OurStep(name, *batch, kind, clock)
    run = timed(step, clock)
    answers: dict[str, Callable[[], object]] = {"step": run, "share": lambda: convolution_share(step)}
    if isinstance(step, OurStep):
        answers["split"] = step.split
    while (asked := pipe.recv()) != "end":
        pipe.send(answers[asked]())


def measure_steps(
    name: str,
    paths: list[Path],
    side: int,
    batch: int,
    rounds: int,
    clock: str = "wall",
    variants: Sequence[str] = ("fp32", "bf16"),
    shares: bool = False,
) -> dict[str, Any]:
    """Our step in several variants against torchreid's, on the same batch, taking turns.

    Returns:
        ``<variant>_speedup`` (ratios of medians), images per second of each, our split, and with ``shares`` the part
        of each step that is spent in convolutions: what two steps with the same convolutions have in common.

    Raises:
        KeyError: an unknown variant.
    """
    for variant in variants:
        parts_of(variant)  # before any process is started
    loader = image_loader(paths, side, batch, workers=0)
    loading = statistics.median(take_turns({"data": lambda: next(iter(loader))}, rounds, clock)["data"])
    data = next(iter(loader))
    kinds = ("torchreid", *variants)
    steps = {kind: Contestant(kind, name, data["img"], data["pid"], clock) for kind in kinds}
    try:
        seconds = rounds_of({kind: partial(step.ask, "step") for kind, step in steps.items()}, rounds)
        split = {kind: {"data_s": loading, **steps[kind].ask("split")} for kind in variants}
        share = {"convolution_share": {kind: step.ask("share") for kind, step in steps.items()}} if shares else {}
    finally:
        for step in steps.values():
            step.close()
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        **{f"{kind}_speedup": middle["torchreid"] / middle[kind] for kind in variants},
        "images_per_s": {key: batch / value for key, value in middle.items()},
        "split": split,
        **share,
    }


def convolution_share(step: Callable[[], object]) -> float:
    """The part of a step's time, in [0, 1], that PyTorch's profiler sees in convolutions and their gradients."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    times = {entry.key: entry.self_cpu_time_total for entry in profile.key_averages()}
    return sum(value for key, value in times.items() if "conv" in key and "evaluate" not in key) / sum(times.values())


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

    calls = {"bare": bare, "embed": lambda: embed(model, loader, precision=precision)}
    seconds = take_turns(calls, rounds, clock)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "extraction_efficiency": middle["bare"] / middle["embed"],
        "extraction_images_per_s": {key: len(paths) / value for key, value in middle.items()},
    }


def parser() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--model", default="dfrst", help="a registered model (default: %(default)s)")
    made.add_argument("--size", type=int, default=256, help="side of the images (default: %(default)s)")
    made.add_argument("--batch", type=int, default=16, help="images per step, 4 per identity (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="turns each contestant takes (default: %(default)s)")
    made.add_argument("--images", type=int, default=64, help="files to extract (default: %(default)s)")
    made.add_argument(
        "--variants",
        nargs="+",
        default=["fp32", "bf16"],
        help="of our step, such as fp32-compile or fp32-contiguous (default: fp32 bf16)",
    )
    made.add_argument("--shares", action="store_true", help="also: which part of a step is spent in convolutions")
    made.add_argument("--precision", default="bf16", help="of the extraction (default: %(default)s)")
    made.add_argument("--workers", type=int, default=0, help="loading processes of the extraction")
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with one thread")
    made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return made


@command
def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        paths = write_images(Path(folder), max(options.images, options.batch), options.size)
        shared = (options.model, paths, options.size, options.batch, options.rounds)
        found = measure_steps(*shared, options.clock, options.variants, options.shares)
        found |= measure_extraction(*shared, options.precision, options.workers, options.clock)
    found |= {**vars(options), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.model}, {options.size} x {options.size}, batch {options.batch}, {found['threads']} threads")
    for name, rate in found["images_per_s"].items():
        print(f"  step {name:10} {rate:7.1f} images/s")
    for name, rate in found["extraction_images_per_s"].items():
        print(f"  extraction {name:5} {rate:6.1f} images/s")
    for precision, split in found["split"].items():
        print(f"  {precision}: " + ", ".join(f"{part[:-2]} {1000 * value:.0f} ms" for part, value in split.items()))
    for name, share in found.get("convolution_share", {}).items():
        print(f"  {share:.0%} of the step of {name} are convolutions")
    for name in (*(f"{variant}_speedup" for variant in options.variants), "extraction_efficiency"):
        print(f"{name}: {found[name]:.2f}")


if __name__ == "__main__":
    main()
