"""Columns of a CSV or Parquet file as words, however it was saved: commas, semicolons or tabs, frames of others."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.data.text import read_text
from torchreid_dfrst.files import require_file, require_room
from torchreid_dfrst.messages import nearest, sample

logger = logging.getLogger(__name__)

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
FRAME = {"label", "path", "split", "is_query", "is_gallery"}
"""Columns of Open Metric Learning's data frame."""
TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


def read_columns(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Columns of a CSV or Parquet file as text without surrounding blanks.

    A frame of Open Metric Learning becomes ``identity`` and ``split``; ``Path`` is ``path`` where that is ``needed``
    (with at least one row) or ``optional``.

    Raises:
        FileNotFoundError, ValueError: there is none; a column is missing or stands twice, or rows differ in length.
    """
    if path.suffix == ".parquet":
        table = open_parquet(path)
        columns = {name: words_of(table.column(name)) for name in table.column_names}
    else:
        rows = read_cells(path, "table")
        if not rows and needed:
            raise ValueError(f"{path} is empty: a header with {', '.join(needed)} and a row per image are expected")
        if needed and not set(needed).intersection(map(str.lower, rows[0])) and len(set(rows[0])) < len(rows[0]):
            raise ValueError(f"{path} begins with {sample(rows[0])}: a header with {', '.join(needed)} is needed")
        columns = named_columns(rows[:1], rows[1:], path)
    columns = {_known(name, (*needed, *optional), columns): column for name, column in columns.items()}
    if FRAME <= set(columns) and not {"identity"} & set(columns):
        columns = _from_frame(columns, path)
    lost = [f"{name!r}{nearest(name, columns)}" for name in needed if name not in columns]
    if lost:
        raise ValueError(f"{path} has no column {' and none '.join(lost)}: {', '.join(needed)} are needed")
    if needed and not columns[needed[0]]:
        raise ValueError(f"{path} has a header but no row")
    return columns


def read_cells(path: Path, what: str) -> list[list[str]]:
    """Rows of a text file of values, without blank rows; what separates them is told by the first row."""
    text = read_text(path, what)
    first = next(filter(str.strip, text.split("\n")), "")
    told = re.fullmatch(r"sep=(.)", first.strip(), re.IGNORECASE)  # a spreadsheet's word to itself
    mark = told[1] if told else separator(first)
    text = text.replace(first, "", 1) if told else text
    if mark != ",":
        logger.warning("values of %s are separated by %s", path, SEPARATORS.get(mark, "blanks"))
    if mark == " ":
        return [line.split() for line in text.split("\n") if line.strip()]
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV ({error}): save it with commas and without NUL bytes") from error
    return [[word.strip() for word in row] for row in rows if any(word.strip() for word in row)]


def separator(line: str) -> str:
    """What is between the values of a line: a tab, ";" or "|" where all commas can be decimal, blanks, or a comma."""
    bare = re.sub(r'"[^"]*"', "", line)
    for mark in ("\t", ";", "|"):
        if mark in bare.strip(" ") and "," not in re.sub(r"(?<=\d),(?=\d)", ".", bare):
            return mark
    words = line.split()
    number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf", re.ASCII)
    return " " if len(words) > 1 and all(map(number.fullmatch, words)) else ","


def named_columns(header: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], path: Path) -> dict[str, list[str]]:
    """Rows by the names of their header, of which there is one row or none."""
    names = list(header[0]) if header else [str(k) for k in range(len(rows[0]) if rows else 0)]
    twice = [repr(name) if not name else name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{path} has more than one column of the name {sample(twice)}: rename or remove the others")
    first = len(header) + 1
    wrong = [f"row {number} has {len(row)}" for number, row in enumerate(rows, first) if len(row) != len(names)]
    if wrong:
        raise ValueError(f"{len(wrong)} rows of {path} have not {len(names)} values as its first row: {sample(wrong)}")
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}


def open_parquet(path: Path) -> Any:
    """Pyarrow's table in a Parquet file; a ``ValueError`` if it holds too much (``files.require_room``)."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow to be read: pip install pyarrow, or save the table as CSV") from error
    require_file(path, f"no file {path}")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        about, own = file.metadata, path.stat().st_size
        kinds = [about.schema.column(k) for k in range(about.num_columns)]
        groups = [about.row_group(k) for k in range(about.num_row_groups)]
        sizes = ((group.column(k), max(8, kind.length)) for group in groups for k, kind in enumerate(kinds))
        require_room(sum(max(part.num_values * width, part.total_uncompressed_size) for part, width in sizes), own)
        # a text that stands in all rows is kept once until its room is known
        texts = [kind.path for kind in kinds if kind.physical_type == "BYTE_ARRAY"]
        table = pyarrow.parquet.read_table(path, read_dictionary=texts)
        require_room(sum(_bytes_written_out(chunk) for column in table.columns for chunk in column.chunks), own)
        return table.cast(file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0][:200]})") from error


