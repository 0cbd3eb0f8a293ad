"""What a checkpoint remembers of a run in the middle of it, and how another run takes that over."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

from torchreid_dfrst.data.sampling import DRAW
from torchreid_dfrst.training import checkpoint, distributed

if TYPE_CHECKING:
    from torchreid_dfrst.training.engine import DFRSTEngine

logger = logging.getLogger(__name__)


SCHEDULE = ("milestones", "gamma", "step_size", "T_max", "eta_min")
"""Settings that torchreid's schedulers keep in their state."""

WEIGHTS, RESULT = "weights.safetensors", "result.json"
"""Files of a run that has come to its end."""


def take(engine: DFRSTEngine, random: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything from which training goes on bit for bit, and what the weights are good for.

    Args:
        engine: in the middle of a run.
        random: the state of each process's random generators, by rank.
    """
    sampler = engine.sampler
    return {
        # the names torchreid's resume_from_checkpoint reads
        "state_dict": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": engine.scheduler.state_dict() if engine.scheduler is not None else None,
        "epoch": engine.epoch,
        "rank1": float(engine.best.get("rank1", 0.0)),
        # and what it would forget
        "batch": engine.batch,
        "optimizer_kind": _kind(engine),
        "steps_per_epoch": engine.steps_per_epoch,
        "evaluated": engine.evaluated,
        "best": dict(engine.best),
        "scaler": engine.step.scaler.state_dict(),
        "random": random,
        "seed": sampler.seed if sampler is not None else None,
        "draw": DRAW if sampler is not None else None,
        "identities": list(getattr(engine.datamanager, "identities", [])),
        "images": engine.images,
        "describe": engine.describe,
    }


def digest(datamanager: Any) -> str | None:
    """SHA-256 of the training images' names, identities and cameras in order; None for a data manager of torchreid."""
    items = getattr(datamanager.train_loader.dataset, "items", None)
    if items is None:
        return None
    lines = "".join(f"{os.path.basename(path)} {identity} {camera}\n" for path, identity, camera, *_ in items)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def resume(engine: DFRSTEngine, asked: str | None) -> Mapping[str, Any] | None:
    """Put all processes of a run into the state of the checkpoint that process 0 finds.

    Args:
        engine: before its first step.
        asked: see ``Keeper.find``.

    Returns:
        As ``restore``; None to start anew.

    Raises:
        FileNotFoundError, ValueError: as ``Keeper.find`` and ``restore``, in all processes alike; or not all processes
            see the same file.
        OSError: a checkpoint could not be read, in any process.
    """
    found = distributed.together(lambda: engine.keeper.find(asked) if engine.group.main else None)[0]
    if found is None:
        return None
    seen = distributed.of_all(found.is_file())
    if any(seen) and not all(seen):
        raise ValueError(
            f"{found} is there for process {seen.index(True)} and not for process {seen.index(False)}: train.save_dir "
            "must be seen by all machines"
        )
    random = distributed.together(lambda: restore(engine, found))
    steps = distributed.of_all(engine.global_step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes read different checkpoints in {found}, of steps {', '.join(map(str, steps))}: "
            "train.save_dir must be seen by all machines"
        )
    engine.best = distributed.of_all(_best_kept(engine))[0]
    return random[engine.group.rank]


def _best_kept(engine: DFRSTEngine) -> dict[str, Any]:
    """The best so far as the file of its weights tells it, which may be older or younger than the checkpoint."""
    path = engine.save_dir / "best.json"
    try:
        best = _best_in(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if engine.best:
            logger.warning("the best weights so far are not there (%r): the next evaluation's will be", error)
        return {}
    if best["step"] <= engine.global_step:
        return best
    logger.warning("%s is of step %d, after this one: the next evaluation's weights replace it", path, best["step"])
    return {}


def finished(engine: DFRSTEngine) -> dict[str, Any] | None:
    """What ``result.json`` says of a run with nothing left to do: its last epoch is trained, evaluated and exported.

    Args:
        engine: in the state of a checkpoint, ``max_epoch`` set.

    Returns:
        The same in all processes; None where there is something left to do, if only to write a result that is whole.
    """
    return distributed.of_all(_result(engine) if engine.group.main else None)[0]


def _result(engine: DFRSTEngine) -> dict[str, Any] | None:
    if engine.epoch < engine.max_epoch or not (engine.save_dir / WEIGHTS).is_file():
        return None
    try:
        result = json.loads((engine.save_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    metrics = result.get("metrics") if isinstance(result, dict) else None
    whole = isinstance(metrics, dict) and all(isinstance(values, dict) for values in metrics.values())
    return result if whole and result.get("step") == engine.global_step else None


def _best_in(content: Any) -> dict[str, Any]:
    best = content.get("best") if isinstance(content, dict) else None
    if not (isinstance(best, dict) and isinstance(best.get("step"), int) and isinstance(best.get("mAP"), (int, float))):
        raise ValueError("best.json does not say of which step and mAP they are")
    return best


def restore(engine: DFRSTEngine, path: Path) -> Mapping[str, Any]:
    """Put a run into the state of a checkpoint.

    Returns:
        The state of the random generators, to be set once the loader has started: its start may draw from them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is torn, holds pickled code, or belongs to a run on other data, of another architecture or with
            another optimiser.
        OSError: it could not be read.
    """
    state = checkpoint.load(path)
    now: dict[str, Any] = {
        "steps_per_epoch": engine.steps_per_epoch,
        "identities": list(getattr(engine.datamanager, "identities", [])),
        "seed": getattr(engine.sampler, "seed", None),
        "images": engine.images,
    }
    # torchreid's own data manager knows neither identities nor a seed
    compared = ("steps_per_epoch",) if engine.sampler is None else tuple(now)
    differing = [name for name in compared if state.get(name, now[name]) != now[name]]
    if differing == ["images"]:
        raise ValueError(
            f"{path} was made with other training images (or in another order) than the {engine.datamanager.summary}: "
            "a resumed run needs the same"
        )
    if differing:
        raise ValueError(
            f"{path} was made with other data, batch size or seed ({state['steps_per_epoch']} steps an epoch of "
            f"{len(state['identities'])} identities, seed {state['seed']}; now {now['steps_per_epoch']}, "
            f"{len(now['identities'])}, {now['seed']}): a resumed run needs the same"
        )
    _warn_of_changes(state["describe"].get("config", {}), engine.describe.get("config", {}))
    if engine.sampler is not None and engine.sampler.name == "RandomIdentitySampler" and state.get("draw") != DRAW:
        logger.warning(
            "%s was made by a version that may draw other batches from the same seed: the run goes on with those of "
            "this one%s, and will not end in the weights of an uninterrupted run",
            path,
            ", in which images of the epoch it is in may come twice or not at all" if state["batch"] else "",
        )
    kind = _kind_in(state, engine)
    if kind != _kind(engine):
        raise ValueError(
            f"{path} was made with the optimiser {kind} and this run has {_kind(engine)}, which cannot go on from its "
            "state: use the same, or start a new run from its weights (model.weights)"
        )
    checkpoint.set_weights(engine.model, state["state_dict"], str(path))
    fresh = [{**group, "params": None} for group in engine.optimizer.param_groups]
    engine.optimizer.load_state_dict(state["optimizer"])
    schedule = {name: value for name, value in getattr(engine.scheduler, "__dict__", {}).items() if name in SCHEDULE}
    if engine.scheduler is not None and state["scheduler"] is not None:
        engine.scheduler.load_state_dict(state["scheduler"])
    _apply_settings(engine, fresh, schedule)
    if state["scaler"]:  # empty unless the run was in fp16
        engine.step.scaler.load_state_dict(state["scaler"])
    engine.epoch, engine.batch = state["epoch"], state["batch"]
    engine.evaluated, engine.best = state["evaluated"], state["best"]
    epoch = min(engine.epoch + 1, engine.max_epoch)
    logger.info("resumed from %s: epoch %d, step %d", path, epoch, engine.global_step)
    states = state["random"]
    # a single state was the first process's
    return states if isinstance(states, dict) else states[min(engine.group.rank, len(states) - 1)]


def _kind(engine: DFRSTEngine) -> str:
    """The optimiser's name, with the option that gives it a state of another form."""
    amsgrad = any(group.get("amsgrad") for group in engine.optimizer.param_groups)
    return type(engine.optimizer).__name__ + (" with amsgrad" if amsgrad else "")


def _kind_in(state: Mapping[str, Any], engine: DFRSTEngine) -> str:
    """The optimiser of a checkpoint; of one from before it was noted, as far as its settings tell."""
    if "optimizer_kind" in state:
        return str(state["optimizer_kind"])
    [saved, own] = (groups[0] for groups in (state["optimizer"]["param_groups"], engine.optimizer.param_groups))
    telling = ("betas", "amsgrad", "momentum", "nesterov", "alpha")
    alike = all((name in saved) == (name in own) for name in telling)
    if alike and bool(saved.get("amsgrad")) == bool(own.get("amsgrad")):
        return _kind(engine)
    return f"of the settings {', '.join(name for name in telling if saved.get(name) not in (None, False))}"


def _apply_settings(engine: DFRSTEngine, fresh: list[dict[str, Any]], schedule: Mapping[str, Any]) -> None:
    """Go on with the settings of this run, which loading replaced by those of the checkpoint.

    Args:
        engine: its optimiser and scheduler as loaded.
        fresh: settings of each parameter group before that.
        schedule: those of the scheduler, which count from here on: earlier changes of the rate stay as they were.
    """
    scheduler, changes = engine.scheduler, {}
    for name, value in schedule.items():
        if getattr(scheduler, name) != value:
            changes[name] = (value, getattr(scheduler, name))
            setattr(scheduler, name, value)
    for place, (group, now) in enumerate(zip(engine.optimizer.param_groups, fresh, strict=True)):
        for name in sorted(set(now) - {"params", "lr", "initial_lr"}):
            if group.get(name) != now[name]:
                changes[name] = (now[name], group.get(name))
                group[name] = now[name]
        before, top = group.get("initial_lr", group["lr"]), now.get("initial_lr", now["lr"])
        if before != top:
            changes["lr"] = (top, before)
        if scheduler is None:
            group["lr"] = now["lr"]
            continue
        group["initial_lr"] = scheduler.base_lrs[place] = top
        if isinstance(scheduler, LambdaLR):
            group["lr"] = top * scheduler.lr_lambdas[place](scheduler.last_epoch)
        elif before != top:
            # torchreid's schedulers multiply the current rate
            group["lr"] *= top / before
    for name, (new, old) in changes.items():
        owner = "scheduler" if name in schedule else "optimiser"
        logger.warning("the %s goes on with %s %r, it had %r", owner, name, new, old)


def _warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for section in sorted({*before, *now}):
        old, new = before.get(section, {}), now.get(section, {})
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and (section, key) != ("train", "resume"):
                given = [repr(part[key]) if key in part else "left out" for part in (new, old)]
                logger.warning("resumed with %s.%s %s, it was %s", section, key, *given)
