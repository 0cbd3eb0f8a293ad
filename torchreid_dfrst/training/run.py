"""From a configuration to a trained network: one object per line, in the order in which they need each other."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchreid_dfrst import files, processes
from torchreid_dfrst.checks import named
from torchreid_dfrst.config import Config, dump, keywords
from torchreid_dfrst.data.boxes import warn_of_clipped
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training.checkpoint import RESULT
from torchreid_dfrst.training.configuration import settings, with_defaults, with_own_input
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.folder_lock import alone
from torchreid_dfrst.training.interrupt import StopRequest, ended_together
from torchreid_dfrst.training.memory import explained
from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler

logger = logging.getLogger(__name__)


@ended_together()
def train(config: Config, bar: Callable[..., Any] | None = None, command: Sequence[str] = ()) -> dict[str, Any]:
    """Train as configured, into ``train.save_dir``.

    Args:
        config: sections as ``sections()`` names them; others are ignored.
        bar: progress bar, such as ``tqdm.tqdm``.
        command: the command line, to be stored beside the result.

    Returns:
        What ``result.json`` holds: metrics of the last evaluation, the best one, what was skipped.

    Raises:
        ValueError, KeyError, OSError, StoppedError: as ``DFRSTEngine.run``, and as the parts raise them.
    """
    epochs = config["train"].get("max_epoch", 0)
    if epochs < 1:
        raise ValueError(
            f"train.max_epoch is {epochs}: nothing would be trained; give a configuration with --config-file, or say "
            "how many epochs, such as 135"
        )
    config = with_own_input(config)
    group = processes.start()
    folder = Path(with_defaults(config)["train"]["save_dir"])
    stop = StopRequest()
    # torchrun sends SIGTERM to all when one fails, and that is nothing to save for before training
    early = contextlib.nullcontext() if group.world_size > 1 else stop.listening()
    # before any data is read, and until the result is written
    with alone(folder), explained(), early:
        return _train(config, group, stop, bar, command)


def _train(
    config: Config, group: processes.Group, stop: StopRequest, bar: Callable[..., Any] | None, command: Sequence[str]
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
        scheduler = build_scheduler(optimizer, steps, max_epoch=run["max_epoch"], **config["scheduler"])
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
    engine.stop = stop
    try:
        metrics = engine.run(**run, bar=bar, started=lambda: _write_settings(engine.save_dir, config, command))
    except BaseException:
        _list_skipped(data.skipped, engine.first_step)
        raise
    if engine.finished is not None:
        processes.stop()
        return engine.finished
    skipped = sorted(set().union(*processes.of_all(data.skipped)))
    clipped = set().union(*processes.of_all(data.clipped))
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
    processes.stop()
    return result


def _list_skipped(paths: Sequence[str], first_step: int) -> None:
    for path in paths:
        logger.warning("skipped, could not be read: %s", path)
    if paths:
        since = f" since this run was resumed at step {first_step}" if first_step else ""
        logger.warning("%d image files were skipped%s", len(paths), since)


def _write_settings(folder: Path, config: Config, command: Sequence[str]) -> None:
    files.write(
        {
            folder / "config.yaml": dump(with_defaults(config)).encode(),
            folder / "command.txt": (" ".join(command or sys.argv) + "\n").encode(),
        }
    )
