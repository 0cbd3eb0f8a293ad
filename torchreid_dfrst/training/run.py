"""From a configuration to a trained network: one object per line, in the order in which they need each other."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchreid

from torchreid_dfrst import evaluation, files
from torchreid_dfrst.checks import named, within
from torchreid_dfrst.config import Config, Keywords, dump, keywords
from torchreid_dfrst.data.boxes import warn_of_clipped
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import FACTORIES, build, default_options, own_input
from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import distributed
from torchreid_dfrst.training.checkpoint import RESULT
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.folder_lock import alone
from torchreid_dfrst.training.interrupt import MARKER, ended_together, stopping_at_once
from torchreid_dfrst.training.memory import explained, keep_freed
from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler
from torchreid_dfrst.training.options import RunOptions

logger = logging.getLogger(__name__)

NOT_FOR_TRAINING = (
    "test_only", "rerank", "start_epoch", "visrank", "visrank_topk", "use_metric_cuhk03",
)  # fmt: skip
"""Keywords of ``DFRSTEngine.run`` that a configuration has no use for."""

SECTIONS = ("data", "loss", "optim", "scheduler", "train")
"""What training reads beside the network's section; the rest is for dfrst evaluate."""


def sections() -> dict[str, Keywords]:
    """The configuration of training: section to valid keys, each the keyword arguments of what reads it."""
    return {
        "model": keywords(build_model, build, DFRST, leave_out=("loss",)),
        "data": keywords(DataManager, leave_out=("rank", "world_size", "seed", "use_gpu")),
        "loss": keywords(DFRSTLoss),
        "optim": keywords(
            build_optimizer,
            torchreid.optim.build_optimizer,
            optim=str,
            sgd_dampening=float,
            new_layers=str | Sequence[str],
        ),
        "scheduler": keywords(build_scheduler, leave_out=("max_epoch",)),
        # what dfrst evaluate reads from the same file
        **evaluation.sections(),
        "train": keywords(RunOptions, settings, leave_out=NOT_FOR_TRAINING),
    }


def settings(seed: int = 0, use_gpu: bool = True, threads: int = 0, keep_memory: bool = True) -> tuple[int, bool]:
    """Fix what the whole process shares before anything is made.

    Args:
        seed: of initial weights, batches and augmentation.
        use_gpu: use it if there is one.
        threads: CPU threads; 0 leaves PyTorch's choice. Bit-for-bit repetition needs the same number.
        keep_memory: on a CPU, keep freed memory for the next step, see ``memory.keep_freed``.

    Raises:
        ValueError: a number is out of its range.
    """
    within("seed", seed, below=2**32)
    within("threads", threads)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  torchreid and its transforms may draw from the global generators
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    if keep_memory and not (use_gpu and torch.cuda.is_available()):
        keep_freed()
    return seed, use_gpu


@ended_together()
def train(config: Config, bar: Callable[..., Any] | None = None, command: Sequence[str] = ()) -> dict[str, Any]:
    """Train as configured; writes everything into ``train.save_dir``.

    Args:
        config: sections as ``sections()`` names them; others are ignored.
        bar: progress bar, such as ``tqdm.tqdm``.
        command: the command line, to be stored beside the result.

    Returns:
        What ``result.json`` holds: metrics of the last evaluation, the best one, what was skipped. A run that was
        finished before is left as it is.

    Raises:
        ValueError: ``train.max_epoch`` is below 1, which would leave untrained weights.
        ValueError, KeyError, OSError: as the parts raise them; see ``DFRSTEngine.run``.
        StoppedError: SIGTERM or SIGINT asked for it.
    """
    epochs = config["train"].get("max_epoch", 0)
    if epochs < 1:
        raise ValueError(
            f"train.max_epoch is {epochs}: nothing would be trained; give a configuration with --config-file, or say "
            "how many epochs, such as 135"
        )
    config = with_own_input(config)
    group = distributed.start()
    folder = Path(resolved(config)["train"]["save_dir"])
    at_once = contextlib.nullcontext() if group.world_size > 1 else stopping_at_once(folder / MARKER)
    # before any data is read, and until the result is written
    with alone(folder), explained(), at_once:
        return _train(config, group, epochs, bar, command)


