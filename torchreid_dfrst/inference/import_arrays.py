"""Files of embeddings as other programs write them: which array holds them, and what names their rows."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torchreid_dfrst.data.numbers import number
from torchreid_dfrst.data.text import kind_of, read_text
from torchreid_dfrst.files import DAMAGED, read_arrays, require_file, require_room
from torchreid_dfrst.inference.import_tables import OTHER_ORDER, counts_rows, meaning, read_frame
from torchreid_dfrst.messages import sample
from torchreid_dfrst.models.weights import read_safely

logger = logging.getLogger(__name__)


class ImportedPart(NamedTuple):
    """Embeddings of another program, of a part of a data set or of all of it."""

    part: str
    """``query``, ``gallery`` or ``train``; empty if the file does not say."""
    values: np.ndarray
    """``(N, D)`` floating point, as in the file."""
    names: list[str] | None = None
    """Of the images, row for row."""
    identity: list[str] | None = None
    camera: list[str] | None = None


def read_embeddings(path: str | Path) -> list[ImportedPart]:
    """Embeddings of a file, and what names their rows if it says so.

    Nothing in the file is ever run: pickled objects are refused.

    Args:
        path: one of
            ``.npy``: ``(N, D)``; a folder of them, subfolders too: one ``(D,)`` or ``(1, D)`` each, named as the image;
            ``.npz``, ``.pt``, ``.pth``, ``.h5``, ``.mat``, ``.json``, ``.jsonl``: such an array, or a dict of arrays
            and lists: of one and what names its rows, of a part each (``query_f``, ``gallery_f``), or of paths and
            vectors;
            ``.csv``, ``.tsv``, ``.txt``, ``.parquet``: a column per number, or one of lists, and columns of names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, damaged, pickled objects inside, or not one two-dimensional array of numbers.
    """
    path = Path(path)
    if not path.is_dir():
        require_file(path, f"no embeddings at {path}")
    ending = path.suffix.lower()
    if not path.is_dir() and ending in (".pkl", ".pickle", ".joblib"):
        raise ValueError(
            f"{path} is a pickle, which can run anything and is refused: in the program that made it, save "
            "np.savez('e.npz', embedding=values, path=paths), or frame.to_parquet('e.parquet')"
        )
    read = _read_folder if path.is_dir() else READERS.get(ending)
    if read is None:
        raise ValueError(f"{path} ends in {path.suffix!r}: {', '.join(READERS)} or a folder of .npy can be read")
    return _parts_of_arrays(read(path), path)


def _read_numpy(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(4096)
    if head and kind_of(head) == "text":
        raise ValueError(f"{path} is text, no array of NumPy: save it with np.save, or call it .csv")
    try:
        return read_arrays(path) if path.suffix == ".npz" else np.load(path, allow_pickle=False)
    except DAMAGED as error:
        said = str(error).partition(". ")[0]
        raise ValueError(
            f"{path} is torn, or holds pickled objects, which are refused and not run ({said}): save plain numbers"
        ) from error


def _read_folder(path: Path) -> dict[str, Any]:
    files = sorted(path.rglob("*.npy"))
    if not files:
        raise ValueError(f"{path} is a folder without .npy files: one per image is expected, named as the image")
    arrays = [np.asarray(_read_numpy(file)) for file in files]
    shapes = [(file, array.shape) for file, array in zip(files, arrays, strict=True)]
    whole = [f"{file} {shape}" for file, shape in shapes if math.prod(shape) > max(shape, default=1)]
    if whole:
        raise ValueError(
            f"a folder holds one .npy of (D,) numbers per image, but {sample(whole)}: give that file itself"
        )
    rows = list(map(np.ravel, arrays))
    odd = [f"{file.name} has {len(row)}" for file, row in zip(files, rows, strict=True) if len(row) != len(rows[0])]
    if odd:
        raise ValueError(f"{files[0]} has {len(rows[0])} numbers, but {sample(odd)}: all must be of one network")
    return {"embedding": np.stack(rows), "path": [f.relative_to(path).as_posix().removesuffix(".npy") for f in files]}


def _read_matlab(path: Path) -> dict[str, Any]:
    import scipy.io

    try:
        # of a compressed array the header alone is unpacked here
        require_room(8 * sum(math.prod(shape) for _, shape, _ in scipy.io.whosmat(path)), path.stat().st_size)
        held = scipy.io.loadmat(path)
    except NotImplementedError:
        # MATLAB's 7.3 is HDF5 with the axes in the reverse order
        return {name: value.T if isinstance(value, np.ndarray) else value for name, value in _read_hdf5(path).items()}
    except (*DAMAGED, scipy.io.matlab.MatReadError) as error:
        raise ValueError(f"{path} is not a whole .mat file ({error})") from error
    found = {}
    for name, value in held.items():
        if name.startswith("__"):
            continue
        if value.dtype == object:  # cells
            value = np.array(["".join(map(str, np.ravel(cell))) for cell in np.ravel(value)])
        # vectors of MATLAB have a row
        found[name] = np.char.rstrip(np.ravel(value)) if value.dtype.kind == "U" else value
        if value.ndim == 2 and 1 in value.shape and value.dtype.kind in "iu":
            found[name] = np.ravel(value)
    return found


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path} needs h5py to be read: pip install h5py, or save the embeddings as .npz") from error
    found: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            sets: dict[str, Any] = {}
            file.visititems(lambda name, item: sets.update({name: item} if isinstance(item, h5py.Dataset) else {}))
            require_room(sum(item.nbytes for item in sets.values()), path.stat().st_size)
            for name, item in sets.items():
                text = h5py.check_string_dtype(item.dtype)
                found[name] = np.asarray(item.asstr()[()] if text else item[()])
    except DAMAGED as error:
        raise ValueError(f"{path} is not a whole HDF5 file ({error})") from error
    return found


def _read_json(path: Path) -> Any:
    text = read_text(path, "embeddings")
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        # an object in each line is the other common form
        many = len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines)
        held = [json.loads(line) for line in lines] if many else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    return held if isinstance(held, dict | list) else {}


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _read_numpy, ".npz": _read_numpy, ".pt": read_safely, ".pth": read_safely, ".csv": read_frame,
    ".tsv": read_frame, ".txt": read_frame, ".parquet": read_frame, ".h5": _read_hdf5, ".hdf5": _read_hdf5,
    ".mat": _read_matlab, ".json": _read_json, ".jsonl": _read_json,
}  # fmt: skip
"""Ending to what reads it: an array, a list, or a dict of them."""


def _parts_of_arrays(held: Any, path: Path) -> list[ImportedPart]:
    """What a file holds, in parts."""
    arrays = {name: array for name, value in _flat_arrays(held) if (array := _as_array(value, name, path)) is not None}
    arrays = _vectors_by_path(arrays)
    matrices: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        part, role = meaning(name)
        if array.ndim > 2 and set(array.shape[2:]) == {1}:
            array = array.reshape(array.shape[:2])
        if array.ndim == 2 and array.dtype.kind in "fiucb" and role not in ("path", "identity", "camera", "index"):
            matrices.setdefault(part, {})[name] = array
    if "" in matrices and len(matrices) > 1 and not any(meaning(name)[1] == "embedding" for name in matrices[""]):
        del matrices[""]
    found, used = [], set()
    for part, ones in matrices.items():
        main = {name: array for name, array in ones.items() if meaning(name)[1] == "embedding"}
        ones = main if len(main) == 1 else ones
        if len(ones) != 1 or (part and "" in matrices):
            break
        [(name, values)] = ones.items()
        if not np.issubdtype(values.dtype, np.floating) or not values.size:
            advice = "; of quantised embeddings, save what the numbers stand for as float32" if values.size else ""
            raise ValueError(
                f"{path} holds an array of shape {values.shape} and type {values.dtype}: (N, D) floating point is "
                f"expected{advice}"
            )
        _refuse_labels(values, path)
        made, names = _described_part(part, values, {n: a for n, a in arrays.items() if n != name}, path)
        found.append(made)
        used |= {name, *names}
    if not matrices or len(found) != len(matrices):
        shapes = sample([f"{name} {array.shape}" for name, array in arrays.items()], 8) or "none"
        raise ValueError(f"{path} must hold one (N, D) array of embeddings, or one of each part; its arrays: {shapes}")
    unused = [name for name, array in arrays.items() if name not in used and array.ndim]
    images = [name for name in unused if _names_images(arrays[name])]
    if images and not any(part.names for part in found):
        raise ValueError(
            f"{path} holds names of images in {sample(images)}, but not whose they are: save them as path, or beside "
            "query_f and gallery_f as query_path and gallery_path"
        )
    if unused:
        logger.warning("not used of %s: %s", path, sample(unused, 8))
    return found


def _names_images(array: np.ndarray) -> bool:
    return array.dtype.kind == "U" and all(re.search(r"\.(jpe?g|png|bmp|webp|tiff?)$", n.lower()) for n in array.flat)


def _flat_arrays(held: Any, inside: str | None = None, depth: int = 0) -> list[tuple[str, Any]]:
    """Names and values of what a file holds; what lies in a dict in a dict is called ``outer/inner``."""
    if isinstance(held, Mapping) and depth < 4:
        names = ((str(key) if inside is None else f"{inside}/{key}", value) for key, value in held.items())
        return [pair for name, value in names for pair in _flat_arrays(value, name, depth + 1)]
    if not depth and isinstance(held, list | tuple) and held:
        if all(isinstance(row, Mapping) and row.keys() == held[0].keys() for row in held):
            return [(str(key), [row[key] for row in held]) for key in held[0]]
        if all(isinstance(row, list | tuple) and len(row) == 2 and isinstance(row[0], str) for row in held):
            return [(name, value) for name, value in held]
        if any(isinstance(row, list | tuple) and row and isinstance(row[0], str) for row in held):
            return [(f"part {number}", row) for number, row in enumerate(held, 1)]
    return [("embedding" if inside is None else inside, held)]


def _as_array(value: Any, name: str, path: Path) -> np.ndarray | None:
    """A tensor, an array or a list as an array; None for what is none."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{path} holds a sparse or quantised tensor {name!r}: save {name}.to_dense().float()")
        # NumPy has no bfloat16
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path} holds {name!r} expanded, one number for many: save {name}.clone()")
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, list | tuple) and value:
        if all(isinstance(word, str) for word in value):
            return np.array(value, dtype=np.str_)
        rows = [np.array(row) if isinstance(row, int | float) else _as_array(row, name, path) for row in value]
        arrays = [row for row in rows if row is not None]
        if len(arrays) < len(rows):
            return None
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"{path} holds a list {name!r} of vectors of other shapes: {sample(sorted(shapes))}")
        return np.stack(arrays)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(word, str) for word in array.flat):
            return array.astype(np.str_)
        return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    return None


