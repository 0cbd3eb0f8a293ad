"""Embeddings of any other program as our ``Extraction``: files without code, and a table that says whose they are."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_dfrst.checks import nearest, numbered
from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.copies import refuse_copies
from torchreid_dfrst.data.dataset import report_unknown
from torchreid_dfrst.data.table import read_distances, read_rows
from torchreid_dfrst.data.text import read_text, sample, warn
from torchreid_dfrst.files import DAMAGED
from torchreid_dfrst.models.weights import read_safely
from torchreid_dfrst.retrieval import Extraction, Features

logger = logging.getLogger(__name__)


def import_features(
    embeddings: str | Path,
    table: str | Path,
    data: str = "table",
    model: str | None = None,
    cameras: str | None = None,
) -> Extraction:
    """Put embeddings and the sightings they belong to together.

    Args:
        embeddings: see ``read_embeddings``. With paths, they are matched to the table's; without, row k belongs to row
            k of the table, or to row k of its query and gallery rows if training images were left out.
        table: ``path,identity,camera,time,split[,track]`` as CSV or Parquet, distances beside it; see docs/data.md.
            Images that are there are compared as ``copies.refuse_copies`` does.
        data: name of the data set, which decides the default protocol and stands on the card.
        model: what made them, for the card.
        cameras: ``"none"`` where nobody knows the cameras, see ``Table``.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: the embeddings cannot be read, hold code, NaN or infinity, or do not fit the table.
    """
    embeddings, table = Path(embeddings), Path(table)
    sightings, split, words, called = read_rows(table, cameras)
    test = split != "train"
    for part in ("query", "gallery"):
        if not (split == part).any():
            raise ValueError(f"{table} has no row of the split {part}: query and gallery are needed for scoring")
    values, names = read_embeddings(embeddings)
    where = np.arange(len(split))
    if names is not None:
        where = _matched(names, values, words, test, embeddings, table)
    elif len(values) == test.sum():
        where = np.where(test, np.cumsum(test) - 1, -1)
    elif len(values) != len(split):
        raise ValueError(
            f"{embeddings} holds {len(values)} embeddings, but {table} has {len(split)} rows, {test.sum()} of them of "
            "query and gallery: give one per row, in the order of the table, or their paths with them"
        )
    report_unknown({part: sightings[split == part] for part in ("train", "query", "gallery")})
    refuse_copies(sightings[split == "query"], sightings[split == "gallery"])
    features = {
        part: Features(values[where[rows]], sightings[rows])
        for part in ("train", "query", "gallery")
        for rows in [(split == part) & (where >= 0) & (sightings.known | test)]
    }
    _warn_of_equal(features["query"], features["gallery"])
    train = sightings[(split == "train") & sightings.known]
    if len(features["train"]) < len(train):
        text = numbered("{count} of %d training images [has|have] no embedding", len(train) - len(features["train"]))
        logger.info(text, len(train))
    return Extraction(
        features["query"],
        features["gallery"],
        train if len(train) else None,
        features["train"] if len(features["train"]) else None,
        None if cameras else read_distances(table.parent, called),
        {
            "data": data,
            "options": {"cameras": cameras} if cameras else {},
            "network": model,
            "imported_from": embeddings.name,
        },
    )


def _warn_of_equal(query: Features, gallery: Features) -> None:
    """Log queries whose embedding stands in the gallery, bit for bit, under another camera or vehicle.

    Not an error: hashes and the like of two photographs may be equal, and only the images could prove it.
    """
    rows: dict[bytes, list[int]] = {}
    for row, values in enumerate(gallery.embedding):
        rows.setdefault(_digest(values), []).append(row)
    asked, shown, found = query.sightings, gallery.sightings, []
    for row, values in enumerate(query.embedding):
        near = np.array(rows.get(_digest(values), []), dtype=np.int64)
        other = asked.known[row] & shown.known[near] & (shown.identity[near] != asked.identity[row])
        for place in near[(shown.camera[near] != asked.camera[row]) | other][:1].tolist():
            found.append(f"{asked.path[row]} = {shown.path[place]}")
    text = "{count} [query has|queries have] the embedding of a gallery image of another camera or vehicle, bit for bit"
    warn(f"{text}; if they are one photograph, it finds itself", found)


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def read_embeddings(path: str | Path) -> tuple[np.ndarray, list[str] | None]:
    """Embeddings of a file, and the paths of their images if it holds any.

    Nothing in the file is ever run: pickled objects are refused.

    Args:
        path: one of
            ``.npy``: ``(N, D)``; a folder of them: one ``(D,)`` or ``(1, D)`` each, named as the image;
            ``.npz``: one such array, and, optional, ``path``, N words;
            ``.pt``, ``.pth``: a tensor, or a dict of one and, optional, a list ``path``; read with ``weights_only``;
            ``.csv``: N rows of D numbers; with a header, the column ``path`` is optional.

    Returns:
        ``(N, D)`` floating point as in the file, and N paths or None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, damaged, pickled objects inside, or not one two-dimensional array of numbers.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no embeddings at {path}")
    read = _folder if path.is_dir() else READERS.get(path.suffix)
    if read is None:
        raise ValueError(f"{path} ends in {path.suffix!r}: .npy, .npz, .pt, .csv or a folder of .npy can be read")
    held = read(path)
    return _pick(held if isinstance(held, Mapping) else {"embedding": held}, path)


