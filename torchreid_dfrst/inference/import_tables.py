"""Names of arrays and columns as other programs give them, and tables of embeddings: which columns are its numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.data.csv_parquet import named_columns, open_parquet, read_cells, words_of
from torchreid_dfrst.data.numbers import number, numbers
from torchreid_dfrst.messages import sample

logger = logging.getLogger(__name__)

ROLES = {
    "embedding": "embedding emb feature feat f vector",
    "path": "path imageid imgid imgpath impath imagepath image img name imgname imagename filename file filepath fname "
    "imagefile key",
    "identity": "identity identitie pid id label vehicle vehicleid vid personid target",
    "camera": "camera cam camid cameraid",
    "index": "index idx indice indexlevel0 row",
}
"""What an array may be, and the names it then has, without marks, capital letters and the s of a plural."""
MEANING = {word: role for role, words in ROLES.items() for word in words.split()}
OTHERS = frozenset("time timestamp datetime track split frame isquery isgallery sequence category weight score".split())
"""Columns that are never numbers of an embedding, and are not used."""
PARTS = {"query": "query", "probe": "query", "q": "query", "gallery": "gallery", "g": "gallery", "train": "train"}
OTHER_ORDER = (
    "rows of {} are not in the order of their numbers, the column {}: save them in the order of the table, or their "
    "paths with them"
)


def meaning(name: str) -> tuple[str, str]:
    """Part and role that the name of an array tells, each empty where it does not; ``qf`` is query and embedding."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if not name.strip() or words[:1] == ["unnamed"]:  # a frame's index, as pandas saves and reads it
        return "", "index"
    part = ""
    for place in (0, -1):
        if words and words[place] in PARTS and not part:
            part = PARTS[words.pop(place)]
    role = "".join(words)
    glued = re.fullmatch(r"(query|gallery|train|q|g)(\w+)", role)
    if glued and not part and _role_of_column(glued[2]):
        part, role = PARTS[glued[1]], glued[2]
    if part and not role:
        return part, "embedding"
    return part, "" if role == "f" and not part else _role_of_column(role)


def _role_of_column(word: str) -> str:
    plain = word.removesuffix("s")
    return MEANING.get(plain, MEANING.get(word, word if word in OTHERS or plain in OTHERS else ""))


def read_frame(path: Path) -> dict[str, Any]:
    """Embeddings in a CSV or Parquet file under ``embedding``, and the columns beside them."""
    if path.suffix.lower() == ".parquet":
        frame = open_parquet(path)
        columns: dict[str, Any] = {}
        for name in frame.column_names:
            column = frame.column(name)
            plain = re.search(r"^(u?int|float|double|half|bool)", str(column.type))
            lists = re.search(r"list", str(column.type))
            columns[name] = column.to_numpy() if plain else column.to_pylist() if lists else words_of(column)
        return _embedding_of_frame(columns, path)
    rows = read_cells(path, "embeddings")
    if not rows:
        raise ValueError(f"{path} is empty")
    header = rows[:1] if _is_header(rows[0]) else []
    rows = rows[len(header) :]
    if not rows:
        raise ValueError(f"{path} has a header but no row of numbers")
    return _embedding_of_frame(named_columns(header, rows, path), path, bool(header))


def _is_header(words: Sequence[str]) -> bool:
    """Names, or the numbers 0, 1, 2, ... that a data frame gives its columns."""
    given = [number(word) for word in words]
    counted = [value for value in given if value is not None]
    in_order = counted == [*range(len(counted))] or counted == [*range(1, len(counted) + 1)]
    return None in given if not counted else in_order and len(words) > 1


def _embedding_of_frame(columns: Mapping[str, Any], path: Path, header: bool = True) -> dict[str, Any]:
    """The columns of a table that are numbers of the embedding as one array, the others beside it."""
    beside: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for name, column in columns.items():
        role = meaning(name)[1] if header else ""
        if role in ("path", "identity", "camera", "index") or role in OTHERS:
            beside[name] = column
        elif isinstance(column, np.ndarray):
            parts[name] = column
        elif not isinstance(column[0], str) or column[0].startswith("["):
            others = {other: words for other, words in columns.items() if other != name}
            return {**others, "embedding": _embedding_of_lists(column, path)}
        elif any(number(word) is not None for word in column):
            parts[name] = column
        else:
            beside[name] = column
    if not parts:
        raise ValueError(f"{path} has no column of numbers among {sample(columns, 8)}")
    array = all(isinstance(column, np.ndarray) for column in parts.values())
    values = np.stack([*parts.values()], axis=1) if array else numbers(parts.values(), path, "numbers")
    names = list(parts)
    of_rows = [k for k, column in enumerate(values.T) if counts_rows(column)]
    for k in of_rows:
        if (np.diff(values[:, k]) < 0).any():
            raise ValueError(OTHER_ORDER.format(path, repr(names[k]) if header else k + 1))
    if of_rows and len(names) > len(of_rows):
        called = sample(repr(names[k]) if header else f"number {k + 1}" for k in of_rows)
        logger.warning("%s: the column %s counts the rows and is no part of the embedding", path, called)
    kept = [k for k in range(len(names)) if k not in of_rows]
    _refuse_odd_columns([names[k] for k in kept], path)
    return {**beside, "embedding": values[:, kept]}


def counts_rows(column: np.ndarray) -> bool:
    """Whether numbers are those of the rows: whole, one after another from any start, in whatever order."""
    values = [number(word) for word in column.tolist()] if column.dtype.kind == "U" else column
    if column.dtype.kind not in "iufU" or len(column) < 3 or any(value is None for value in values):
        return False
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return bool(ordered[0] == np.round(ordered[0]) and (np.diff(ordered) == 1).all())


def _refuse_odd_columns(names: Sequence[str], path: Path) -> None:
    """Columns such as f0, f1, ... are the embedding; what stands among them under another name may be anything."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"\d+$", "", name) if re.search(r"\d$", name) else name, []).append(name)
    main, largest = max(families.items(), key=lambda item: len(item[1]))
    odd = [name for name in names if name not in set(largest)]
    if len(largest) > 2 and len(largest) > len(odd) and odd:
        raise ValueError(
            f"{path} has the columns {main}0, {main}1, ... and {sample(map(repr, odd))}: is that one of the embedding? "
            "Remove it, or name it as the others"
        )


def _embedding_of_lists(column: Sequence[Any], path: Path) -> np.ndarray:
    """A column whose cells are lists of numbers, also as text."""
    rows = [re.split(r"[\s,;]+", c.strip("[]() \n")) if isinstance(c, str) else c for c in column]
    values = [[number(v) if isinstance(v, str) else v for v in row or ()] for row in rows]
    bad = [f"row {k}" for k, row in enumerate(values, 1) if None in row or len(row) != len(values[0])]
    if bad:
        raise ValueError(f"{path} has lists that are cut short or of other lengths: {sample(bad)}; save all numbers")
    return np.array(values, dtype=np.float64)
