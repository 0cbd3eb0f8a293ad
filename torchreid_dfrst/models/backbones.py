"""Backbones by name, split into a trunk that all streams share and one tail per stream (paper, Section III-B.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torchvision
from torch import nn

from torchreid_dfrst.checks import nearest


class Backbone(NamedTuple):
    """A split backbone; its modules keep their names, so that weights of the whole one fit (see ``weights.py``)."""

    name: str
    trunk: nn.Sequential
    tails: list[nn.Sequential]
    channels: int


def resnet(name: str, last_stride: int) -> tuple[list[tuple[str, nn.Module]], int]:
    """Layers of one of torchvision's ResNets by name, first to last, and channels of the last map."""
    network = getattr(torchvision.models, name)(weights=None)
    for layer in network.layer4[0].modules():
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.stride = (last_stride, last_stride)
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "fc")]
    return layers, network.fc.in_features


BACKBONES: dict[str, Callable[[str, int], tuple[list[tuple[str, nn.Module]], int]]] = {
    **dict.fromkeys(torchvision.models.list_models(include=["resnet*", "resnext*", "wide_resnet*"]), resnet),
}
"""Name to what builds its layers, given the name and the last stride; the last four layers are the stages."""


def split_backbone(name: str, shared_stages: int, streams: int, last_stride: int = 1) -> Backbone:
    """Build a backbone whose first stages are shared and whose last ones exist once per stream.

    Without pre-trained weights every tail starts from its own random values.

    Args:
        name: one of ``BACKBONES``.
        shared_stages: stages in the trunk, 1 to 3. Our reading of the paper is 2 (conv2_x and conv3_x): with conv1
            that makes its "first three blocks", and the tails hold its "two residual blocks".
        streams: number of tails.
        last_stride: stride of the last stage; 1 is the paper's, and gives maps of 1/16 of the image, 2 is ResNet's own.

    Raises:
        KeyError: unknown backbone.
        ValueError: a number out of range.
    """
    if name not in BACKBONES:
        raise KeyError(f"unknown backbone {name!r}{nearest(name, BACKBONES)}")
    if shared_stages not in (1, 2, 3):
        raise ValueError(f"shared_stages is {shared_stages!r}: the streams can share 1, 2 or 3 stages")
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride is {last_stride!r}: it is 1 (the paper) or 2 (ResNet's own)")
    built = [BACKBONES[name](name, last_stride) for _ in range(streams)]
    (layers, channels), cut = built[0], shared_stages - 4
    tails = [nn.Sequential(OrderedDict(own[cut:])) for own, _ in built]
    return Backbone(name, nn.Sequential(OrderedDict(layers[:cut])), tails, channels)