def _bytes_written_out(chunk: Any) -> int:
    """Bytes of an Arrow array whose texts are kept once, if each stood where it belongs."""
    import pyarrow.compute

    if pyarrow.types.is_struct(chunk.type):
        return sum(map(_bytes_written_out, chunk.flatten()))
    if pyarrow.types.is_map(chunk.type):
        return _bytes_written_out(chunk.keys) + _bytes_written_out(chunk.items)
    if pyarrow.types.is_nested(chunk.type):
        return _bytes_written_out(chunk.flatten())
    if not pyarrow.types.is_dictionary(chunk.type):
        return chunk.nbytes
    lengths = pyarrow.compute.binary_length(chunk.dictionary).cast(pyarrow.int64())
    return pyarrow.compute.sum(lengths.take(chunk.indices)).as_py() or 0


def words_of(column: Any) -> list[str]:
    """A column of a Parquet file as words: times as ISO 8601, durations as seconds."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_duration(kind):
        numbers = column.cast(pyarrow.int64()).to_pylist()
        if pyarrow.types.is_duration(kind):
            digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[kind.unit]
            return ["" if n is None else str(n / 10**digits) for n in numbers]
        # of a time with a zone, Arrow keeps the moment in UTC
        moments = np.array(["NaT" if n is None else n for n in numbers], dtype=f"datetime64[{kind.unit}]")
        zone = "Z" if kind.tz else ""
        return ["" if word == "NaT" else word + zone for word in np.datetime_as_string(moments).tolist()]
    words = (
        "" if v is None else v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in column.to_pylist()
    )
    return [word.strip() for word in words]


def _known(name: str, asked: Sequence[str], columns: Mapping[str, Any]) -> str:
    """A name that is asked for and that a header writes in another case."""
    lower = name.lower()
    alone = lower not in columns and sum(other.lower() == lower for other in columns) == 1
    return lower if lower in asked and alone else name


def _from_frame(columns: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    """Open Metric Learning's frame in our names; an image that is query and gallery becomes a row of each."""
    rows = []
    for k, split in enumerate(columns["split"]):
        asked = [TRUE.get(columns[name][k].lower()) for name in ("is_query", "is_gallery")]
        parts = [part for part, yes in zip(("query", "gallery"), asked, strict=True) if yes]
        if split == "train":
            parts = ["train"]
        elif None in asked or split != "validation" or not parts:
            raise ValueError(
                f"row {k + 2} of {path} has split {split!r}, is_query {columns['is_query'][k]!r} and is_gallery "
                f"{columns['is_gallery'][k]!r}: such a frame has train, or validation with a true one"
            )
        rows += [(k, part) for part in parts]
    names = {"label": "identity"}
    kept = {
        names.get(name, name): [column[k] for k, _ in rows]
        for name, column in columns.items()
        if name not in ("split", "is_query", "is_gallery")
    }
    return {**kept, "split": [part for _, part in rows]}
