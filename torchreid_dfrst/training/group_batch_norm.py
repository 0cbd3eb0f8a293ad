"""Batch norm over the images of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from torchreid_dfrst.processes import gather_rows, several


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """``torch.nn.SyncBatchNorm``, which works on CUDA alone, for a CPU: the same parameters and buffers.

    Every process has as many rows.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(B, C, ...)`` to the same shape."""
        out = self._normalised(input) if self.training and several() else super().forward(input)
        for layer in self.children():
            out = layer(out)
        return out

    def _normalised(self, input: torch.Tensor) -> torch.Tensor:
        # statistics of half precision numbers need single precision, and gloo carries nothing less
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        own = torch.stack(torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0))
        variances, means = gather_rows(own.unsqueeze(0)).unbind(1)  # (processes, C)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None and self.momentum is not None
            count = dist.get_world_size() * x.numel() // x.shape[1]
            self.num_batches_tracked.add_(1)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of ``model`` use the global batch, with the parameters and buffers it has.

    Many of timm's hold the activation behind them, which stays.
    """
    if device.type == "cuda":
        if not any(
            isinstance(norm, nn.modules.batchnorm._BatchNorm) and [*norm.children()] for norm in model.modules()
        ):
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            twin = GroupBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            twin._parameters, twin._buffers, twin._modules = child._parameters, child._buffers, child._modules
            twin.training = child.training
            setattr(model, name, twin)
        else:
            synchronize_batch_norm(child, device)
    return model
