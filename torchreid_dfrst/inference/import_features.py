"""Embeddings of any other program as our ``Extraction``: a table or a data set says whose they are."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.copies import refuse_copies
from torchreid_dfrst.data.dataset import report_unknown
from torchreid_dfrst.data.image_paths import find, tell
from torchreid_dfrst.data.manager import share_options
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.table import Table, read_distances, read_rows
from torchreid_dfrst.evaluation.leaks import check_leaks, digests_of_embeddings
from torchreid_dfrst.files import require_file
from torchreid_dfrst.inference.extraction import open_dataset
from torchreid_dfrst.inference.import_arrays import ImportedPart, read_embeddings
from torchreid_dfrst.messages import numbered, sample
from torchreid_dfrst.names import is_unknown, plain
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings
from torchreid_dfrst.torchreid_tables import require_datasets

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery")


class Lists(NamedTuple):
    """Whose embeddings there can be: every image of a table or a data set, in its order."""

    sightings: Sightings
    split: np.ndarray
    words: list[str]
    """Paths as the lists write them."""
    network: CameraNetwork | None
    called: str
    """The table or the data set, for messages."""
    table: bool


def import_features(
    embeddings: str | Path,
    table: str | Path | None = None,
    data: str = "table",
    model: str | None = None,
    cameras: str | None = None,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Extraction:
    """Put embeddings and the sightings they belong to together.

    Rows are found by their paths, see ``image_paths.find``. Only where nothing names them, row k belongs to row k of
    the table, or of its query and gallery rows if training images were left out; of a data set, to train, query and
    gallery one after another. ``source["rows"]`` says which.

    Args:
        embeddings: see ``read_embeddings``.
        table: ``path,identity,camera,time,split[,track]`` as CSV or Parquet, distances beside it; see docs/data.md.
        data: name of the data set, which decides the default protocol and stands on the card.
        model: what made them, for the card.
        cameras: of a table, ``"none"`` where nobody knows the cameras.
        root: in place of a table, the folder of the data set ``data``, whose lists are read.
        options: of the data set; of a table, ``time_format``.

    Raises:
        FileNotFoundError, KeyError: a file is missing; no data set or option of this name.
        ValueError: the embeddings cannot be read, hold code, NaN or infinity, do not fit the table or contradict it.
    """
    require_datasets([data])
    if (table is None) == (root is None):
        raise ValueError("give either --table TABLE, or --root DIR with the --data NAME of the data set in it")
    if data == "table" and root is not None:
        table, root = Table.find(root), None
    embeddings = Path(embeddings)
    options = {**(options or {}), **({"cameras": cameras} if cameras else {})}
    lists = _lists_of_table(Path(table), options) if table is not None else _lists_of_dataset(data, str(root), options)
    for name in ("query", "gallery"):
        if not (lists.split == name).any():
            raise ValueError(f"{lists.called} has no row of the split {name}: query and gallery are needed for scoring")
    parts = read_embeddings(embeddings)
    widths = {part.part: part.values.shape[1] for part in parts}
    if len(set(widths.values())) > 1:
        raise ValueError(f"{embeddings} holds embeddings of other widths: {widths}; all must be of one network")
    where = np.full(len(lists.split), -1)
    for part, before in zip(parts, np.cumsum([0, *(len(part.values) for part in parts)]).tolist(), strict=False):
        rows = np.flatnonzero(lists.split == part.part) if part.part else np.arange(len(where))
        place = (_rows_by_name if part.names else _rows_in_order)(part, rows, lists, embeddings)
        _refuse_contradictions(part, rows, place, lists, embeddings)
        where[rows] = np.where(place >= 0, place + before, -1)
    _require_test(parts, where, lists, embeddings)
    values = np.concatenate([part.values for part in parts])
    seen, test = lists.sightings, lists.split != "train"
    report_unknown({name: seen[lists.split == name] for name in SPLITS})
    if lists.table:
        refuse_copies(seen[lists.split == "query"], seen[lists.split == "gallery"])
    found = {name: (lists.split == name) & (where >= 0) & (seen.known | test) for name in SPLITS}
    features = {
        name: Features.of(f"{name} of {embeddings}", values[where[rows]], seen[rows]) for name, rows in found.items()
    }
    _refuse_zeros(features, embeddings)
    _warn_of_equal(features["query"], features["gallery"])
    train = seen[~test & seen.known]
    if lost := len(train) - len(features["train"]):
        logger.info(numbered("{count} of %d training images [has|have] no embedding", lost), len(train))
    order = f"rows taken in the order of {lists.called if table is None else Path(table).name}"
    ordered = "rows found by name" if all(part.names for part in parts) else order
    source = {"data": data, "network": model, "imported_from": embeddings.name, "rows": ordered, "options": options}
    known = features["train"] if len(features["train"]) else None
    extraction = Extraction(
        features["query"], features["gallery"], train if len(train) else None, known, lists.network, source
    )
    check_leaks(extraction, refuse=False)
    return extraction


def _lists_of_table(table: Path, options: Mapping[str, Any]) -> Lists:
    share_options(options, ["table"])
    sightings, split, words, called = read_rows(table, **options)
    network = None if options.get("cameras") else read_distances(table.parent, called)
    return Lists(sightings, split, words, network, str(table), True)


def _lists_of_dataset(name: str, root: str, options: Mapping[str, Any]) -> Lists:
    share_options(options, [name])
    if name in DATASETS:
        splits = DATASETS[name].splits_at(root, **options)
        parts, network = splits.parts(), splits.network
    else:
        parts, network = open_dataset(name, root, options)[1], None
    sightings = Sightings.concatenate([parts[split] for split in SPLITS])
    split = np.repeat(SPLITS, [len(parts[split]) for split in SPLITS])
    paths = sightings.path.tolist()
    inside = os.path.commonpath(paths) + os.sep if all(map(os.path.isabs, paths)) else ""
    words = [path.removeprefix(inside) for path in paths]
    return Lists(sightings, split, words, network, f"the lists of {name} (train, query, gallery)", False)


def _rows_in_order(part: ImportedPart, rows: np.ndarray, lists: Lists, embeddings: Path) -> np.ndarray:
    """For each row, its embedding, where nothing but their order says which."""
    count, test = len(part.values), lists.split[rows] != "train"
    if not part.part and count == test.sum():
        splits = lists.split[rows][test].tolist()
        if splits != sorted(splits, reverse=True):
            logger.warning("%s has not its query rows first: embeddings are taken in its order", lists.called)
        return np.where(test, np.cumsum(test) - 1, -1)
    if count == len(rows):
        return np.arange(count)
    kind, tests = (f" of {part.part}", "") if part.part else ("", f", {test.sum()} of them of query and gallery")
    raise ValueError(
        f"{embeddings} holds {count} embeddings{kind}, but {lists.called} has {len(rows)} rows{kind}{tests}: give one "
        "per row, in the order of the table, or their paths with them"
    )


def _rows_by_name(part: ImportedPart, rows: np.ndarray, lists: Lists, embeddings: Path) -> np.ndarray:
    """For each row, its embedding by the name of its image, -1 where there is none."""
    names, values = part.names or [], part.values
    first = {name: len(names) - 1 - k for k, name in enumerate(reversed(names))}
    # VeRi's query images are in the gallery too; two batches may differ in the last bits
    ones = values[[first[name] for name in names]].astype(np.float64)
    far = np.linalg.norm(values - ones, axis=1) > 1e-3 * np.linalg.norm(ones, axis=1)
    twice = sorted({names[number] for number in np.flatnonzero(far)})
    if twice:
        stand = numbered("{count} [image stands|images stand]", len(twice))
        raise ValueError(f"{stand} in {embeddings} with different embeddings: {sample(twice)}")
    photo = _photographs(lists, rows)
    words = [lists.words[row] for row in rows]
    match = find(words, names, str(embeddings), lambda a, b: photo(a) is not None and photo(a) == photo(b))
    if not embeddings.is_dir():  # whose files have names without folder and ending, as documented
        tell(match, lists.called)
    place = match.row.copy()
    lost = {_file_name(words[k]): k for k in np.flatnonzero(place < 0).tolist()}
    shared = {photo(k): place[k] for k in np.flatnonzero(place >= 0).tolist() if _file_name(words[k]) in lost}
    for k in np.flatnonzero(place < 0).tolist() if shared else ():
        place[k] = -1 if photo(k) is None else shared.get(photo(k), -1)
    unused = len(first) - len(set(place[place >= 0].tolist()))
    if unused and (place >= 0).any():
        text = numbered("{count} of %d embeddings [belongs|belong] to no row of %s", unused)
        logger.warning(text, len(first), lists.called)
    return place


def _photographs(lists: Lists, rows: np.ndarray) -> Callable[[int], tuple[Any, ...] | None]:
    """A function from a place in ``rows`` to what is the same of two rows of one photograph; None where unknown.

    Name without folders, vehicle, camera and time; where times are not known, the bytes of the file.
    """
    seen = lists.sightings

    @functools.cache
    def photo(place: int) -> tuple[Any, ...] | None:
        row = rows[place]
        key = (_file_name(lists.words[row]), int(seen.identity[row]), int(seen.camera[row]))
        if seen.identity[row] == UNKNOWN:
            return None
        if not np.isnan(seen.time_s[row]):
            return (*key, float(seen.time_s[row]))
        try:
            file = split_name(str(seen.path[row]))[0]
            require_file(file, file)
            return (*key, hashlib.sha256(Path(file).read_bytes()).digest())
        except (OSError, ValueError):
            return None

    return photo


def _file_name(word: str) -> str:
    """A path without its folders, with its box."""
    return word.replace("\\", "/").rpartition("/")[2]


def _require_test(parts: Sequence[ImportedPart], where: np.ndarray, lists: Lists, embeddings: Path) -> None:
    lost = {name: np.flatnonzero((lists.split == name) & (where < 0)) for name in ("query", "gallery")}
    if not any(map(len, lost.values())):
        return
    names = [name for part in parts for name in part.names or ()]
    has = sample(names) if names else ", ".join(part.part for part in parts) + " only"
    counts = [f"{len(rows):,} of {(lists.split == name).sum():,} {name}" for name, rows in lost.items() if len(rows)]
    words = [lists.words[row] for rows in lost.values() for row in rows]
    raise ValueError(
        f"{' and '.join(counts)} images of {lists.called} have no embedding in {embeddings}: {sample(words)}; it has "
        f"{has}"
    )


def _refuse_contradictions(
    part: ImportedPart, rows: np.ndarray, place: np.ndarray, lists: Lists, embeddings: Path
) -> None:
    """Identities and cameras beside the embeddings must be those of the lists, or others for them one to one."""
    seen = lists.sightings
    for what, said, label, name in (
        ("identity", part.identity, seen.identity, seen.vehicle_name),
        ("camera", part.camera, seen.camera, seen.camera_name),
    ):
        if said is None:
            continue
        there = np.flatnonzero(place >= 0).tolist()
        pairs = [(plain(said[place[k]]), plain(str(name[rows[k]]) or str(label[rows[k]])), k) for k in there]
        pairs = [pair for pair in pairs if not is_unknown(pair[0]) and not is_unknown(pair[1])]
        ours = {own for _, own, _ in pairs}
        # numbers of a toolbox may be others; taken in order, the same numbers must be in the same rows
        strict = part.names is None and {other for other, *_ in pairs} <= ours
        first: dict[tuple[str, str], tuple[str, int]] = {}
        for other, own, k in pairs:
            if strict:
                wrong = k if other != own else None
            else:
                kept = [first.setdefault(("theirs", other), (own, k)), first.setdefault(("ours", own), (other, k))]
                wrong = next((at for (value, at), now in zip(kept, (own, other), strict=True) if value != now), None)
            if wrong is None:
                continue
            row = rows[k]
            also = f", and row {place[wrong] + 1} {said[place[wrong]]!r} for {_said(lists, rows[wrong], name, label)}"
            raise ValueError(
                f"{embeddings} contradicts {lists.called}: its row {place[k] + 1} has {what} {said[place[k]]!r} for "
                f"{_said(lists, row, name, label)}{'' if strict else also}; save the paths with the embeddings, or "
                f"take out the wrong {what}"
            )


def _said(lists: Lists, row: int, name: np.ndarray, label: np.ndarray) -> str:
    of = f"row {row + 2}, " if lists.table else ""
    return f"{of}{lists.words[row]}, which has {str(name[row]) or str(label[row])!r}"


def _refuse_zeros(features: Mapping[str, Features], embeddings: Path) -> None:
    for part in ("query", "gallery"):
        zero = ~features[part].embedding.any(axis=1)
        if zero.any():
            raise ValueError(
                f"{zero.sum()} of {len(features[part])} {part} embeddings of {embeddings} are zero and have no "
                f"direction: {sample(features[part].sightings.path[zero])}; leave those images out"
            )


def _warn_of_equal(query: Features, gallery: Features) -> None:
    """Log queries whose embedding stands in the gallery, bit for bit, under another camera or vehicle.

    Not an error: hashes and the like of two photographs may be equal, and only the images could prove it.
    """
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests_of_embeddings(gallery)):
        rows.setdefault(digest, []).append(row)
    asked, shown, found = query.sightings, gallery.sightings, []
    for row, digest in enumerate(digests_of_embeddings(query)):
        near = np.array(rows.get(digest, []), dtype=np.int64)
        other = asked.known[row] & shown.known[near] & (shown.identity[near] != asked.identity[row])
        for place in near[(shown.camera[near] != asked.camera[row]) | other][:1].tolist():
            found.append(f"{asked.path[row]} = {shown.path[place]}")
    text = "{count} [query has|queries have] the embedding of a gallery image of another camera or vehicle, bit for bit"
    warn(f"{text}; if they are one photograph, it finds itself", found)