def _train(
    config: Config, group: distributed.Group, epochs: int, bar: Callable[..., Any] | None, command: Sequence[str]
) -> dict[str, Any]:
    run = dict(config["train"])
    with named("train", keywords(settings)):
        seed, use_gpu = settings(**{name: run.pop(name) for name in keywords(settings) if name in run})
    with named("loss", config["loss"]):
        loss = DFRSTLoss(**config["loss"])
    with named("data", config["data"]):
        data = DataManager(**config["data"], seed=seed, use_gpu=use_gpu, rank=group.rank, world_size=group.world_size)
    steps = len(data.train_loader)
    logger.info(data.summary)
    with named("model", config["model"]):
        model = build_model(data.num_train_pids, **config["model"])
    with named("optim", config["optim"]):
        optimizer = build_optimizer(model, **config["optim"])
    with named("scheduler", config["scheduler"]):
        scheduler = build_scheduler(optimizer, steps, max_epoch=epochs, **config["scheduler"])
    describe = {
        "model": dict(config["model"]),
        "num_classes": data.num_train_pids,
        "backbone": getattr(model, "start", None),
        "held_out": data.held_out,
        "height": data.height,
        "width": data.width,
        "config": {name: dict(section) for name, section in config.items()},
    }
    engine = DFRSTEngine(data, model, optimizer, scheduler, loss, use_gpu, describe)
    try:
        metrics = engine.run(**run, bar=bar, started=lambda: _write_settings(engine.save_dir, config, command))
    except BaseException:
        _list_skipped(data.skipped, engine.first_step)
        raise
    if engine.finished is not None:
        distributed.stop()
        return engine.finished
    skipped = sorted(set().union(*distributed.of_all(data.skipped)))
    clipped = set().union(*distributed.of_all(data.clipped))
    result = {
        "metrics": metrics,
        "best": engine.best,
        "best_chosen_on_test_identities": engine.best.get("chosen_on", "validation") != "validation",
        "epoch": engine.epoch,
        "step": engine.global_step,
        "skipped_images": skipped,
        "skipped_since_step": engine.first_step,
    }
    if group.main:
        files.write({engine.save_dir / RESULT: (json.dumps(result, indent=2) + "\n").encode()})
        _list_skipped(skipped, engine.first_step)
        warn_of_clipped(clipped)
    distributed.stop()
    return result


def _list_skipped(paths: Sequence[str], first_step: int) -> None:
    for path in paths:
        logger.warning("skipped, could not be read: %s", path)
    if paths:
        since = f" since this run was resumed at step {first_step}" if first_step else ""
        logger.warning("%d image files were skipped%s", len(paths), since)


def with_own_input(config: Config) -> Config:
    """The configuration with the image size and normalisation of the backbone's weights where it says neither."""
    data, model = config["data"], dict(config["model"])
    own = own_input(model.pop("name", "dfrst"), model)
    for pair in (("height", "width"), ("norm_mean", "norm_std")):
        if own and not any(name in data for name in pair):
            data = {**data, **{name: own[name] for name in pair}}
    return {**config, "data": data}


def resolved(config: Config) -> Config:
    """The configuration with the defaults of whatever it leaves out, as far as training reads it."""
    read = sections()
    defaults = {name: read[name].defaults for name in SECTIONS}
    defaults["model"] = keywords(build_model).defaults
    network = {**defaults["model"], **config["model"]}["name"]
    if network in FACTORIES:
        options = {"weights": None, **default_options(network)}
        defaults["model"].update({name: value for name, value in options.items() if name in read["model"]})
    return {name: {**defaults.get(name, {}), **section} for name, section in config.items()}


def _write_settings(folder: Path, config: Config, command: Sequence[str]) -> None:
    files.write(
        {
            folder / "config.yaml": dump(resolved(config)).encode(),
            folder / "command.txt": (" ".join(command or sys.argv) + "\n").encode(),
        }
    )
