"""The optimiser, and learning rates as a function of the epoch: linear warm-up, then torchreid's schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchreid
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchreid_dfrst.checks import within
from torchreid_dfrst.messages import nearest

NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "rmsprop_alpha", "base_lr_mult")
BELOW_1 = ("adam_beta1", "adam_beta2")
"""Numbers that an optimiser takes, which are not negative either."""
SCHEDULES = ("constant", "single_step", "multi_step", "cosine")


def build_optimizer(model: nn.Module, adam_beta2: float = 0.999, **options: Any) -> Optimizer:
    """``torchreid.optim.build_optimizer`` with PyTorch's ``adam_beta2`` and, for Adam and SGD, the fused kernels.

    Args:
        model: whose parameters are trained.
        adam_beta2: torchreid's function has 0.99 by default, its scripts and the paper's Adam 0.999.
        options: torchreid's keywords: ``optim``, ``lr``, ``weight_decay``, ``momentum``, ...

    Raises:
        ValueError: an optimiser torchreid does not have, or a number out of its range.
    """
    for name, value in {**options, "adam_beta2": adam_beta2}.items():
        if name in NOT_NEGATIVE:
            within(name, value)
        elif name in BELOW_1:
            within(name, value, below=1)
    made = torchreid.optim.build_optimizer(model, adam_beta2=adam_beta2, **options)
    if type(made) not in (torch.optim.Adam, torch.optim.SGD):
        return made
    # the same numbers in one pass over memory; groups carry every setting themselves, and theirs would win
    for group in made.param_groups:
        del group["foreach"], group["fused"]
    # Adam's decoupled_weight_decay is a default that its constructor takes too
    return type(made)(made.param_groups, **{**made.defaults, "foreach": None, "fused": True})


class WarmupSchedule(LambdaLR):
    """Advanced after every optimiser step, unlike torchreid's schedules, which count epochs."""

    every_step = True


def build_scheduler(
    optimizer: Optimizer,
    steps_per_epoch: int,
    lr_scheduler: str = "multi_step",
    stepsize: int | Sequence[int] = (60, 100),
    gamma: float = 0.1,
    max_epoch: int = 135,
    warmup_epoch: float = 10,
    warmup_lr: float = 1e-6,
) -> WarmupSchedule:
    """Linear warm-up, then a schedule with torchreid's names (the paper says "warm-up"; the rest is our reading).

    Epochs count from the start of training: the schedule's steps do not wait for the warm-up.

    Args:
        optimizer: each parameter group keeps its own top rate.
        steps_per_epoch: batches in an epoch.
        lr_scheduler: ``constant``, ``single_step`` (times ``gamma`` every ``stepsize`` epochs), ``multi_step`` (times
            ``gamma`` at each epoch of ``stepsize``) or ``cosine`` (to 0 at ``max_epoch``).
        stepsize: epochs.
        gamma: factor of each decay.
        max_epoch: where ``cosine`` ends.
        warmup_epoch: length of the warm-up in epochs, may be a fraction; 0 for none.
        warmup_lr: rate at the first step.

    Raises:
        KeyError: unknown ``lr_scheduler``.
        ValueError: ``stepsize`` does not fit it, or a number is out of its range.
    """
    if lr_scheduler not in SCHEDULES:
        raise KeyError(f"unknown scheduler.lr_scheduler {lr_scheduler!r}{nearest(lr_scheduler, SCHEDULES)}")
    if lr_scheduler == "single_step" and not (isinstance(stepsize, int) and stepsize > 0):
        raise ValueError(f"scheduler.stepsize is {stepsize!r}: single_step takes one number of epochs, 1 or more")
    for name, value in {"gamma": gamma, "warmup_epoch": warmup_epoch, "warmup_lr": warmup_lr}.items():
        within(name, value)
    milestones = [] if isinstance(stepsize, int) else sorted(stepsize)
    if lr_scheduler == "multi_step" and (isinstance(stepsize, int) or min(milestones, default=1) < 1):
        raise ValueError(f"scheduler.stepsize is {stepsize!r}: multi_step takes a list of epochs, such as [60, 100]")
    decay: Callable[[float], float] = {
        "constant": lambda epoch: 1.0,
        "single_step": lambda epoch: gamma ** (epoch // stepsize),
        "multi_step": lambda epoch: gamma ** sum(epoch >= milestone for milestone in milestones),
        "cosine": lambda epoch: 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / max_epoch))),
    }[lr_scheduler]

    def factor_of(top: float) -> Callable[[int], float]:
        def factor(step: int) -> float:
            epoch = step / steps_per_epoch
            warm = min(1.0, epoch / warmup_epoch) if warmup_epoch else 1.0
            start = min(1.0, warmup_lr / top) if top else 1.0
            return decay(epoch) * (start + (1 - start) * warm)

        return factor

    return WarmupSchedule(optimizer, [factor_of(float(group["lr"])) for group in optimizer.param_groups])
