"""Where the body of a network starts: ImageNet's weights, or those of another network in a file."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from torchreid_dfrst.tensors import read_weights

logger = logging.getLogger(__name__)

# What torch.hub and torch.load raise on a file that is broken or something else.
UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError)


class Loaded(NamedTuple):
    """What a body took from a state dict."""

    taken: list[str]
    """Names of the body's tensors that were set."""
    fresh: list[str]
    """Names of the body's tensors that keep their initial value: only attention may."""
    unused: list[str]
    """Names in the file that nothing took, such as the heads."""


def load_imagenet(model: nn.Module) -> Loaded:
    """Start every stream of a ``BranchNetwork`` from torchvision's ImageNet weights (IMAGENET1K_V1).

    torchvision downloads them once into torch hub's cache folder and reads them there afterwards.

    Raises:
        OSError: they are not in the cache and cannot be downloaded, or the cached file cannot be read.
    """
    weights = torchvision.models.get_model_weights(model.body).IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except UNREADABLE as error:
        raise OSError(
            f"no ImageNet weights for {model.body}: tried {file} and {weights.url} ({error}). "
            "Put the file of that address there, or start without it: pretrained=False"
        ) from error
    return load_body_state(model, state, where=str(file))


def load_body(model: nn.Module, path: str | Path) -> Loaded:
    """Start every stream of a ``BranchNetwork`` from a file.

    Args:
        model: changed in place; its heads stay as they are.
        path: what ``tensors.read_weights`` reads: the weights of a ResNet with torchvision's names or of one of our
            networks.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or the weights do not fit; see ``load_body_state``.
    """
    return load_body_state(model, read_weights(path), where=str(path))


def load_body_state(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> Loaded:
    """Set trunk and streams from a state dict.

    A tensor is looked for under its own name, then under the name it has in a ResNet, then in another stream or the
    trunk: a plain ResNet starts both streams, and a network with the coarse stream alone starts the fine one too.

    Args:
        model: a ``BranchNetwork``, changed in place.
        state: names to tensors.
        where: the source, for messages.

    Raises:
        ValueError: a tensor of the body, other than attention's, is missing or has another shape, or the state dict is
            of a deeper body.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    places = {_resnet_name(name): name for name in state if not name.startswith("heads.")}
    body = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    source = {}
    for name in body:
        found = name if name in state else places.get(_resnet_name(name))
        if found is not None:
            source[name] = found
    missing = [n for n in body if n not in source and ".attention." not in n and not n.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{where} is not a body for {model.body}: {len(missing)} of {len(body)} tensors are missing, "
            f"first {_resnet_name(missing[0])!r}; it holds {', '.join(list(state)[:3])} ..."
        )
    deeper = sorted(_blocks(places) - _blocks(map(_resnet_name, body)))
    if deeper:
        raise ValueError(f"{where} is not a body for {model.body}: it has more blocks, {', '.join(deeper)}")
    for name, found in source.items():
        if state[found].shape != body[name].shape:
            raise ValueError(
                f"{where} is not a body for {model.body}: {found!r} has shape {tuple(state[found].shape)}, "
                f"the network's {name!r} {tuple(body[name].shape)}"
            )
    model.load_state_dict({name: state[found] for name, found in source.items()}, strict=False)
    taken = set(source.values())
    loaded = Loaded(list(source), [n for n in body if n not in source], [n for n in state if n not in taken])
    logger.info(
        "body: %d tensors from %s, %d fresh, %d unused", len(loaded.taken), where, len(loaded.fresh), len(loaded.unused)
    )
    return loaded


def load_shared(model: nn.Module, path: str | Path) -> Loaded:
    """Start any network from a file, such as one of torchreid's from a run on other identities.

    A tensor is taken where the file has its name, or that name in a ResNet, with the same shape; classifiers and other
    heads keep their initial values.

    Args:
        model: changed in place.
        path: what ``tensors.read_weights`` reads.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or a convolution with more than one place has no weights in it, which means
            another body.
    """
    state = {_resnet_name(name): value for name, value in read_weights(path).items()}
    own = model.state_dict()
    taken = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    lost = [name for name, value in own.items() if value.dim() == 4 and value.shape[-1] > 1 and name not in taken]
    if lost:
        raise ValueError(f"{path} is not a body for {type(model).__name__}: it has no {lost[0]!r} of the right shape")
    model.load_state_dict(taken, strict=False)
    loaded = Loaded(list(taken), [n for n in own if n not in taken], [n for n in state if n not in taken])
    logger.info("body: %d tensors from %s, %d fresh", len(loaded.taken), path, len(loaded.fresh))
    return loaded


def _resnet_name(name: str) -> str:
    """``streams.fine.layer3.0.conv1.weight`` and ``trunk.conv1.weight`` as torchvision calls them."""
    if name.startswith("streams."):
        return name.split(".", 2)[2]
    return name.removeprefix("trunk.")


def _blocks(names: Iterable[str]) -> set[str]:
    """The residual blocks among ResNet names: ``layer3.0`` and so on."""
    return {found[0] for name in names if (found := re.match(r"layer\d+\.\d+", name))}
