"""One optimiser step: forward, loss over the global batch, backward, update."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.processes import Group, gather_rows
from torchreid_dfrst.training.group_batch_norm import synchronize_batch_norm

FIRST_SCALE = 2.0**16
"""Factor of the loss in the first step of fp16."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(ValueError):
    """The loss or a gradient is NaN or infinite; the message names the batch's files."""


class StepResult(NamedTuple):
    """Scalars of one step, still on the device: reading them waits for the device."""

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    triplet: torch.Tensor
    accuracy: torch.Tensor
    gradient_norm: torch.Tensor


class TrainStep:
    """Prepares a model for training, in place, and takes steps with it.

    With several processes, batch normalisation and triplet mining see the global batch, and gradients are averaged:
    one step equals that of a single process with the whole batch.

    Args:
        model: gives ``(logits, features)`` in training, each one tensor or a tuple of branches.
        optimizer: over the model's parameters.
        loss: the criterion.
        device: to train on.
        precision: ``fp32``; ``bf16`` (autocast); ``fp16`` (autocast with a gradient scaler). Weights stay float32.
        channels_last: memory layout of images and weights.
        compile: run the model through ``torch.compile``.
        group: the processes of this run.

    Raises:
        KeyError: unknown ``precision``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: DFRSTLoss,
        device: torch.device,
        precision: str = "fp32",
        channels_last: bool = True,
        compile: bool = False,
        group: Group | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise KeyError(f"unknown train.precision {precision!r}{nearest(precision, PRECISIONS)}")
        self.optimizer, self.loss, self.device, self.precision = optimizer, loss, device, precision
        self.group = group or Group()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.run: nn.Module = self.model
        if self.group.world_size > 1:
            synchronize_batch_norm(self.model, device)
            devices = [device] if device.type == "cuda" else None
            with warnings.catch_warnings():
                # its new name is unknown to the oldest PyTorch that will do
                warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
                self.run = DistributedDataParallel(
                    self.model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        if compile:
            self.run = torch.compile(self.run)  # type: ignore[assignment]
        self.scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=precision == "fp16")
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        """Take one step with ``images``, ``(B, 3, H, W)`` of this process, and ``labels``, ``(B,)`` int64.

        It gives the loss terms before the update. Whether they are finite is for the caller to see when it next reads
        numbers: a GPU would have to be waited for.
        """
        images = images.to(self.device, memory_format=self.layout, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"):
            outputs = self.run(images)
        logits, features = _branches_of_output(outputs)
        if self.group.world_size > 1:
            # triplets are mined among the images of all processes
            widths = [feature.shape[1] for feature in features]
            wide = torch.cat(list(features), dim=1)
            # gloo does not carry half precision
            wide = wide.float() if wide.dtype in (torch.float16, torch.bfloat16) else wide
            features = gather_rows(wide).split(widths, dim=1)
            parts = self.loss(logits, features, labels, gather_rows(labels))
        else:
            parts = self.loss(logits, features, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(parts.total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            accuracy = (logits[0].argmax(1) == labels).float().mean()
        return StepResult(*(x.detach() for x in (*parts, accuracy, norm)))

    def failed(self, result: StepResult) -> bool:
        """Was the step not finite? Under fp16 the scale is at fault, and halved, until it is below 1."""
        if self.precision == "fp16" and bool(torch.isfinite(result.loss)):
            return not bool(torch.isfinite(result.gradient_norm)) and self.scaler.get_scale() < 1
        return not bool(torch.isfinite(result.loss + result.gradient_norm))

    def refuse_untrained(self, steps: int) -> None:
        """Raise ``NonFiniteError`` if under fp16 the scaler left out all ``steps`` since the start of the run."""
        scale = self.scaler.get_scale()
        # halved by each step that is left out
        if steps and self.scaler.is_enabled() and scale == FIRST_SCALE * self.scaler.get_backoff_factor() ** steps:
            raise NonFiniteError(
                f"no update was made: under train.precision fp16 no gradient of the {steps} steps was finite, with "
                f"the loss scaled by {FIRST_SCALE:g} down to {scale:g}, so the weights are those of the start. Train "
                "for more steps (each of these halves the scale), or use train.precision bf16 or fp32"
            )


def _branches_of_output(outputs: object) -> list[Sequence[torch.Tensor]]:
    """Logits and features, each a sequence of branches."""
    if not (isinstance(outputs, (tuple, list)) and len(outputs) == 2):
        raise ValueError(
            f"the model gave {type(outputs).__name__} in training, expected (logits, features): build it with "
            'loss="triplet"'
        )
    return [part if isinstance(part, (tuple, list)) else (part,) for part in outputs]
