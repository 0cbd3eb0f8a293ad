"""ResNet, split into a trunk that all streams share and one tail per stream (paper, Section III-B.4)."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torchvision
from torch import nn

from torchreid_dfrst.checks import nearest

BODIES = ("resnet18", "resnet34", "resnet50", "resnet101")
STEM = ("conv1", "bn1", "relu", "maxpool")
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Body(NamedTuple):
    """Modules of a split ResNet; they keep torchvision's names, so its weights fit (see ``weights.py``)."""

    trunk: nn.Sequential
    tails: list[nn.Sequential]
    channels: int


def split_resnet(body: str, shared_stages: int, streams: int, last_stride: int = 1) -> Body:
    """Build a ResNet whose first stages are shared and whose last ones exist once per stream.

    Without pre-trained weights every tail starts from its own random values.

    Args:
        body: one of ``BODIES``.
        shared_stages: residual stages in the trunk, 1 to 3. Our reading of the paper is 2 (conv2_x and conv3_x):
            with conv1 that makes its "first three blocks", and the tails hold its "two residual blocks".
        streams: number of tails.
        last_stride: stride of conv5_x; 1 is the paper's, and gives maps of 1/16 of the image, 2 is ResNet's own.

    Raises:
        KeyError: unknown body.
        ValueError: a number out of range.
    """
    if body not in BODIES:
        raise KeyError(f"unknown backbone {body!r}{nearest(body, BODIES)}")
    if shared_stages not in (1, 2, 3):
        raise ValueError(f"shared_stages is {shared_stages!r}: the streams can share 1, 2 or 3 residual stages")
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride is {last_stride!r}: it is 1 (the paper) or 2 (ResNet's own)")
    networks = [getattr(torchvision.models, body)(weights=None) for _ in range(streams)]
    for network in networks:
        for layer in network.layer4[0].modules():
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.stride = (last_stride, last_stride)
    trunk = _chain(networks[0], (*STEM, *STAGES[:shared_stages]))
    tails = [_chain(network, STAGES[shared_stages:]) for network in networks]
    return Body(trunk, tails, networks[0].fc.in_features)


def _chain(network: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))
