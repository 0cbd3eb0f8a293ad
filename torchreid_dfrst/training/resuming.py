"""What of a checkpoint may differ from the run that resumes from it: settings may, data and optimiser may not."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)

SCHEDULER_SETTINGS = ("milestones", "gamma", "step_size", "T_max", "eta_min")
"""Settings that torchreid's schedulers keep in their state."""


def digest(items: Sequence[tuple[Any, ...]]) -> str:
    """SHA-256 of the names, identities and cameras of training images in order."""
    lines = "".join(f"{os.path.basename(path)} {identity} {camera}\n" for path, identity, camera, *_ in items)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def refuse_other_run(state: Mapping[str, Any], data: Mapping[str, Any], optimizer: Optimizer, where: str) -> None:
    """Raise a ``ValueError`` if a state is of a run on other ``data`` or with another kind of optimiser."""
    saved, kind = state["data"], optimizer_kind(optimizer)
    differing = [name for name in data if name != "summary" and saved.get(name) != data[name]]
    if differing == ["images"]:
        raise ValueError(
            f"{where} was made with other training images (or in another order) than the {data['summary']}: a resumed "
            "run needs the same"
        )
    if differing:
        was, now = (
            f"{of['steps_per_epoch']} steps an epoch of {len(of.get('identities', []))} identities, seed "
            f"{of.get('seed')}"
            for of in (saved, data)
        )
        raise ValueError(
            f"{where} was made with other data, batch size or seed ({was}; now {now}): a resumed run needs the same"
        )
    if state["optimizer_kind"] != kind:
        raise ValueError(
            f"{where} was made with the optimiser {state['optimizer_kind']} and this run has {kind}, which cannot go "
            "on from its state: use the same, or start a new run from its weights (model.weights)"
        )


def optimizer_kind(optimizer: Optimizer) -> str:
    """The optimiser's name, with the option that gives it a state of another form."""
    amsgrad = any(group.get("amsgrad") for group in optimizer.param_groups)
    return type(optimizer).__name__ + (" with amsgrad" if amsgrad else "")


def warn_of_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log every key of a configuration that differs from that of the checkpoint."""
    for section in sorted({*saved, *now}):
        old, new = saved.get(section, {}), now.get(section, {})
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and (section, key) != ("train", "resume"):
                given = [repr(part[key]) if key in part else "left out" for part in (new, old)]
                logger.warning("resumed with %s.%s %s, it was %s", section, key, *given)


def load_states(optimizer: Optimizer, scheduler: Any, optimizer_state: Any, scheduler_state: Any) -> None:
    """Load what an optimiser and a scheduler remember, but for settings: they keep theirs, and changes are logged."""
    settings = [{**group, "params": None} for group in optimizer.param_groups]
    schedule = {name: value for name, value in getattr(scheduler, "__dict__", {}).items() if name in SCHEDULER_SETTINGS}
    optimizer.load_state_dict(optimizer_state)
    if scheduler is not None and scheduler_state is not None:
        scheduler.load_state_dict(scheduler_state)
    changes: dict[str, tuple[Any, Any]] = {}
    for name, value in schedule.items():
        if getattr(scheduler, name) != value:
            changes[name] = (value, getattr(scheduler, name))
            setattr(scheduler, name, value)
    for place, (group, now) in enumerate(zip(optimizer.param_groups, settings, strict=True)):
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