def _numpy(path: Path) -> Any:
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held
        with held:
            return {name: held[name] for name in held.files}
    except DAMAGED as error:
        raise ValueError(
            f"{path} is torn, or holds pickled objects, which are refused and not run ({error}): save plain numbers"
        ) from error


def _folder(path: Path) -> dict[str, Any]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise ValueError(f"{path} holds no .npy file: one per image is expected, named as the image")
    rows = [np.ravel(_numpy(file)) for file in files]
    odd = [f"{file.name} has {len(row)}" for file, row in zip(files, rows, strict=True) if len(row) != len(rows[0])]
    if odd:
        raise ValueError(f"{files[0]} has {len(rows[0])} numbers, but {sample(odd)}: all must be of one network")
    return {"embedding": np.stack(rows), "path": [file.stem for file in files]}


def _csv(path: Path) -> dict[str, Any]:
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path, "embeddings"))) if any(w.strip() for w in row)]
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    header = [word.strip() for word in rows.pop(0)] if None in map(_number, rows[0]) else []
    if not rows:
        raise ValueError(f"{path} has a header but no row of numbers")
    width = len(header or rows[0])
    odd = [f"row {number} has {len(row)}" for number, row in enumerate(rows, 1) if len(row) != width]
    if odd:
        raise ValueError(f"{path} has {width} columns, but {sample(odd)}")
    named = "path" in header
    names = [row.pop(header.index("path")).strip() for row in rows] if named else None
    values = [[_number(word) for word in row] for row in rows]
    bad = [
        f"{word!r} in row {number}"
        for number, (words, row) in enumerate(zip(rows, values, strict=True), 1)
        for word, value in zip(words, row, strict=True)
        if value is None
    ]
    if bad:
        hint = nearest("path", header) if header and not named else ""
        raise ValueError(f"{path} holds {sample(bad)}: numbers are expected, but for a column named path{hint}")
    return {"embedding": np.array(values).reshape(len(rows), -1), "path": names}


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _numpy, ".npz": _numpy, ".pt": read_safely, ".pth": read_safely, ".csv": _csv,
}  # fmt: skip
"""Ending to what reads it: an array, or a dict of one and, optional, ``path``."""


def _pick(held: Mapping[str, Any], path: Path) -> tuple[np.ndarray, list[str] | None]:
    """The one matrix among what a file holds, and its paths."""
    arrays = {str(k): _array(v) for k, v in held.items() if isinstance(v, torch.Tensor | np.ndarray | np.generic)}
    names = held.get("path")
    matrices = [values for name, values in arrays.items() if name != "path" and values.ndim == 2]
    if len(matrices) != 1:
        shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items()) or "none"
        raise ValueError(f"{path} must hold one (N, D) array of embeddings; its arrays: {shapes}")
    [values] = matrices
    if not np.issubdtype(values.dtype, np.floating) or not values.size:
        raise ValueError(
            f"{path} holds an array of shape {values.shape} and type {values.dtype}: (N, D) floating point is expected"
        )
    if names is None:
        return values, None
    listed = [str(name) for name in (names.tolist() if isinstance(names, np.ndarray) else names)]
    if len(listed) != len(values):
        raise ValueError(f"{path} holds {len(values)} embeddings but {len(listed)} paths: one of each per image")
    return values, listed


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        # NumPy has no bfloat16
        value = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
    return np.asarray(value)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _matched(
    names: list[str], values: np.ndarray, words: list[str], test: np.ndarray, embeddings: Path, table: Path
) -> np.ndarray:
    """For each row of the table, the row of its embedding, -1 where there is none (training images only)."""
    row = {name: len(names) - 1 - k for k, name in enumerate(reversed(names))}  # the first of those that come twice
    # VeRi's query images are in the gallery too; two batches may differ in the last bits
    first = values[[row[name] for name in names]].astype(np.float64)
    far = np.linalg.norm(values - first, axis=1) > 1e-3 * np.linalg.norm(first, axis=1)
    twice = sorted({names[number] for number in np.flatnonzero(far)})
    if twice:
        stand = numbered("{count} [image stands|images stand]", len(twice))
        raise ValueError(f"{stand} in {embeddings} with different embeddings: {sample(twice)}")
    # a folder of .npy has bare names without endings
    stems = Counter(Path(split_name(word)[0]).stem for word in set(words))
    files = Counter(split_name(word)[0] for word in set(words))

    def place(word: str) -> int:
        """By the name with its box, or else by a shorter one that no other image of the table has."""
        file, stem = split_name(word)[0], Path(split_name(word)[0]).stem
        shorter = [name for name, count in ((file, files[file]), (stem, stems[stem])) if count == 1]
        return next((row[name] for name in (word, *shorter) if name in row), -1)

    where = np.array([place(word) for word in words], dtype=np.int64)
    lost = [word for word, place, needed in zip(words, where, test, strict=True) if needed and place < 0]
    if lost:
        raise ValueError(
            numbered(f"{{count}} query or gallery [image|images] of {table} [has|have] no embedding in ", len(lost))
            + f"{embeddings}: {sample(lost)}; it has {sample(names)}"
        )
    unused = len(row) - len(set(where[where >= 0].tolist()))
    if unused:
        logger.warning(numbered("{count} of %d embeddings [belongs|belong] to no row of %s", unused), len(row), table)
    return where
