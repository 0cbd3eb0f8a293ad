"""Embeddings of images nobody has labelled: one image, a folder of crops, or a table ``path,camera,time``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torchreid_dfrst.data.boxes import warn_of_clipped
from torchreid_dfrst.data.image_paths import ENDINGS
from torchreid_dfrst.data.images import Images
from torchreid_dfrst.data.loader import Loader
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.inference.extraction import describe_source, input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.training.embed_images import embed

NOWHERE = "unknown"
"""The camera of images whose camera nobody says."""
TABLES = (".csv", ".tsv", ".txt", ".parquet")


class Crops(NamedTuple):
    """Images that were embedded, or came with their embeddings."""

    features: Features
    source: dict[str, Any]
    """What made the embeddings, see ``Extraction.source``."""


def read_crops(
    what: str | Path,
    part: str,
    weights: str | Path | None = None,
    camera: str | None = None,
    time_format: str | None = None,
    workers: int = 0,
    bar: Callable[..., Any] | None = None,
) -> Crops:
    """Images with their embeddings.

    Args:
        what: a features file, an image, a folder of images, or a table with ``path`` and, where known, ``camera``,
            ``time``, ``identity``, ``track`` and boxes.
        part: which images of a features file: ``query`` or ``gallery``.
        weights: the network, see ``open_network``; not for a features file.
        camera: the name of the camera of all images where ``what`` does not say.
        time_format: of the times of a table, see ``data.times``.
        workers: loading processes.
        bar: progress bar, such as ``tqdm.tqdm``.

    Raises:
        FileNotFoundError, ValueError: there is no such file, no image in the folder, an image cannot be read, or the
            network is missing.
    """
    what = Path(what)
    if what.suffix == ".npz":
        held = Extraction.load(what)
        return Crops(getattr(held, part), held.source)
    if weights is None:
        raise ValueError(f"{what} is no features file: say with --weights which network embeds its images")
    seen = sightings_of(what, time_format)
    if camera is not None:
        if (seen.camera_name != NOWHERE).any():
            raise ValueError(f"{what} names cameras itself: leave --camera out")
        seen = replace(seen, camera_name=np.full(len(seen), camera))
    model, about = open_network(weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    items = [(path, 0, 0, 0) for path in seen.path.tolist()]
    loader = Loader(Images(items, input_transform(about)), advice="or leave it out", batch_size=64, num_workers=workers)
    embedded = embed(model.to(device), loader, device, bar=bar)
    warn_of_clipped(loader.clipped)
    return Crops(Features(embedded.embedding, seen), describe_source(about))


def sightings_of(what: Path, time_format: str | None = None) -> Sightings:
    """The images of a folder or a table, or one image; without a table, neither cameras nor times are known."""
    if what.is_dir():
        files = sorted(p for p in what.rglob("*") if p.suffix.lower() in ENDINGS)
        if not files:
            raise ValueError(
                f"{what} holds no image: a folder of {', '.join(sorted(ENDINGS)[:4])} ... or a table is needed"
            )
        return _sightings_without_cameras([str(path) for path in files])
    if what.suffix.lower() in TABLES:
        seen, _, _, _ = read_rows(what, None, ("path",), time_format, images=True)
        named = seen.camera_name != ""
        warn(f"{{count}} [image|images] of {what} [has|have] no camera", seen.path[~named] if named.any() else [])
        return replace(seen, camera_name=np.where(named, seen.camera_name, NOWHERE))
    return _sightings_without_cameras([str(what)])


def _sightings_without_cameras(paths: list[str]) -> Sightings:
    names = np.full(len(paths), NOWHERE)
    return Sightings(np.zeros(len(paths), dtype=np.int64), path=np.array(paths), camera_name=names)
