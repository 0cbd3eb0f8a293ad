"""Where the body of a network starts: ImageNet's weights, or those of another network in a file."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

logger = logging.getLogger(__name__)

# What torch.load and json raise on a file that is broken or something else.
UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError)
SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


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
        path: ``.safetensors``, or what ``torch.save`` wrote of tensors, numbers and strings (it is read with
            ``weights_only``): the state dict of a ResNet with torchvision's names or of one of our networks, bare
            or under the key ``state_dict``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or the weights do not fit; see ``load_body_state``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            state: Any = _read_safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(
            f"cannot read weights from {path}: {error}. Save a plain state dict: torch.save(model.state_dict(), path)"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: save model.state_dict(), or a dict with it under 'state_dict'")
    return load_body_state(model, state, where=str(path))


def load_body_state(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> Loaded:
    """Set trunk and streams from a state dict.

    A tensor is looked for under its own name, then under the name it has in a ResNet, then in another stream or the
    trunk: a plain ResNet starts both streams, and a network with the coarse stream alone starts the fine one too.

    Args:
        model: a ``BranchNetwork``, changed in place.
        state: names to tensors.
        where: the source, for messages.

    Raises:
        ValueError: a tensor of the body, other than attention's, is missing or has another shape.
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


def _resnet_name(name: str) -> str:
    """``streams.fine.layer3.0.conv1.weight`` and ``trunk.conv1.weight`` as torchvision calls them."""
    if name.startswith("streams."):
        return name.split(".", 2)[2]
    return name.removeprefix("trunk.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The format is 8 bytes of header length, a JSON header with types, shapes and offsets, then the values."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    state = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        values = torch.frombuffer(content[start + first : start + last], dtype=SAFETENSORS_TYPES[entry["dtype"]])
        state[name] = values.reshape(entry["shape"])
    return state
