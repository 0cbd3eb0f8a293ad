"""1x1 convolutions on one CPU thread: PyTorch takes its slow kernel for few images, unless they look like many."""

from __future__ import annotations

import torch
from torch import nn

MANY = 16
"""From so many images on PyTorch hands a 1x1 convolution in float32 on one thread to oneDNN."""


class PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution that lays rows of its map out as further images, where that earns the fast kernel.

    Every place of the map is computed by itself, so that where one image ends makes no difference; with channels
    last, neither does memory: both are views of the same numbers. Measured 1.5 to 2.2 times as fast, forward and
    backward (``docs/scaling.md``).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to ``(N, D, H, W)``."""
        folds = self._folds(x)
        if folds == 1:
            return super().forward(x)
        count, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).view(count * folds, height // folds, width, channels)
        out = super().forward(rows.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1).reshape(count, height, width, -1).permute(0, 3, 1, 2)

    def _folds(self, x: torch.Tensor) -> int:
        """Into how many images each is cut: 1 where nothing is to be gained."""
        slow = (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and 0 < len(x) < MANY
            and torch.get_num_threads() == 1
            and x.is_contiguous(memory_format=torch.channels_last)
        )
        height = x.shape[2]
        return next((k for k in range(2, height + 1) if height % k == 0 and len(x) * k >= MANY), 1) if slow else 1


def quicken_pointwise(model: nn.Module) -> nn.Module:
    """Make every plain 1x1 convolution of ``model`` a ``PointwiseConvolution`` with the parameters it has."""
    for name, child in model.named_children():
        if type(child) is nn.Conv2d and _plain(child):
            twin = PointwiseConvolution(child.in_channels, child.out_channels, 1, bias=child.bias is not None)
            twin._parameters, twin.training = child._parameters, child.training
            setattr(model, name, twin)
        else:
            quicken_pointwise(child)
    return model


def _plain(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1, 1), (1, 1), (0, 0), 1)
