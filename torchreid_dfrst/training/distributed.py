"""Training as one process on several: gather with gradients, normalise over the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchreid_dfrst.processes import (
    Group,
    OtherProcessError,
    current,
    from_main,
    mean_over_group,
    of_all,
    raise_together,
    several,
    start,
    stop,
)

__all__ = [
    "Group",
    "GroupBatchNorm",
    "OtherProcessError",
    "current",
    "from_main",
    "gather_rows",
    "mean_over_group",
    "of_all",
    "raise_together",
    "several",
    "start",
    "stop",
    "synchronize_batch_norm",
]


class _Gather(torch.autograd.Function):
    """Rows of all processes, in rank order.

    Every process computes the same loss from the gathered rows, so each already knows the whole gradient of its own
    rows: backward needs no communication, only the factor that undoes the average over processes taken by DDP.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.share = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        first = dist.get_rank() * ctx.share
        return gradient[first : first + ctx.share] * dist.get_world_size()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """``(B, ...)`` of this process to ``(world_size * B, ...)`` of all, with gradients to this process's rows.

    For a loss that every process computes alike from the result and that DDP then averages. Without a group, ``rows``
    itself.
    """
    return _Gather.apply(rows) if several() else rows


class _NormalizeOverGroup(torch.autograd.Function):
    """Batch normalisation with the mean and variance of all processes' rows; one exchange each way."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        parts = [torch.empty(2 * len(mean) + 1, dtype=x.dtype, device=x.device) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, torch.cat([mean, variance, mean.new_tensor([count])]))
        means, variances, counts = torch.stack(parts).tensor_split([len(mean), 2 * len(mean)], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
        # evaluation's kernel with the group's statistics in place of the running ones: one pass over x
        out = nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return out, mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[Any, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        into, stretch, shift = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([shift, stretch])
        dist.all_reduce(sums)
        mean_shift, mean_stretch = (sums / total).unbind()
        # what the statistics themselves pass back, an affine function of x in each channel
        shape = [1, -1] + [1] * (x.dim() - 2)
        inverse = torch.rsqrt(variance + ctx.eps)
        slope = scale * inverse * inverse * mean_stretch
        offset = scale * inverse * mean_shift - slope * mean
        into = into.addcmul_(x, -slope.view(shape)).sub_(offset.view(shape))
        # weight and bias get this process's share: DDP averages it over processes as it does every gradient
        return into, stretch if ctx.needs_input_grad[1] else None, shift if ctx.needs_input_grad[2] else None, None


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes, on any device and backend.

    ``torch.nn.SyncBatchNorm`` does this on CUDA only; this one carries the same parameters and buffers.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalisation takes (B, C, ...), received shape {tuple(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(B, C, ...)`` to the same shape."""
        self._check_input_dim(input)
        if not (self.training and several()):
            return super().forward(input)
        # statistics of half precision numbers need single precision, and gloo carries nothing less
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        out, mean, variance, count = _NormalizeOverGroup.apply(wide, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * count / (count - 1), rate)
        return out.to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of ``model`` use the global batch, with the parameters and buffers it has."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, GroupBatchNorm):
            twin = GroupBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            twin._parameters, twin._buffers, twin.training = child._parameters, child._buffers, child.training
            setattr(model, name, twin)
        else:
            synchronize_batch_norm(child, device)
    return model
