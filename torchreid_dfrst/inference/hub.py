"""A trained network as a folder to share, with a model card, and a network from such a folder, here or on the hub."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchreid_dfrst import files
from torchreid_dfrst.checks import listed
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.inference.opening import first_line, open_network
from torchreid_dfrst.models.backbones import BACKBONES

logger = logging.getLogger(__name__)

SCHEME, WEIGHTS, BESIDE = "hf://", "weights.safetensors", "weights.json"
UNKNOWN = "not stated"
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-nc-4.0")
"""Names of licences that the hub knows; any other is ``other``."""

README = """---
{terms}
library_name: torchreid-dfrst
pipeline_tag: image-feature-extraction
tags: [re-identification, vehicle]
---
# {name}

Embeddings for vehicle re-identification, of images of {height} x {width} pixels.

| | |
|---|---|
| network | {network} |
| backbone started from | {begun} |
| licence of those weights | {licence} |
| trained on | {sources}, {identities:,} identities |
| SHA-256 | `{sha256}` |

Weights follow the licences of what they were made from: the backbone's weights and the training images.

## Figures

{figures}

## Use

```
pip install 'torchreid-dfrst[{extras}]'
```

```python
from PIL import Image
from torchreid_dfrst.inference import from_pretrained, input_transform

# or a folder, without revision
network, about = from_pretrained("hf://OWNER/NAME", revision="COMMIT", sha256="{sha256}")
embedding = network(input_transform(about)(Image.open("car.jpg").convert("RGB"))[None])
```

No code is loaded from here.
"""


def write_folder(weights: str | Path, folder: str | Path, card: str | Path | None = None) -> list[Path]:
    """Write weights, their description and a ``README.md`` that says what they are into a folder.

    Weights are those that training exported, ``.safetensors`` with its ``.json`` beside it; figures come from ``card``.

    Raises:
        ValueError: the weights are not those that were exported, the card is of other weights, or a file of the folder
            is there already and differs.
        OSError: a file is missing or cannot be written.
    """
    weights, folder = Path(weights), Path(folder)
    if weights.suffix != ".safetensors":
        raise ValueError(f"{weights} is no {WEIGHTS}: training writes it, with a .json beside it, when it ends")
    _, about = open_network(weights)
    result = None if card is None else Card.load(card)
    if result is not None and result.content["source"].get("weights_sha256") != about["weights_sha256"]:
        raise ValueError(f"{card} is of other weights than {weights}: evaluate these, and give their card")
    found = {
        folder / WEIGHTS: weights.read_bytes(),
        folder / BESIDE: weights.with_suffix(".json").read_bytes(),
        folder / "README.md": model_card(about, result).encode(),
    }
    for path, content in found.items():
        if files.what_is(path) or (path.exists() and path.read_bytes() != content):
            raise ValueError(f"{path} is there already and holds something else: give another folder, or remove it")
    files.write(dict(found))
    return list(found)


def model_card(about: Mapping[str, Any], card: Card | None = None) -> str:
    """``README.md`` in the form of Hugging Face's hub, from what ``open_network`` says of weights, and their card."""
    start = about.get("backbone") or {}
    licence = start.get("licence") or UNKNOWN
    word = re.sub("[^a-z0-9.]+", "-", licence.lower())
    terms = [f"license: {word}"] if word in LICENCES else ["license: other", f"license_name: {word}"]
    model, data = about["model"], about.get("config", {}).get("data", {})
    sources = ", ".join(listed(data.get("sources"))) or UNKNOWN
    begun = start.get("file") or model.get("weights") or (UNKNOWN if model.get("pretrained", True) else "random values")
    options = ", ".join(
        f"{name} {value}" for name, value in model.items() if name not in ("name", "pretrained", "weights")
    )
    name, figures = model.get("name", "dfrst"), "Not measured." if card is None else f"```\n{card.table()}\n```"
    return README.format(
        terms="\n".join(terms),
        name=name,
        network=f"{name} ({options})" if options else name,
        height=about["height"],
        width=about["width"],
        begun=begun,
        licence=licence,
        sources=sources,
        identities=about["num_classes"],
        sha256=about["weights_sha256"],
        figures=figures,
        extras="hub" if model.get("backbone", "resnet50") in BACKBONES else "hub,timm",
    )


def from_pretrained(
    name: str | Path, revision: str | None = None, sha256: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A network from a folder that ``write_folder`` wrote, here or on Hugging Face's hub; no code is loaded from it.

    Args:
        name: folder, or ``hf://OWNER/NAME``.
        revision: commit on the hub; the newest without it, or that of a branch, is taken and said.
        sha256: of ``weights.safetensors``, which holds the hash of its ``.json``.

    Returns:
        See ``open_network``.

    Raises:
        ValueError: the name is none, the hash differs, or as ``open_network``.
        OSError: there is no such folder, or the hub cannot be reached or does not give it.
    """
    hub = str(name).startswith(SCHEME)
    if revision is not None and not hub:
        raise ValueError(f"revision {revision!r} of {name}, a folder here, which has none: pin it by sha256 instead")
    folder = _download(str(name), revision) if hub else Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {name}: give one with {WEIGHTS} in it, or {SCHEME}OWNER/NAME")
    network, about = open_network(folder / WEIGHTS)
    if sha256 is not None and about["weights_sha256"] != sha256.lower():
        raise ValueError(f"{WEIGHTS} of {name} has SHA-256 {about['weights_sha256']}, not {sha256}: it is another file")
    if sha256 is None or (hub and revision != folder.name):  # a branch is no pin
        pin = f"revision {folder.name!r}, " if hub else ""
        logger.warning("%s is not pinned; to get the same again: %ssha256 %r", name, pin, about["weights_sha256"])
    return network, about


def _download(name: str, revision: str | None) -> Path:
    """The folder in the hub client's cache; its name is the commit."""
    repository = name.removeprefix(SCHEME)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{name!r} is no {SCHEME}OWNER/NAME")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise OSError(f"{name} needs huggingface_hub: pip install 'torchreid-dfrst[hub]'")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS, BESIDE])
    except Exception as error:  # the client's own, of several libraries
        do = "accept its licence on its page and log in" if "Gated" in type(error).__name__ else "see name and network"
        raise OSError(f"{name} could not be had ({first_line(error)}): {do}") from error
    return Path(found)
