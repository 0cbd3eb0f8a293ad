"""A trained network from its file: what training wrote, or a state dict whose network the caller names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchreid_dfrst import config, files
from torchreid_dfrst.checks import check, within
from torchreid_dfrst.data.manager import check_normalisation
from torchreid_dfrst.models.weights import read_safely, read_weights, require_hash
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import checkpoint, sections

logger = logging.getLogger(__name__)

NEEDED = {"model": Mapping, "num_classes": int, "height": int, "width": int}
"""What a file says of its network, and the types."""
MORE = {"config": Mapping, "held_out": Sequence[str], "backbone": Mapping | None}
PIXELS = 10_000
AGAIN = "take it from the training run again"


def open_network(path: str | Path, described: Mapping[str, Any] | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a training run wrote, with its weights, in evaluation mode.

    Args:
        path: exported weights (``weights.safetensors``, its ``.json`` beside it) or a checkpoint of training; with
            ``described`` also what torchreid's engine wrote, or a bare state dict.
        described: of a file that does not say it itself: ``model`` (``name`` and options), ``height`` and ``width``. A
            file without a classifier, which features do without, will do.

    Returns:
        The network on the CPU, and what is known of it: ``model``, ``num_classes``, ``height``, ``width``, ...

    Raises:
        FileNotFoundError: the file, or the ``.json`` beside exported weights, is missing.
        KeyError: an unknown model or option.
        ValueError: not such a file, weights of another architecture or not those that were exported, both the file and
            ``described`` say what it is, or the network does not take the size that is described.
    """
    path = Path(path)
    files.require_file(path, f"no weights at {path}")
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        weights, where, about = read_weights(path, content), path.with_suffix(".json"), {}
        if described is None or where.exists():
            files.require_file(where, f"{where} is missing: training writes it beside {path.name}; keep them together")
            about = files.read_json(where, "description of weights", AGAIN)
    else:
        state, where = read_safely(path, content), path
        about = state.get("describe") or {} if isinstance(state, dict) else {}
        weights = read_weights(path, content) if about or described else {}
    if described is not None:
        if about:
            raise ValueError(f"{where} says itself what network it holds: leave --model out")
        classifier = _classifier_tensors(described["model"])
        about = {**described, "num_classes": _count_classes(weights, classifier)}
    _check_description(about, weights, where)
    try:
        model = build_model(about["num_classes"], **{**about["model"], "pretrained": False, "weights": None})
    except (KeyError, ValueError) as error:
        raise type(error)(f"{where}: {error.args[0]}") from error
    if described is not None:
        weights = {**{name: model.state_dict()[name] for name in classifier}, **weights}
    checkpoint.set_weights(model, weights, str(path))
    if described is not None:
        width_at(model, about["height"], about["width"], path)
    elif path.suffix == ".safetensors":
        require_hash(about, weights, path, content)
    return model.eval(), {**about, "weights": str(path), "weights_sha256": hashlib.sha256(content).hexdigest()}


def _check_description(about: Any, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """Refuse a description that is not one of these weights, before anything is built from it."""
    missing = [name for name in NEEDED if not isinstance(about, Mapping) or name not in about]
    if missing:
        raise ValueError(
            f"{where} does not say its {', '.join(missing)}: only files of dfrst train do; say what network it holds "
            "with --model NAME"
        )
    for name, expected in (NEEDED | MORE).items():
        if name in about:
            check(f"{where}: {name}", about[name], expected)
    config.checked({"model": about["model"]}, {"model": sections()["model"]}, str(where))
    data = about.get("config", {}).get("data", {})
    check(f"{where}: config.data", data, Mapping)
    check_normalisation(data.get("norm_mean"), data.get("norm_std"), f"{where}: config.data.")
    for name in ("height", "width"):
        within(f"{where}: {name}", about[name], lowest=1, highest=PIXELS)
    if not 1 <= about["num_classes"] <= max((value.shape[0] for value in weights.values() if value.dim()), default=0):
        raise ValueError(
            f"{where} says {about['num_classes']} identities, and no layer of the weights has as many rows: they are "
            "of another architecture or another run"
        )


def _count_classes(weights: Mapping[str, torch.Tensor], classifier: Mapping[str, tuple[int, int]]) -> int:
    """Identities that the classifier in a state dict tells apart; 2 without one."""
    for name, (two, more) in classifier.items():
        if name in weights and weights[name].dim():
            return 2 + (weights[name].shape[0] - two) // more
    return 2


def _classifier_tensors(model: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Names of a network's tensors that grow with the number of identities: rows for two, and for each one more."""
    two, three = (build_model(n, **{**model, "pretrained": False, "weights": None}).state_dict() for n in (2, 3))
    grown = {name: (len(value), len(three[name]) - len(value)) for name, value in two.items() if value.dim()}
    return {name: (rows, more) for name, (rows, more) in grown.items() if more}


def width_at(network: nn.Module, height: int, width: int, path: Path) -> int:
    """Numbers of an embedding of images of so many pixels; a ``ValueError`` where the network does not take them."""
    try:
        with torch.no_grad():
            return int(network.eval()(torch.zeros(1, 3, height, width)).shape[1])
    except RuntimeError as error:  # a network of torchreid's own has no words for it
        raise ValueError(f"{path.name} does not take {height} x {width} pixels: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Kind and first line of what a library raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__} {lines[0][:300] if lines else ''}".rstrip()
