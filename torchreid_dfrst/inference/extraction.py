"""Features of a data set from a trained network, and the images as the network wants them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchreid
from PIL import Image

from torchreid_dfrst.checks import listed
from torchreid_dfrst.data.boxes import warn_of_clipped
from torchreid_dfrst.data.images import Change, Item
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.evaluation import HELD_OUT, TRAINED_ON
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.torchreid_tables import make_dataset
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.memory import EXTRACTION, explained
from torchreid_dfrst.version import __version__

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation that torchreid takes where a configuration names none."""
NO_TRAINING: dict[str, Any] = {
    "transforms": None,
    "batch_size_train": 1,
    "num_instances": 1,
    "train_sampler": "RandomSampler",
}


@explained(EXTRACTION)
def extract(
    path: str | Path,
    root: str,
    name: str,
    *,
    train: bool = False,
    batch_size: int = 64,
    workers: int = 2,
    precision: str = "fp32",
    on_bad_image: str = "error",
    contaminate: Change | None = None,
    options: Mapping[str, Any] | None = None,
    described: Mapping[str, Any] | None = None,
    bar: Callable[..., Any] | None = None,
) -> tuple[Extraction, list[str]]:
    """Features of a data set's query and gallery, with everything that scoring them needs.

    Args:
        path: see ``open_network``, and so is ``described``.
        root: folder of the data sets.
        name: a data set registered with torchreid.
        train: embed training images too, for choices that are made on training identities: those held out of
            training (``data.validation_identities``), or all where the network was trained on all.
        batch_size: images per forward pass.
        workers: loading processes.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        on_bad_image: ``error`` stops at a file that cannot be read, ``skip`` leaves it out.
        contaminate: damages query and gallery images, not training images; ``source`` keeps its attributes.
        options: of the data set, see ``DataManager``.
        described: of a file that does not say what it holds.
        bar: progress bar, such as ``tqdm.tqdm``.

    Returns:
        The extraction, and the paths of images left out.

    Raises:
        OSError, KeyError, ValueError: memory ran out, or as ``open_network`` and ``DataManager`` raise them.
    """
    model, about = open_network(path, described)
    data = DataManager(
        root=root,
        sources=name,
        targets=name,
        **_input(about),
        **NO_TRAINING,
        batch_size_test=batch_size,
        workers=workers,
        on_bad_image=on_bad_image,
        options=options,
    )
    device = torch.device("cuda" if data.use_gpu else "cpu")
    model.to(device)
    skipped: list[str] = []

    def see(items: Sequence[Item], sightings: Sightings, change: Change | None = None) -> Features:
        loader = data.loader(items, change)
        embedded = embed(model, loader, device, precision, bar=bar)
        skipped.extend(sorted(loader.skipped))
        warn_of_clipped(loader.clipped)
        row = {image: number for number, image in enumerate(sightings.path.tolist())}
        return Features(embedded.embedding, sightings[np.array([row[image] for image in embedded.path.tolist()])])

    dataset = data.test_sets[name]
    items, known = _for_choices(dataset.train, name, about)
    sightings = _sightings_of(dataset)
    extraction = Extraction(
        query=see(dataset.query, sightings["query"], contaminate),
        gallery=see(dataset.gallery, sightings["gallery"], contaminate),
        train=sightings["train"] if len(sightings["train"]) else None,
        train_features=see(items, sightings["train"]) if train and len(items) else None,
        network=getattr(dataset, "network", None),
        source={
            "data": name,
            "options": dict(options or {}),
            **describe_source(about),
            "precision": precision,
            "train_features": known if train else None,
            "skipped_images": len(skipped),
            "contamination": None if contaminate is None else dict(vars(contaminate)),
            "version": __version__,
        },
    )
    return extraction, skipped


def open_dataset(
    name: str, root: str | Path, options: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Sightings]]:
    """A data set registered with torchreid, and who was seen where and when in its ``train``, ``query``, ``gallery``.

    Raises:
        FileNotFoundError, KeyError, ValueError: as the data set and torchreid raise them.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = make_dataset(name, str(root), **(options or {}))
    return dataset, _sightings_of(dataset)


def _for_choices(items: Sequence[Item], name: str, about: Mapping[str, Any]) -> tuple[Sequence[Item], str | None]:
    """The training images fit to make choices on, and whether the network was trained on their identities."""
    held = set(about.get("held_out", ()))
    identities = {item[1] for item in items if Path(item[0]).name in held}
    if identities:
        return [item for item in items if item[1] in identities], HELD_OUT
    sources = about.get("config", {}).get("data", {}).get("sources")
    return items, TRAINED_ON if name in listed(sources) else None


def input_transform(about: Mapping[str, Any]) -> Callable[[Image.Image], torch.Tensor]:
    """Torchreid's test-time transform for a network that ``open_network`` tells of: resize, tensor, normalisation."""
    with contextlib.redirect_stdout(io.StringIO()):
        return torchreid.data.transforms.build_transforms(**_input(about), transforms=None)[1]


def _input(about: Mapping[str, Any]) -> dict[str, Any]:
    """Size of the images that a network was trained with, and mean and deviation where they are not ImageNet's."""
    data = about.get("config", {}).get("data", {})
    given = {name: data.get(name) for name in ("norm_mean", "norm_std")}
    # torchreid leaves one without the other unread
    return {"height": about["height"], "width": about["width"], **({} if None in given.values() else given)}


def input_normalisation(about: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and deviation of red, green and blue in [0, 1] that a network's images are normalised with."""
    given = _input(about)
    return list(given.get("norm_mean", IMAGENET[0])), list(given.get("norm_std", IMAGENET[1]))


def describe_source(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a features file says of the network that made it."""
    return {
        "network": about["model"],
        "input": [about["height"], about["width"]],
        "weights": Path(about["weights"]).name,
        "weights_sha256": about["weights_sha256"],
        "epoch": about.get("epoch"),
    }


def _sightings_of(dataset: Any) -> dict[str, Sightings]:
    """Those of a data set of ours; of torchreid's own, without times."""
    found: dict[str, Sightings] = getattr(dataset, "sightings", None) or {}
    for part in () if found else ("train", "query", "gallery"):
        rows = getattr(dataset, part)
        camera, identity = (np.array([row[column] for row in rows], dtype=np.int64) for column in (2, 1))
        found[part] = Sightings(camera, identity=identity, path=np.array([row[0] for row in rows], dtype=np.str_))
    return found
