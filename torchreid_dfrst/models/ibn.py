"""ResNets with instance norms (IBN-Net, Pan et al., ECCV 2018), as torchreid has two of them; names of tensors too."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from torchreid_dfrst.models.attention import AttentiveBlock

FILES = {
    "resnet18_ibn_a": "resnet18_ibn_a-2f571257.pth",
    "resnet34_ibn_a": "resnet34_ibn_a-94bc1577.pth",
    "resnet50_ibn_a": "resnet50_ibn_a-d9d0bb7b.pth",
    "resnet101_ibn_a": "resnet101_ibn_a-59ea0ac6.pth",
    "resnet50_ibn_b": "resnet50_ibn_b-9ca61e85.pth",
}
"""Backbone to the file of its ImageNet weights; the name ends in the beginning of the file's SHA-256."""
ADDRESS = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"


class InstanceBatchNorm(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the others (IBN-a)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to the same shape."""
        half = self.IN.num_features
        return torch.cat([self.IN(x[:, :half]), self.BN(x[:, half:])], dim=1)


class InstanceNormBlock(AttentiveBlock):
    """A residual block with an instance norm after the skip is added (IBN-b)."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__(block, nn.Identity())
        self.IN = nn.InstanceNorm2d(channels, affine=True)

    def summed(self, x: torch.Tensor) -> torch.Tensor:
        """Residual branch and skip, normalised."""
        return self.IN(super().summed(x))


def put_into(network: torchvision.models.ResNet, kind: str) -> None:
    """Give a ResNet its instance norms: ``a`` in all stages but the last, ``b`` after conv1 and two stages."""
    if kind == "a":
        for stage in (network.layer1, network.layer2, network.layer3):
            for block in stage:
                block.bn1 = InstanceBatchNorm(block.bn1.num_features)
        return
    network.bn1 = nn.InstanceNorm2d(64, affine=True)
    for stage in (network.layer1, network.layer2):
        stage[-1] = InstanceNormBlock(stage[-1], stage[-1].bn3.num_features)
