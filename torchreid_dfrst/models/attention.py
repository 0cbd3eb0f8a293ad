"""AttentionNet: channel and spatial attention inside the last residual block (paper, Section III-B.2, Fig. 4, 5)."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet

from torchreid_dfrst.messages import nearest

PLACEMENTS = ("channel-spatial", "spatial-channel", "parallel", "channel", "spatial", "none")


class ChannelAttention(nn.Module):
    """``g_c = sigmoid(MLP(average) + MLP(max))``, one MLP with ``channels / reduction`` hidden units."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction is {reduction!r}: between 1 and the map's {channels} channels")
        hidden = channels // reduction
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate ``(N, C, 1, 1)`` in (0, 1) of a map ``(N, C, H, W)``."""
        # side by side along the height: along the batch they would fix its size in an exported file
        squeezed = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], dim=2)
        return torch.sigmoid(self.mlp(squeezed).sum(2, keepdim=True))


class SpatialAttention(nn.Module):
    """``g_s = sigmoid(W [max; average])``: a convolution over maximum and average of the channels."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size!r}: an odd number, 1 or more")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate ``(N, 1, H, W)`` in (0, 1) of a map ``(N, C, H, W)``."""
        return torch.sigmoid(self.conv(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)))


class AttentionNet(nn.Module):
    """Channel and spatial gates, in one of the placements of Table IX.

    The default applies ``g_c``, then ``g_s`` computed from the result. In ``parallel`` both gates see the unattended
    map and both multiply it (our reading; the paper only names it).
    """

    def __init__(
        self, channels: int, placement: str = "channel-spatial", reduction: int = 16, kernel_size: int = 7
    ) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise KeyError(f"unknown attention {placement!r}{nearest(placement, PLACEMENTS)}")
        names = {"parallel": ["channel", "spatial"], "none": []}.get(placement, placement.split("-"))
        gates = {
            "channel": lambda: ChannelAttention(channels, reduction),
            "spatial": lambda: SpatialAttention(kernel_size),
        }
        self.parallel = placement == "parallel"
        self.gates = nn.ModuleDict({name: gates[name]() for name in names})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The attended map, of the shape of ``x``."""
        attended = x
        for gate in self.gates.values():
            attended = gate(x if self.parallel else attended) * attended
        return attended


class AttentiveBlock(nn.Module):
    """A torchvision residual block whose layers keep their names, with AttentionNet before the skip is added."""

    def __init__(self, block: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.attention = attention
        self.depth = sum(name.startswith("conv") for name, _ in block.named_children())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the block, ``(N, C, H, W)``, ``>= 0``."""
        return self.get_submodule("relu")(self.summed(x))

    def summed(self, x: torch.Tensor) -> torch.Tensor:
        """Attended residual branch and skip, ``(N, C, H, W)``."""
        layers = dict(self.named_children())
        skip = layers["downsample"](x) if "downsample" in layers else x
        for number in range(1, self.depth + 1):
            x = layers[f"bn{number}"](layers[f"conv{number}"](x))
            if number < self.depth:
                x = layers["relu"](x)
        return layers["attention"](x) + skip


def attend(tail: nn.Module, attention: nn.Module) -> None:
    """Put AttentionNet into a tail's last residual block; if that is not torchvision's, after its map."""
    stage = tail[-1] if isinstance(tail, nn.Sequential) else tail
    if isinstance(stage, nn.Sequential) and isinstance(stage[-1], (resnet.BasicBlock, resnet.Bottleneck)):
        stage[-1] = AttentiveBlock(stage[-1], attention)
    else:
        tail.add_module("attention", attention)