def _vectors_by_path(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A dict of paths and vectors as one of an array and its paths; any other as it is."""
    ends = {name.rpartition("/")[2] for name in arrays}
    if len(ends) == 1 and len(arrays) > 1 and meaning(*ends)[1] == "embedding":
        arrays = {name.rpartition("/")[0]: array for name, array in arrays.items()}
    vectors = {
        name: np.ravel(a) for name, a in arrays.items() if a.dtype.kind == "f" and a.size == max(a.shape, default=0)
    }
    paths = [n for n in vectors if re.search(r"\.[A-Za-z]{3,4}$", n) or (re.search(r"[/\\]", n) and not meaning(n)[1])]
    sizes = {len(vector) for vector in vectors.values()}
    enough = paths or (len(vectors) > 2 and not any(meaning(name)[1] for name in vectors))
    if len(vectors) < len(arrays) or not enough or len(sizes) != 1 or sizes == {1}:
        return arrays
    return {"embedding": np.stack([*vectors.values()]), "path": np.array([*vectors])}


def _described_part(
    part: str, values: np.ndarray, arrays: Mapping[str, np.ndarray], path: Path
) -> tuple[ImportedPart, list[str]]:
    """Embeddings with what the other arrays say of their rows, and the names of those."""
    mine = {
        name: np.ravel(array)
        for name, array in arrays.items()
        if meaning(name)[0] == part and array.ndim in (1, 2) and array.size == max(array.shape)
    }
    roles: dict[str, list[str]] = {}
    for name, array in mine.items():
        role = meaning(name)[1]
        if array.dtype.kind == "U" and role in ("", "embedding", "index") and None in map(number, array.tolist()):
            role = "words"
        roles.setdefault(role, []).append(name)
    texts = [name for name in roles.get("path", []) if mine[name].dtype.kind in "Uiu"] or roles.get("words", [])
    if len(texts) > 1:
        raise ValueError(f"{path} has several lists of names, {sample(texts)}: keep the one of the images, as path")
    # a number of its own for each row names the row, whatever it is called
    own = [name for name in (*roles.get("", []), *roles.get("identity", [])) if counts_rows(mine[name])]
    roles["identity"] = [
        name for name in roles.get("identity", []) if name not in own or name.lower() not in ("id", "ids")
    ]
    if not texts:
        _refuse_other_order(mine, [*roles.get("index", []), *(n for n in own if n not in roles["identity"])], path)
    columns = {"names": texts, "identity": roles.get("identity", [])[:1], "camera": roles.get("camera", [])[:1]}
    said = {what: [_as_text(value) for value in mine[name].tolist()] for what, ones in columns.items() for name in ones}
    for what, words in said.items():
        if len(words) != len(values):
            plural = "paths" if what == "names" else f"values of {what}"
            raise ValueError(f"{path} holds {len(values)} embeddings but {len(words)} {plural}: one of each per image")
    return ImportedPart(part, values, **said), [*itertools.chain(*columns.values(), roles.get("index", []))]


def _refuse_labels(values: np.ndarray, path: Path) -> None:
    """A column of whole numbers among columns of fractions is a label or a count, not a part of the embedding."""
    whole = (values == np.round(values)).all(axis=0) & (np.ptp(values, axis=0) > 1)
    if whole.sum() == 1 and values.shape[1] > 2 and len(values) > 2:
        raise ValueError(
            f"number {int(np.argmax(whole)) + 1} of each embedding of {path} is whole, and no other is: remove it if "
            "it is a label or a count"
        )


def _refuse_other_order(mine: Mapping[str, np.ndarray], index: Sequence[str], path: Path) -> None:
    """Numbers of the rows that do not rise mean that the rows were sorted in another way."""
    for name in index:
        counted = [value for word in mine[name].tolist() if (value := number(str(word))) is not None]
        if counted != sorted(counted):
            raise ValueError(OTHER_ORDER.format(path, repr(name)))


def _as_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
