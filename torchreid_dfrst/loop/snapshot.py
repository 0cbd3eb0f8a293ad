"""What a checkpoint remembers of a run in the middle of it, and how another run takes that over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_dfrst import checkpoint

if TYPE_CHECKING:
    from torchreid_dfrst.engine import DFRSTEngine

logger = logging.getLogger(__name__)


def take(engine: DFRSTEngine) -> dict[str, Any]:
    """Everything from which training goes on bit for bit, and what the weights are good for."""
    sampler = engine.sampler
    return {
        # the names torchreid's resume_from_checkpoint reads
        "state_dict": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": engine.scheduler.state_dict() if engine.scheduler is not None else None,
        "epoch": engine.epoch,
        "rank1": float(engine.best.get("mAP", 0.0)),
        # and what it would forget
        "batch": engine.batch,
        "steps_per_epoch": engine.steps_per_epoch,
        "evaluated": engine.evaluated,
        "best": dict(engine.best),
        "scaler": engine.step.scaler.state_dict(),
        "random": checkpoint.random_state(),
        "seed": sampler.seed if sampler is not None else None,
        "identities": list(getattr(engine.datamanager, "identities", [])),
        "describe": engine.describe,
    }


def restore(engine: DFRSTEngine, path: Path) -> Mapping[str, Any]:
    """Put a run into the state of a checkpoint.

    Returns:
        The state of the random generators, to be set once the loader has started: its start may draw from them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is torn, holds pickled code, or belongs to a run on other data or of another architecture.
    """
    state = checkpoint.load(path)
    now: dict[str, Any] = {
        "steps_per_epoch": engine.steps_per_epoch,
        "identities": list(getattr(engine.datamanager, "identities", [])),
        "seed": getattr(engine.sampler, "seed", None),
    }
    # torchreid's own data manager knows neither identities nor a seed
    compared = ("steps_per_epoch",) if engine.sampler is None else tuple(now)
    if any(state[name] != now[name] for name in compared):
        raise ValueError(
            f"{path} was made with other data, batch size or seed ({state['steps_per_epoch']} steps an epoch of "
            f"{len(state['identities'])} identities, seed {state['seed']}; now {now['steps_per_epoch']}, "
            f"{len(now['identities'])}, {now['seed']}): a resumed run needs the same"
        )
    _warn_of_changes(state["describe"].get("config", {}), engine.describe.get("config", {}))
    checkpoint.set_weights(engine.model, state["state_dict"], str(path))
    engine.optimizer.load_state_dict(state["optimizer"])
    if engine.scheduler is not None and state["scheduler"] is not None:
        engine.scheduler.load_state_dict(state["scheduler"])
    engine.step.scaler.load_state_dict(state["scaler"])
    engine.epoch, engine.batch = state["epoch"], state["batch"]
    engine.evaluated, engine.best = state["evaluated"], state["best"]
    logger.info("resumed from %s: epoch %d, step %d", path, engine.epoch + 1, engine.global_step)
    return state["random"]


def _warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for section in sorted({*before, *now}):
        old, new = before.get(section, {}), now.get(section, {})
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and (section, key) != ("train", "resume"):
                logger.warning("resumed with %s.%s %r, it was %r", section, key, new.get(key), old.get(key))
