"""Backbones by name, split into a trunk that all streams share and one tail per stream (paper, Section III-B.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torchvision
from torch import nn

from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models import ibn, timm_backbones

Split = tuple[nn.Module, nn.Module, int, int]
"""Trunk, tail, channels of the tail's map, and pixels of an image's side that a place on the map stands for."""


class Backbone(NamedTuple):
    """A split backbone; its modules keep their names, so that weights of the whole one fit (see ``weights.py``)."""

    name: str
    trunk: nn.Module
    tails: list[nn.Module]
    channels: int
    place: int
    """Pixels of an image's side that a place on the map stands for: 16 or 32, or the patch of a transformer."""


def cut(layers: Sequence[tuple[str, nn.Module]], place: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Named layers before a place, and those from it on."""
    return nn.Sequential(OrderedDict(layers[:place])), nn.Sequential(OrderedDict(layers[place:]))


def resnet(name: str, shared_stages: int, last_stride: int) -> Split:
    """One of torchvision's ResNets, or one with instance norms (``ibn.FILES``)."""
    network = getattr(torchvision.models, name.partition("_ibn_")[0])(weights=None)
    for layer in network.layer4[0].modules():
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.stride = (last_stride, last_stride)
    if name in ibn.FILES:
        ibn.put_into(network, name[-1])
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "fc")]
    return *cut(layers, shared_stages - 4), network.fc.in_features, 16 * last_stride


BACKBONES: dict[str, Callable[[str, int, int], Split]] = dict.fromkeys(
    [*torchvision.models.list_models(include=["resnet*", "resnext*", "wide_resnet*"]), *ibn.FILES], resnet
)
"""Name to what builds it from name, number of shared stages and last stride; every other name is one of timm's."""


def split_backbone(name: str, shared_stages: int, streams: int, last_stride: int = 1) -> Backbone:
    """Build a backbone whose first stages are shared and whose last ones exist once per stream.

    Without pre-trained weights every tail starts from its own random values.

    Args:
        name: one of ``BACKBONES``, or a model of timm's that gives maps, see ``timm_backbones.py``.
        shared_stages: stages in the trunk, 1 to 3; of a transformer, a third of its blocks, two thirds, or all but
            one. Our reading of the paper is 2 (conv2_x and conv3_x, maps of 1/8): with conv1 its "first three blocks".
        streams: number of tails.
        last_stride: stride of the last stage; 1 is the paper's, and gives maps of 1/16 of the image, 2 is ResNet's own.

    Raises:
        KeyError: unknown backbone, with the nearest name.
        ValueError: a number out of range, or a backbone of timm's that cannot be split or cannot have that stride.
        OSError: the backbone is none of ours, and timm is not installed.
    """
    if shared_stages not in (1, 2, 3):
        raise ValueError(f"shared_stages is {shared_stages!r}: the streams can share 1, 2 or 3 stages")
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride is {last_stride!r}: it is 1 (the paper) or 2 (ResNet's own)")
    if name not in BACKBONES and not timm_backbones.installed():
        raise OSError(
            f"backbone {name!r} is not torchvision's{nearest(name, BACKBONES)}, and timm, which may have it, is "
            f"missing: {timm_backbones.INSTALL}"
        )
    if name not in BACKBONES and not timm_backbones.has(name):
        raise KeyError(f"unknown backbone {name!r}{nearest(name, [*BACKBONES, *timm_backbones.names(name)])}")
    build = BACKBONES.get(name, timm_backbones.build)
    built = [build(name, shared_stages, last_stride) for _ in range(streams)]
    trunk, _, channels, place = built[0]
    return Backbone(name, trunk, [tail for _, tail, *_ in built], channels, place)
