"""The networks under the names that torchreid knows them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchreid_dfrst.checks import within
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.models.network import BranchNetwork
from torchreid_dfrst.models.peers import GlobalNetwork, PartNetwork
from torchreid_dfrst.models.weights import load_backbone

PLUS: dict[str, Any] = {"normalise_branches": True}
"""What made DFR-ST better on held-out training vehicles: docs/results.md, table `changes` (reproduction/changes.py)."""
RESNET18 = {"backbone": "resnet18"}
STRIPES = {"divisions": ("height",), "pool": "average"}
PLAIN = {"neck": False, "last_stride": 2}

NETWORKS: dict[str, tuple[Callable[..., BranchNetwork], dict[str, Any]]] = {
    "dfrst": (DFRST, {}),  # the paper's network, with ResNet-50
    "dfrst_resnet18": (DFRST, RESNET18),  # to try on a CPU
    "dfrst_plus": (DFRST, PLUS),
    "dfrst_plus_resnet18": (DFRST, {**RESNET18, **PLUS}),
    "dfrst_coarse": (DFRST, {"fine": False, "divisions": (), "attention": "none"}),  # Table III's xc
    "dfrst_attention": (DFRST, {"divisions": ()}),  # Table III's xc + xf1, Table VIII's first row
    "dfrst_ibn": (DFRST, {"backbone": "resnet50_ibn_a"}),  # the field's usual backbone
    "dfrst_convnext": (DFRST, {"backbone": "convnext_tiny.in12k_ft_in1k"}),  # timm's, about as large as ResNet-50
    "dfrst_vit": (DFRST, {"backbone": "vit_small_patch16_224.augreg_in21k"}),
    "prn": (PartNetwork, {}),
    "prn_resnet18": (PartNetwork, RESNET18),
    "pcb": (PartNetwork, STRIPES),
    "bot": (GlobalNetwork, {}),  # the strong baseline
    "bot_resnet18": (GlobalNetwork, RESNET18),
    "baseline": (GlobalNetwork, PLAIN),  # Table III's, for cross entropy alone
    "baseline_resnet18": (GlobalNetwork, {**RESNET18, **PLAIN}),
}
"""Name to class, and the options that the name stands for where the class has others."""


def build(
    name: str,
    num_classes: int,
    loss: str = "softmax",
    pretrained: bool = True,
    weights: str | Path | None = None,
    **options: Any,
) -> BranchNetwork:
    """Build a registered network with options.

    Args:
        name: one of ``NETWORKS``.
        num_classes: identities in training.
        loss: ``"softmax"`` or ``"triplet"``.
        pretrained: start every stream from ImageNet's weights; ``weights`` takes their place.
        weights: file or ``package:NAME`` that the backbone starts from, see ``load_backbone``.
        options: keyword arguments of the network's class, such as ``DFRST``; they go before the name's own.

    Raises:
        KeyError: an unknown name or option, with the nearest valid one.
        ValueError: a number out of its range.
        OSError: ImageNet's weights cannot be had.
    """
    if name not in NETWORKS:
        raise KeyError(f"unknown model {name!r}{nearest(name, NETWORKS)}")
    known = default_options(name)
    for option in options:
        if option not in known:
            raise KeyError(f"unknown model option {option!r}{nearest(option, known)}")
        if option.endswith("_features"):
            within(option, options[option], lowest=1)
    network, preset = NETWORKS[name]
    model = network(num_classes=num_classes, loss=loss, **{**preset, **options})
    if pretrained or weights is not None:
        load_backbone(model, weights)
    return model


def default_options(name: str) -> dict[str, Any]:
    """The options of a name of ``NETWORKS``, with the values they have where nothing is said."""
    network, preset = NETWORKS[name]
    parameters = inspect.signature(network).parameters.values()
    return {**{p.name: p.default for p in parameters if p.name not in ("num_classes", "loss")}, **preset}


def _factory(name: str) -> Callable[..., BranchNetwork]:
    """``build`` with the arguments that torchreid passes, under the network's name."""

    def factory(
        num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
    ) -> BranchNetwork:
        return build(name, num_classes, loss, pretrained, **options)

    factory.__name__ = factory.__qualname__ = name
    return factory


FACTORIES: dict[str, Callable[..., BranchNetwork]] = {name: _factory(name) for name in NETWORKS}
"""What torchreid's table of models holds for each name of ``NETWORKS``."""
