"""Files of weights, read without running what they hold, and backbones that start from them or from ImageNet's."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from torchreid_dfrst.files import DAMAGED, not_the_file, read_json, require_file, require_room
from torchreid_dfrst.models import pretrained, timm_backbones
from torchreid_dfrst.models.backbones import BACKBONES, split_backbone
from torchreid_dfrst.models.network import BranchNetwork

logger = logging.getLogger(__name__)

SCALAR: Any = np.float64(0).__reduce__()[0]
# torchreid's engine writes the rank-1 as a NumPy scalar, which holds no code; NumPy 1 and 2 name its maker differently
torch.serialization.add_safe_globals(
    [(SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    + [np.dtype, *{type(np.dtype(code)) for code in "?US" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}]
)
ARRAY: Any = np.zeros(0).__reduce__()[0]
HASH = "tensors_sha256"
"""Where exported weights' ``.json`` has their ``digest``."""
DESCRIPTION = "description_sha256"
"""Where exported weights have the ``description_digest`` of their ``.json``, among safetensors' metadata."""
ATTENTION = ".attention.gates."
"""In names of DFR-ST's own tensors, which no backbone has."""
ARRAYS: list[Any] = [np.ndarray, *((ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core"))]


class Loaded(NamedTuple):
    """Names of the network's tensors that were set, and that keep their value; names in the file that nothing took."""

    taken: list[str]
    fresh: list[str]
    unused: list[str]


def load_backbone(model: nn.Module, path: str | Path | None = None) -> Loaded:
    """Start the backbone of a network from ImageNet's weights or from a file; heads keep their initial values.

    A tensor is looked for under its own name, then under the name it has in the whole backbone, then in another stream
    or the trunk: a plain ResNet starts both streams, and a network with one stream starts both as well.

    Args:
        model: changed in place. A ``BranchNetwork`` must find all of its backbone but attention; any other network,
            such as one of torchreid's, takes what fits and must find each convolution with more than one place.
        path: what ``read_weights`` reads, under torchvision's, timm's or our names; ``package:NAME`` for an installed
            package (``pretrained.PACKAGES``); None for torchvision's ImageNet weights, IBN-Net's or timm's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or its weights are of another backbone; the network stays as it was.
        OSError: ImageNet's weights cannot be had.
    """
    ours = isinstance(model, BranchNetwork)
    name = str(model.backbone if ours else type(model).__name__)
    source = _read(name, path)
    state = source.state
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    if wrong := _misfit(own, state, ours):
        better = _better(name, source) if ours else ""
        raise ValueError(f"{source.where} is not a backbone for {name}: {wrong}{better}")
    found = _found(own, state)
    taken = {name: state[there] for name, there in found.items() if state[there].shape == own[name].shape}
    model.load_state_dict(taken, strict=False)
    start: dict[str, Any] = {"file": Path(source.where).name, "licence": source.licence, "sha256": source.sha256}
    cast("Any", model).start = start | ({"earlier": dict(source.earlier)} if source.earlier else {})
    if source.licence is not None:
        pretrained.say(name, source.where, source.sha256, source.licence)
    used = {found[name] for name in taken}
    loaded = Loaded(list(taken), [name for name in own if name not in taken], [n for n in state if n not in used])
    logger.info("backbone: %d tensors from %s, %d fresh, %d unused", len(taken), source.where, *map(len, loaded[1:]))
    return loaded


def read_weights(path: str | Path, content: bytes | None = None) -> dict[str, torch.Tensor]:
    """The state dict in a file, without the ``module.`` that names have after training in parallel.

    Args:
        path: ``.safetensors``, one of our checkpoints or one of torchreid's (``state_dict``), or a bare state dict.
        content: of the file, where it has been read already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, OSError: as ``read_safely``, or it holds no state dict.
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
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    if len(plain) < len(state):
        raise ValueError(f"{path} has tensors with and without 'module.' before the same name: save one network alone")
    return plain


def read_safely(path: str | Path, content: bytes | None = None) -> Any:
    """What a ``torch.save`` file holds, compared with its checksums and loaded onto the CPU; no code.

    Raises:
        ValueError: the file is torn, none of ``torch.save``, or holds pickled code, which is refused and not run.
        OSError: it could not be read, which says nothing about the file, see ``files.not_the_file``.
    """
    try:
        file = io.BytesIO(Path(path).read_bytes() if content is None else content)
        if zipfile.is_zipfile(file):
            parts = zipfile.ZipFile(file)
            require_room(sum(part.file_size for part in parts.infolist()), file.getbuffer().nbytes)
            if torn := parts.testzip():
                raise ValueError(f"the part {torn} does not match its checksum")
        file.seek(0)
        with torch.serialization.safe_globals(ARRAYS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (*DAMAGED, pickle.UnpicklingError, AssertionError, RecursionError) as error:
        # torch's own words go on to say how to load it all the same
        wanted = isinstance(error, pickle.UnpicklingError) and re.search(r"(?:GLOBAL |class ')([\w.]+)", str(error))
        if wanted:
            raise ValueError(
                f"{path} holds pickled Python objects beside tensors and numbers ({wanted[1]}); it was refused and "
                "nothing in it was run. Whoever trusts it can save it anew without them: of a network, its state_dict"
            ) from error
        not_the_file(error, path)
        # other words are about the library, not about the file
        ours = isinstance(error, ValueError) and re.search(r"checksum|its arrays would fill", str(error))
        why = error if ours else "it is no whole file of torch.save"
        raise ValueError(f"{path} is torn or not a checkpoint: {why}") from error


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def description_digest(about: Mapping[str, Any]) -> str:
    """SHA-256 of names and values, whatever their order, of what a ``.json`` says."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _is_weight(name: Any, value: Any) -> bool:
    plain = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
    return isinstance(name, str) and plain and not value.is_meta


def require_hash(about: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: Path, content: bytes) -> None:
    """Refuse exported weights and a description that were not written together: each has the other's hash.

    Args:
        about: the description, from the ``.json`` beside ``path``.
        weights: read from ``content``.
        path: of the weights.
        content: of that file.
    """
    beside, described = path.with_suffix(".json"), _described(content)
    if HASH in about and about[HASH] != digest(weights):
        raise ValueError(
            f"{path} does not hold the weights that {beside.name} was written for "
            f"({HASH} differs): it is damaged, converted or another network's; copy both again"
        )
    if described is not None and described != description_digest(about):
        raise ValueError(
            f"{beside} is not as it was written with {path.name} ({DESCRIPTION} differs): somebody changed it; copy "
            "both again"
        )
    if HASH not in about or described is None:
        logger.warning(
            "%s lacks %s, as files of earlier versions: whether %s and %s belong together is not known for sure",
            *((beside, HASH) if HASH not in about else (path, DESCRIPTION)), path.name, beside.name,
        )  # fmt: skip


def _described(content: bytes) -> str | None:
    """The hash of its description that a file of safetensors has."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: str | None = (header.get("__metadata__") or {}).get(DESCRIPTION)
    return found


def _read(backbone: str, path: str | Path | None) -> pretrained.Source:
    if path is None:
        return pretrained.imagenet(backbone, read_weights)
    name = str(path).removeprefix(pretrained.PREFIX)
    if name != str(path):
        file, package = pretrained.package_file(name)
        plain = backbone.partition(".")[0]
        if plain != package.backbone:
            others = [f"{pretrained.PREFIX}{n}" for n, p in pretrained.PACKAGES.items() if p.backbone == plain]
            raise ValueError(
                f"the weights of {path} are of {package.backbone}, not of {backbone}: give model.weights "
                f"{others[0] if others else 'null, and model.pretrained true or false'}"
            )
        state = pretrained.in_order(read_weights(file), backbone)
        return pretrained.Source(state, str(file), package.sha256, package.licence)
    if "://" in str(path):
        raise ValueError(
            f"model.weights is {path}: it takes a file, such as one from there, or {pretrained.PREFIX}NAME"
        )
    path = Path(path)
    require_file(path, f"no weights at {path}")
    content = path.read_bytes()
    state = read_weights(path, content)
    about = {name: part for name, part in _description(path, content, state).items() if isinstance(part, Mapping)}
    earlier, sha256 = about.get("backbone", {}), hashlib.sha256(content).hexdigest()
    licence = earlier["licence"] if isinstance(earlier.get("licence"), str) else None
    return pretrained.Source(state, str(path), sha256, licence, earlier, about.get("model", {}).get("backbone"))


def _description(path: Path, content: bytes, state: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
    """What one of our files of weights says of itself; nothing of others."""
    beside, about = path.with_suffix(".json"), None
    if path.suffix != ".safetensors":
        whole = read_safely(path, content)
        about = whole.get("describe") if isinstance(whole, Mapping) else None
    elif beside.is_file() or _described(content):
        require_file(beside, f"{beside} is missing: it has the licence of {path.name}; keep them together")
        about = _read_ours(beside, bool(_described(content)))
        if about:
            require_hash(about, state, path, content)
    return about if isinstance(about, Mapping) else {}


def _read_ours(beside: Path, sure: bool) -> dict[str, Any]:
    """A description of ours; one of another program, where that may be, is passed over with a warning."""
    try:
        about = read_json(beside, "description of weights", "copy it again")
        if sure or {HASH, "num_classes"} & set(about):
            return about
    except ValueError:
        if sure:
            raise
    logger.warning("%s is no description of ours: no licence is known of the weights beside it", beside)
    return {}


def _found(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For names of a network's tensors those in a file, as far as it has them."""
    places = {_key(name): name for name in state if not name.startswith("heads.")}
    found = {name: name if name in state else places.get(_key(name)) for name in own}
    return {name: there for name, there in found.items() if there is not None}


def _misfit(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], ours: bool) -> str:
    """Why a file's tensors are not those of a network; nothing where they are."""

    def needed(name: str) -> bool:
        if ours:
            return ATTENTION not in f".{name}" and not name.endswith("num_batches_tracked")
        return own[name].dim() == 4 and own[name].shape[-1] > 1

    found = _found(own, state)
    missing = [name for name in own if name not in found and needed(name)]
    if missing:
        return (
            f"{len(missing)} of {len(own)} tensors are missing, first {_plain(missing[0])!r}; it holds "
            f"{', '.join(list(state)[:3])} ..."
        )
    # a classifier, and layers behind the last map, are modules beside the blocks of the network
    blocks = tuple({f"{_key(_plain(name).partition('.')[0])}." for name in own if needed(name)})
    keys = {_key(name) for name in own}
    more = [n for n in state if _key(n) not in keys and ATTENTION not in n]
    more = [n for n in more if _key(n).startswith(blocks) or "." not in _plain(n)]
    if more:
        return f"{len(more)} of its tensors in blocks of the network have no place there, first {_plain(more[0])!r}"
    for name, there in found.items():
        if state[there].shape != own[name].shape and (ours or needed(name)):
            return f"{there!r} has shape {tuple(state[there].shape)}, the network's {name!r} {tuple(own[name].shape)}"
        if state[there].is_floating_point() != own[name].is_floating_point():
            return f"{there!r} is of type {state[there].dtype}, the network's {name!r} {own[name].dtype}"
    return ""


def _better(backbone: str, source: pretrained.Source) -> str:
    """The backbone that a file says it is of, or one of the names near the file's and the backbone's that it fits."""
    if source.backbone is not None:
        return "" if source.backbone == backbone else f"; it is of {source.backbone!r}: give that as model.backbone"
    known = [*BACKBONES, *(timm_backbones.names(backbone) if timm_backbones.installed() else [])]
    file = re.split("[-.]", Path(source.where).name)[0]
    for name in dict.fromkeys(near for like in (file, backbone) for near in get_close_matches(like, known, n=5)):
        for last_stride in (2, 1):
            # a name that cannot be built is none to offer
            with contextlib.suppress(Exception), torch.device("meta"):
                split = split_backbone(name, 2, 1, last_stride)
                if not _misfit(split.trunk.state_dict() | split.tails[0].state_dict(), source.state, True):
                    return f"; it fits {name!r}: give that as model.backbone"
    return ""


def _plain(name: str) -> str:
    """``streams.fine.layer3.0.conv1.weight`` and ``trunk.conv1.weight`` as the whole backbone calls them."""
    name = name.split(".", 2)[2] if name.startswith("streams.") else name.removeprefix("trunk.")
    return name.removeprefix("whole.")


def _key(name: str) -> str:
    """A name by which a tensor is found: timm's ``stages.0`` is ``stages_0`` where the backbone is cut."""
    return _plain(name).replace("_", ".")
