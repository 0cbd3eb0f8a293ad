"""Embeddings with their sightings, and the one file that scoring needs once the images have been seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.files import DAMAGED, file_digest
from torchreid_dfrst.messages import numbered, sample, short
from torchreid_dfrst.sightings import CameraNetwork, Sightings

FORMAT = "torchreid_dfrst features 1"
EMBEDDED = ("query", "gallery", "train_features")
TABLES: dict[str, type[Any]] = {**dict.fromkeys((*EMBEDDED, "train"), Sightings), "network": CameraNetwork}
NEW = ("camera_name", "vehicle_name", "names", "kind")  # columns that files of earlier versions lack
KNOWN = {"format", "source", *(f"{part}/embedding" for part in EMBEDDED)}
KNOWN |= {f"{part}/{column.name}" for part, kind in TABLES.items() for column in fields(kind)}
MAKE = "make it with `dfrst extract`, or from embeddings of another toolbox with `dfrst import`"


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings, row for row with their sightings.

    Args:
        embedding: ``(N, D)`` float32, finite, as the model gives them (not normalised).
        sightings: the N images.

    Raises:
        ValueError: another shape or dtype, another number of rows, NaN or infinite values (the rows are named).
    """

    embedding: np.ndarray
    sightings: Sightings

    def __post_init__(self) -> None:
        """Check shape, dtype, length and values."""
        embedding = np.asarray(self.embedding)
        if embedding.ndim != 2 or not np.issubdtype(embedding.dtype, np.floating):
            raise ValueError(
                f"embedding has shape {embedding.shape} and dtype {embedding.dtype}, expected (N, D) floating point"
            )
        if len(embedding) != len(self.sightings):
            rows = numbered("{count} [embedding|embeddings]", len(embedding))
            seen = numbered("{count} [sighting|sightings]", len(self.sightings))
            raise ValueError(f"{rows} but {seen}: one of each per image")
        embedding = np.ascontiguousarray(embedding, dtype=np.float32)
        # a sum is finite only where every term is, and costs no (N, D) mask
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~np.isfinite(embedding.sum(axis=1, dtype=np.float64)))
        if len(bad):
            names = sample((self.sightings.path[row] or f"row {row}" for row in bad), 5)
            raise ValueError(
                f"{len(bad)} of {len(embedding)} embeddings hold NaN or infinity (first: {names}): "
                "the model diverged or the image is broken"
            )
        object.__setattr__(self, "embedding", embedding)

    @classmethod
    def of(cls, part: str, embedding: np.ndarray, sightings: Sightings) -> Features:
        """The same with the name of the part in errors."""
        try:
            return cls(embedding, sightings)
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from error

    def __len__(self) -> int:
        """Number of images."""
        return len(self.embedding)

    def __getitem__(self, index: Any) -> Features:
        """The rows that a slice, an integer array or a boolean mask selects."""
        return Features(self.embedding[index], self.sightings[index])


@dataclass(frozen=True, eq=False)
class Extraction:
    """Everything that scoring needs: sweeps over weights and parameters never touch an image again.

    Args:
        query: features of the query images.
        gallery: features of the gallery images, of the same dimension.
        train: sightings of the *training* images, on which space and time are fitted; None if there are none.
        train_features: features of (some) training images, for choices made on training identities; None if not
            extracted.
        network: road distances; None if the data set has none.
        source: what made the features (model, weights, data set, image size, versions), JSON types only.
        file: where it was read from, for messages; not saved.

    Raises:
        ValueError: query and gallery differ in dimension.
    """

    query: Features
    gallery: Features
    train: Sightings | None = None
    train_features: Features | None = None
    network: CameraNetwork | None = None
    source: dict[str, Any] = field(default_factory=dict)
    file: str = ""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        wide, other = self.query.embedding.shape[1], self.gallery.embedding.shape[1]
        if wide != other:
            raise ValueError(f"query embeddings have {wide} dimensions, gallery {other}: extract both with one model")

    def save(self, path: str | Path) -> None:
        """Write one ``.npz`` without pickle; the file appears whole or not at all.

        Raises:
            ValueError: the name does not end in ``.npz``.
            OSError: the disk is full or the folder cannot be written; an earlier file stays.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"{path} does not end in .npz, as files of features do")
        columns: dict[str, np.ndarray] = {"format": np.array(FORMAT), "source": np.array(json.dumps(self.source))}
        for name in TABLES:
            table = getattr(self, name)
            if isinstance(table, Features):
                columns[f"{name}/embedding"], table = table.embedding, table.sightings
            if table is not None:
                columns |= {
                    f"{name}/{column.name}": np.asarray(getattr(table, column.name)) for column in fields(table)
                }
        size = sum(column.nbytes for column in columns.values())
        files.write({Path(path): lambda file: np.savez(file, **columns)}, size=size)  # type: ignore[arg-type]

    @property
    def called(self) -> str:
        """What messages call it: its data set and its file, as far as they are known."""
        return " in ".join(str(name) for name in (self.source.get("data"), self.file) if name) or "these features"

    @property
    def summary(self) -> str:
        """How much there is to score, such as ``1,678 queries, 11,579 gallery images``."""
        queries = numbered("{count} [query|queries]", len(self.query))
        return f"{queries}, {numbered('{count} gallery [image|images]', len(self.gallery))}"

    @classmethod
    def load(cls, path: str | Path) -> Extraction:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not one of ours; a pickle inside it is refused, never run. Or its arrays would fill
                more than ``files.read_arrays`` allows; other arrays than ours are not unpacked.
        """
        files.require_file(path, f"no features at {path}: {MAKE}")
        there: list[str] = []

        def wanted(name: str) -> bool:
            there.append(name)
            return name in KNOWN

        try:
            columns = files.read_arrays(path, wanted)
            if str(columns.get("format")) != FORMAT:
                raise ValueError(f"its arrays: {', '.join(sorted(there)[:5]) or 'none'}")
            source = json.loads(str(columns["source"]))
            if not isinstance(source, dict):
                raise ValueError("its source is no names and values")
        except (*DAMAGED, RecursionError) as error:
            raise ValueError(f"{path} is not a features file of this package ({short(error)}): {MAKE}") from error
        kinds = {name.partition("/")[0] for name in columns}
        try:
            parts: dict[str, Any] = {}
            for name, kind in TABLES.items():
                if name in kinds or name in ("query", "gallery"):
                    table = _columns_to_table(kind, name, columns)
                    embedded = name in EMBEDDED
                    parts[name] = Features.of(name, columns[f"{name}/embedding"], table) if embedded else table
            return cls(**parts, source=source, file=str(path))
        except KeyError as error:
            raise ValueError(f"{path} lacks the array {error}: make it again with `dfrst extract`") from error
        except DAMAGED as error:
            raise ValueError(f"{path}: {short(error)}") from error


def network_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """What decides whether embeddings may be compared: network, weights and input size, of ``Extraction.source``."""
    return {name: source.get(name) for name in ("network", "weights_sha256", "input")}


def _columns_to_table(kind: type[Any], name: str, columns: dict[str, np.ndarray]) -> Any:
    keys = {column.name: f"{name}/{column.name}" for column in fields(kind)}
    return kind(**{column: columns[key] for column, key in keys.items() if column not in NEW or key in columns})


def require_weights(path: str | Path, source: Mapping[str, Any]) -> None:
    """Refuse a file of weights that is not there, or not the one that features were made with.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is another one.
    """
    files.require_file(path, f"no weights at {path}")
    if file_digest(Path(path)) != source.get("weights_sha256"):
        raise ValueError(f"{path} is not the network that made these features: pass the one that did")
