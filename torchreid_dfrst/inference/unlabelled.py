"""Embeddings of images nobody has labelled: one image, a folder of crops, or a table ``path,camera,time``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torchreid_dfrst.data.boxes import warn_of_clipped
from torchreid_dfrst.data.csv_parquet import read_columns
from torchreid_dfrst.data.image_paths import ENDINGS
from torchreid_dfrst.data.images import Images
from torchreid_dfrst.data.loader import Loader
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.table import OPTIONAL, read_rows
from torchreid_dfrst.data.times import lacks_zone
from torchreid_dfrst.inference.extraction import describe_source, input_transform
from torchreid_dfrst.inference.opening import open_network
from torchreid_dfrst.names import says_unknown
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.training.embed_images import embed

logger = logging.getLogger(__name__)
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
    require: Callable[[dict[str, Any]], None] | None = None,
) -> Crops:
    """Images with their embeddings.

    Args:
        what: a features file, an image, a folder of images, or a table with ``path`` and, where known, ``camera``,
            ``time``, ``identity``, ``track`` and boxes.
        part: which images of a features file: ``query`` or ``gallery``.
        weights: the network, see ``open_network``; not for a features file.
        camera: the name of the camera of all images where ``what`` does not say.
        time_format: of the times of a table.
        workers: loading processes.
        bar: progress bar, such as ``tqdm.tqdm``.
        require: is told what makes the embeddings before any image is read, and may refuse it.

    Raises:
        OSError, ValueError: no such file, no image in the folder, one that cannot be read, or no network is named.
    """
    what = Path(what)
    if what.suffix == ".npz":
        if camera is not None or time_format is not None:
            raise ValueError(f"{what} is a features file, which names cameras and times itself: leave --camera out")
        held = Extraction.load(what)
        return Crops(getattr(held, part), held.source)
    if weights is None:
        raise ValueError(f"{what} is no features file: say with --weights which network embeds its images")
    seen = _sightings_of(what, time_format)
    if camera is not None:
        if (seen.camera_name != NOWHERE).any():
            raise ValueError(f"{what} names cameras itself: leave --camera out")
        seen = replace(seen, camera_name=np.full(len(seen), camera))
    model, about = open_network(weights)
    source = describe_source(about)
    if require is not None:
        require(source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    items = [(path, 0, 0, 0) for path in seen.path.tolist()]
    loader = Loader(Images(items, input_transform(about)), advice="or leave it out", batch_size=64, num_workers=workers)
    embedded = embed(model.to(device), loader, device, bar=bar)
    warn_of_clipped(loader.clipped)
    return Crops(Features(embedded.embedding, seen), source)


def _sightings_of(what: Path, time_format: str | None) -> Sightings:
    """The images of a folder or a table, or one image; without a table, neither cameras nor times are known."""
    if not what.is_dir() and what.suffix.lower() in TABLES:
        seen, _, _, _ = read_rows(what, None, ("path",), time_format, images=True)
        named = seen.camera_name != ""
        warn(f"{{count}} [image|images] of {what} [has|have] no camera", seen.path[~named] if named.any() else [])
        _tell_zone(what, time_format)
        return replace(seen, camera_name=np.where(named, seen.camera_name, NOWHERE))
    paths = [what]
    if what.is_dir():
        paths = sorted(path for path in what.rglob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            raise ValueError(
                f"{what} holds no image: a folder of {', '.join(sorted(ENDINGS)[:4])} ... or a table is needed"
            )
    camera = np.zeros(len(paths), dtype=np.int64)
    return Sightings(camera, path=np.array(list(map(str, paths))), camera_name=np.full(len(paths), NOWHERE))


def _tell_zone(table: Path, time_format: str | None) -> None:
    """Say so where the times of a table are dates without a zone; all of them are written in one way."""
    words = read_columns(table, ("path",), OPTIONAL).get("time", [])
    word = next((one for one in words if not says_unknown(one)), "")
    lacks = lacks_zone(word) if time_format is None else bool(word) and "%z" not in time_format
    if lacks:
        logger.warning("times of %s, such as %s, have no zone: taken as UTC", table, word)
