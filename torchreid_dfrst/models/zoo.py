"""The networks under the names that torchreid knows them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchreid_dfrst.checks import nearest, within
from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.models.network import BranchNetwork
from torchreid_dfrst.models.peers import PRN, GlobalNetwork
from torchreid_dfrst.models.weights import load_body, load_imagenet

PLUS: dict[str, Any] = {"normalise_branches": True}
"""What made DFR-ST better on held-out training vehicles: docs/results.md, table `changes` (reproduction/changes.py)."""

NETWORKS: dict[str, tuple[Callable[..., BranchNetwork], dict[str, Any]]] = {
    "dfrst": (DFRST, {}),
    "dfrst_resnet18": (DFRST, {"backbone": "resnet18"}),
    "dfrst_plus": (DFRST, PLUS),
    "dfrst_plus_resnet18": (DFRST, {"backbone": "resnet18", **PLUS}),
    "dfrst_coarse": (DFRST, {"fine": False, "divisions": (), "attention": "none"}),
    "dfrst_attention": (DFRST, {"divisions": ()}),
    "prn": (PRN, {}),
    "prn_resnet18": (PRN, {"backbone": "resnet18"}),
    "bot": (GlobalNetwork, {}),
    "bot_resnet18": (GlobalNetwork, {"backbone": "resnet18"}),
    "baseline": (GlobalNetwork, {"neck": False, "last_stride": 2}),
    "baseline_resnet18": (GlobalNetwork, {"backbone": "resnet18", "neck": False, "last_stride": 2}),
}
"""Name to class, and the options that the name stands for where the class has others."""


def dfrst(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """DFR-ST with ResNet-50, the paper's network."""
    return _build("dfrst", num_classes, loss, pretrained, options)


def dfrst_resnet18(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """DFR-ST with ResNet-18, to try on a CPU."""
    return _build("dfrst_resnet18", num_classes, loss, pretrained, options)


def dfrst_plus(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """DFR-ST with ResNet-50 and the options that helped, ``PLUS``, in place of the paper's."""
    return _build("dfrst_plus", num_classes, loss, pretrained, options)


def dfrst_plus_resnet18(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """DFR-ST with ResNet-18 and the options that helped, ``PLUS``."""
    return _build("dfrst_plus_resnet18", num_classes, loss, pretrained, options)


def dfrst_coarse(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """The coarse stream alone: Table III's xc."""
    return _build("dfrst_coarse", num_classes, loss, pretrained, options)


def dfrst_attention(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """Both streams without divisions: Table III's xc + xf1, Table VIII's first row."""
    return _build("dfrst_attention", num_classes, loss, pretrained, options)


def prn(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """PRN's single height-channel branch with ResNet-50."""
    return _build("prn", num_classes, loss, pretrained, options)


def prn_resnet18(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """PRN's single height-channel branch with ResNet-18."""
    return _build("prn_resnet18", num_classes, loss, pretrained, options)


def bot(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """The strong baseline: ResNet-50, last stride 1, BNNeck."""
    return _build("bot", num_classes, loss, pretrained, options)


def bot_resnet18(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """The strong baseline with ResNet-18."""
    return _build("bot_resnet18", num_classes, loss, pretrained, options)


def baseline(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """ResNet-50 as it is, for cross entropy alone: Table III's baseline."""
    return _build("baseline", num_classes, loss, pretrained, options)


def baseline_resnet18(
    num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True, **options: Any
) -> BranchNetwork:
    """ResNet-18 as it is, for cross entropy alone."""
    return _build("baseline_resnet18", num_classes, loss, pretrained, options)


FACTORIES: dict[str, Callable[..., BranchNetwork]] = {
    "dfrst": dfrst,
    "dfrst_resnet18": dfrst_resnet18,
    "dfrst_plus": dfrst_plus,
    "dfrst_plus_resnet18": dfrst_plus_resnet18,
    "dfrst_coarse": dfrst_coarse,
    "dfrst_attention": dfrst_attention,
    "prn": prn,
    "prn_resnet18": prn_resnet18,
    "bot": bot,
    "bot_resnet18": bot_resnet18,
    "baseline": baseline,
    "baseline_resnet18": baseline_resnet18,
}


def build(
    name: str,
    num_classes: int,
    loss: str = "softmax",
    pretrained: bool = True,
    weights: str | Path | None = None,
    **options: Any,
) -> BranchNetwork:
    """Build a registered network with options, which ``torchreid.models.build_model`` does not pass on.

    Args:
        name: one of ``FACTORIES``.
        num_classes: identities in training.
        loss: ``"softmax"`` or ``"triplet"``.
        pretrained: start every stream from ImageNet's weights; ``weights`` takes their place.
        weights: file that the body starts from, see ``load_body``.
        options: keyword arguments of the network's class, such as ``DFRST``; they go before the name's own.

    Raises:
        KeyError: an unknown name or option, with the nearest valid one.
        ValueError: a number out of its range.
        OSError: ImageNet's weights cannot be had.
    """
    if name not in FACTORIES:
        raise KeyError(f"unknown model {name!r}{nearest(name, FACTORIES)}")
    return FACTORIES[name](num_classes, loss=loss, pretrained=pretrained, weights=weights, **options)


def default_options(name: str) -> dict[str, Any]:
    """The options of a name of ``FACTORIES``, with the values they have where nothing is said."""
    network, preset = NETWORKS[name]
    parameters = inspect.signature(network).parameters.values()
    return {**{p.name: p.default for p in parameters if p.name not in ("num_classes", "loss")}, **preset}


def _build(name: str, num_classes: int, loss: str, pretrained: bool, options: dict[str, Any]) -> BranchNetwork:
    weights = options.pop("weights", None)
    known = default_options(name)
    for option in options:
        if option not in known:
            raise KeyError(f"unknown model option {option!r}{nearest(option, known)}")
        if option.endswith("_features"):
            within(option, options[option], lowest=1)
    network, preset = NETWORKS[name]
    model = network(num_classes=num_classes, loss=loss, **{**preset, **options})
    if weights is not None:
        load_body(model, weights)
    elif pretrained:
        load_imagenet(model)
    return model
