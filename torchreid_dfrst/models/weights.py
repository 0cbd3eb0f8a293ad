"""Files of weights, read without running what they hold, and backbones that start from them or from ImageNet's."""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from torchreid_dfrst.files import DAMAGED, not_the_file, require_file
from torchreid_dfrst.models.network import BranchNetwork

logger = logging.getLogger(__name__)

SCALAR: Any = np.float64(0).__reduce__()[0]
# torchreid's engine writes the rank-1 as a NumPy scalar, which holds no code; NumPy 1 and 2 name its maker differently
torch.serialization.add_safe_globals(
    [(SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    + [np.dtype, *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}]
)


class Loaded(NamedTuple):
    """What a network took from a state dict."""

    taken: list[str]
    """Names of the network's tensors that were set."""
    fresh: list[str]
    """Names of the network's tensors that keep their initial value; of a ``BranchNetwork`` without its heads."""
    unused: list[str]
    """Names in the file that nothing took, such as the heads."""


def load_backbone(model: nn.Module, path: str | Path | None = None) -> Loaded:
    """Start the backbone of a network from ImageNet's weights or from a file; heads keep their initial values.

    A tensor is looked for under its own name, then under the name it has in the whole backbone, then in another stream
    or the trunk: a plain ResNet starts both streams, and a network with one stream starts both as well.

    Args:
        model: changed in place. A ``BranchNetwork`` must find all of its backbone but attention; any other network,
            such as one of torchreid's, takes what fits and must find each convolution with more than one place.
        path: what ``read_weights`` reads, of a ResNet with torchvision's names, or of one of our or torchreid's
            networks; None takes torchvision's ImageNet weights (IMAGENET1K_V1), which are downloaded once into torch
            hub's cache folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or its weights are of another backbone; the network stays as it was.
        OSError: ImageNet's weights are not in the cache and cannot be downloaded, or the cached file cannot be read.
    """
    state, where = _imagenet(str(model.backbone)) if path is None else (read_weights(path), str(path))
    ours = isinstance(model, BranchNetwork)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    places = {_plain(name): name for name in state if not name.startswith("heads.")}
    source = {name: name if name in state else places.get(_plain(name)) for name in own}

    def needed(name: str) -> bool:
        if ours:
            return ".attention." not in name and not name.endswith("num_batches_tracked")
        return own[name].dim() == 4 and own[name].shape[-1] > 1

    refusal = f"{where} is not a backbone for {model.backbone if ours else type(model).__name__}"
    missing = [name for name, found in source.items() if found is None and needed(name)]
    if missing:
        raise ValueError(
            f"{refusal}: {len(missing)} of {len(own)} tensors are missing, first {_plain(missing[0])!r}; it holds "
            f"{', '.join(list(state)[:3])} ..."
        )
    deeper = sorted(_blocks(places) - _blocks(map(_plain, own)))
    if deeper:
        raise ValueError(f"{refusal}: it has more blocks, {', '.join(deeper)}")
    taken = {}
    for name, found in source.items():
        if found is not None and state[found].shape == own[name].shape:
            taken[name] = state[found]
        elif found is not None and (ours or needed(name)):
            raise ValueError(
                f"{refusal}: {found!r} has shape {tuple(state[found].shape)}, the network's {name!r} "
                f"{tuple(own[name].shape)}"
            )
    model.load_state_dict(taken, strict=False)
    used = {source[name] for name in taken}
    loaded = Loaded(list(taken), [name for name in own if name not in taken], [n for n in state if n not in used])
    logger.info("backbone: %d tensors from %s, %d fresh, %d unused", len(taken), where, *map(len, loaded[1:]))
    return loaded


def read_weights(path: str | Path, content: bytes | None = None) -> dict[str, torch.Tensor]:
    """The state dict in a file, without the ``module.`` that names have after training in parallel.

    Args:
        path: ``.safetensors``, one of our checkpoints or one of torchreid's (``state_dict``), or a bare state dict.
        content: of the file, where it has been read already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn, holds pickled code, or no state dict.
        OSError: it could not be read, which says nothing about the file.
    """
    path = Path(path)
    if content is None:
        require_file(path, f"no weights at {path}")
    if path.suffix == ".safetensors":
        try:
            state: Any = load_safetensors(path.read_bytes() if content is None else content)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: copy it again") from error
    else:
        state = read_safely(path, content)
        state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(map(_is_weight, *zip(*state.items(), strict=True))):
        raise ValueError(f"{path} holds no state dict: save model.state_dict(), or a dict with it under 'state_dict'")
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_safely(path: str | Path, content: bytes | None = None) -> Any:
    """What a ``torch.save`` file holds, loaded onto the CPU: tensors, numbers, words, lists and dicts of them, no code.

    The file is read once, and every part of it is compared with its checksum, which PyTorch does not do.

    Args:
        path: the file.
        content: of the file, where it has been read already.

    Raises:
        ValueError: the file is torn, none of ``torch.save``, or holds pickled code, which is refused and not run.
        OSError: it could not be read, which says nothing about the file, see ``files.not_the_file``.
    """
    try:
        file = io.BytesIO(Path(path).read_bytes() if content is None else content)
        torn = zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip()
        if torn:
            raise ValueError(f"the part {torn} does not match its checksum")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (*DAMAGED, pickle.UnpicklingError, AssertionError, RecursionError) as error:
        # torch's own words go on to say how to load it all the same
        wanted = isinstance(error, pickle.UnpicklingError) and re.search(
            r"(?:GLOBAL|global|class) ([\w.]+\.\w+)", str(error)
        )
        if wanted:
            raise ValueError(
                f"{path} holds pickled Python objects beside tensors and numbers ({wanted[1]}); it was refused and "
                "nothing in it was run. Files of torchreid 1.4.0 can be converted by whoever trusts them: save their "
                "state_dict alone"
            ) from error
        not_the_file(error, path)
        raise ValueError(f"{path} is torn or not a checkpoint: {_why(error)}") from error


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout is torch.strided


def _why(error: BaseException) -> str:
    """What of an error's words is about the file and not about the library."""
    ours = isinstance(error, ValueError) and "checksum" in str(error)
    return str(error) if ours else "it is no whole file of torch.save"


def _imagenet(backbone: str) -> tuple[Mapping[str, torch.Tensor], str]:
    """The weights that torchvision has, and the file in which it keeps them."""
    weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True), str(file)
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise OSError(
            f"no ImageNet weights for {backbone}: tried {file} and {weights.url} ({error}). "
            "Put the file of that address there, or start without it: pretrained=False"
        ) from error


def _plain(name: str) -> str:
    """``streams.fine.layer3.0.conv1.weight`` and ``trunk.conv1.weight`` as the whole backbone calls them."""
    return name.split(".", 2)[2] if name.startswith("streams.") else name.removeprefix("trunk.")


def _blocks(names: Iterable[str]) -> set[str]:
    """The residual blocks among a ResNet's names: ``layer3.0`` and so on."""
    return {found[0] for name in names if (found := re.match(r"layer\d+\.\d+", name))}
