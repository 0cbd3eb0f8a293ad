"""Any data set from one table: ``path,identity,camera,time,split[,track]``."""

from __future__ import annotations

import csv
import difflib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from torchreid_dfrst.checks import nearest
from torchreid_dfrst.data.dataset import Splits, VehicleDataset
from torchreid_dfrst.data.text import Problems, metres, read_text, sample, time_parser
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings

COLUMNS = ("path", "identity", "camera", "split")
OPTIONAL = ("time", "track")
SPLITS = ("train", "query", "gallery")
logger = logging.getLogger(__name__)


class Table(VehicleDataset):
    """Your own data set in ``table.csv`` or ``table.parquet``.

    Columns: ``path`` (relative to the table), ``identity``, ``camera`` (any words), ``split`` (train, query or
    gallery), and, optional, ``time`` (seconds, or a date and time such as 2026-05-01 16:00:00; empty if unknown) and
    ``track``. Beside it, optional, either ``distances.csv`` (a header line of cameras, then their road distances in
    metres, rows in the order of the header) or ``cameras.csv`` (``camera,x,y`` in metres: straight lines).

    Args:
        root: the table, or the folder that holds it.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: a column is missing (the nearest name is given), a value does not parse, a row stands twice, or a
            camera has no distance.
    """

    marker = ("table.csv", "table.parquet")
    advice = "Write path,identity,camera,time,split[,track] into table.csv; see docs/data.md."

    @classmethod
    def find(cls, root: str | Path, marker: Sequence[str] = ()) -> Path:
        """The table."""
        place = Path(root).expanduser().absolute()
        if place.is_file():
            return place
        return next(filter(Path.is_file, map(super().find(place).joinpath, cls.marker)))

    @classmethod
    def read(cls, path: Path) -> Splits:
        """Read a table and the distances beside it."""
        problems = Problems()
        table = problems.attempt(read_table, path)
        network = problems.attempt(read_distances, path.parent, table[1] if table else [])
        problems.raise_all()
        parts = table[0]
        return Splits(parts["train"], parts["query"], parts["gallery"], network)


def read_table(path: Path) -> tuple[dict[str, Sightings], list[str]]:
    """Sightings of each split, and the name of each camera label; errors as ``Table`` has them."""
    everyone, split, _, cameras = read_rows(path)
    return {name: everyone[split == name] for name in SPLITS}, cameras


def read_rows(path: Path) -> tuple[Sightings, np.ndarray, list[str], list[str]]:
    """Rows of a table in their order.

    Returns:
        all sightings, ``(N,)`` names of their splits, their paths as written, and the name of each camera label.

    Raises:
        FileNotFoundError, ValueError: as ``Table`` has them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}: {Table.advice}")
    columns = read_columns(path, COLUMNS)
    _warn_of_misspelt(columns, path)
    count = len(columns["path"])
    problems, rows = Problems(), f"{{count}} [row|rows] of {path} [has|have]"
    bad = [f"row {row + 2}: {name!r}" for row, name in enumerate(columns["split"]) if name and name not in SPLITS]
    problems.note(f"{rows} another split than train, query, gallery", bad)
    for column in COLUMNS:
        empty = [f"row {row + 2}" for row, value in enumerate(columns[column]) if not value]
        problems.note(f"{rows} no {column}", empty)
    named = [key for key in zip(columns["path"], columns["split"], strict=True) if all(key)]
    twice = [str(key) for key, times in Counter(named).items() if times > 1]
    problems.note(f"{{count}} [image stands|images stand] more than once in one split of {path}", twice)
    times, parse = columns.get("time", [""] * count), time_parser(None)
    seconds = np.array([_seconds(word, parse) for word in times])
    unread = [f"row {k + 2}: {times[k]!r}" for k in np.flatnonzero(~np.isfinite(seconds)) if times[k]]
    problems.note(f"{{count}} [time of {path} is|times of {path} are] neither seconds nor a date with a time", unread)
    problems.raise_all()
    identity, camera = labels(columns["identity"])[0], labels(columns["camera"])
    track = np.full(count, UNKNOWN)
    if "track" in columns:
        known = np.array([bool(word) for word in columns["track"]])
        # a track belongs to one vehicle and camera, so the same number elsewhere is another track
        keys = [f"{i} {c} {t}" for i, c, t in zip(identity, camera[0], columns["track"], strict=True)]
        track = np.where(known, labels(keys)[0], UNKNOWN)
    paths = np.array([str(path.parent / name) for name in columns["path"]])
    called = np.array(columns["camera"]), np.array(columns["identity"])
    everyone = Sightings(camera[0], seconds, identity, track, paths, *called)
    return everyone, np.array(columns["split"]), columns["path"], camera[1]


def read_columns(path: Path, needed: tuple[str, ...]) -> dict[str, list[str]]:
    """Columns of a CSV or Parquet file as text without surrounding blanks."""
    if path.suffix == ".parquet":
        columns = _parquet(path)
    else:
        text = read_text(path, "table")
        try:
            rows = [row for row in csv.reader(io.StringIO(text)) if any(word.strip() for word in row)]
        except csv.Error as error:
            raise ValueError(f"{path} is not CSV ({error}): save it with commas and without NUL bytes") from error
        if not rows and needed:
            raise ValueError(f"{path} is empty: a header with {', '.join(needed)} and a row per image are expected")
        header = [word.strip() for word in rows[0]] if rows else []
        twice = [name for name, times in Counter(header).items() if times > 1]
        if twice:
            raise ValueError(
                f"{path} has more than one column of the name {sample(twice)}: rename or remove the others"
            )
        wrong = [f"row {number}" for number, row in enumerate(rows[1:], start=2) if len(row) != len(header)]
        if wrong:
            raise ValueError(
                f"{len(wrong)} rows of {path} have not {len(header)} values as its header: {sample(wrong)}"
            )
        columns = {name: [row[k].strip() for row in rows[1:]] for k, name in enumerate(header)}
    lost = [f"{name!r}{nearest(name, columns)}" for name in needed if name not in columns]
    if lost:
        raise ValueError(f"{path} has no column {' and none '.join(lost)}: {', '.join(needed)} are needed")
    if needed and not columns[needed[0]]:
        raise ValueError(f"{path} has a header but no row")
    return columns


def labels(words: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers for words: the words themselves if all are whole numbers of 0 or more, else 0, 1, ... in their order.

    Returns:
        ``(N,)`` int64 labels, and the words in the order of their labels.
    """
    if all(map(_is_label, words)):
        numbers = np.array(words, dtype=np.int64)
        return numbers, [str(number) for number in np.unique(numbers)]
    names, numbers = np.unique(np.array(words, dtype=np.str_), return_inverse=True)
    return numbers.astype(np.int64), names.tolist()


def read_distances(folder: Path, cameras: list[str]) -> CameraNetwork | None:
    """Distances beside a table, for its cameras; None if there are none.

    Raises:
        ValueError: a value is no number, the matrix is not square or not symmetric, or a camera is missing.
    """
    matrix, places = folder / "distances.csv", folder / "cameras.csv"
    if matrix.is_file():
        rows = list(read_columns(matrix, ()).items()) if matrix.stat().st_size else []
        names = [name for name, _ in rows]
        if any(len(column) != len(names) for _, column in rows) or not rows:
            raise ValueError(f"{matrix} has {len(names)} cameras in its header: as many rows are needed below")
        distance = metres([column for _, column in rows], matrix).T
    elif places.is_file():
        columns = read_columns(places, ("camera", "x", "y"))
        names = columns["camera"]
        place = metres([columns["x"], columns["y"]], places).T
        distance = np.linalg.norm(place[:, None] - place, axis=2)
        distance = (distance + distance.T) / 2
    else:
        return None
    numeric = all(map(_is_label, cameras))
    if numeric:
        # camera 001 of the table is number 1
        names = [str(int(name)) if _is_label(name) else name for name in names]
    lost = [name for name in cameras if name not in names]
    if lost:
        source = matrix if matrix.is_file() else places
        raise ValueError(f"{len(lost)} cameras of the table are not in {source}: {sample(lost)}; add them")
    rows_of = [names.index(name) for name in cameras]
    numbers = np.array(cameras, dtype=np.int64) if numeric else np.arange(len(cameras))
    return CameraNetwork(numbers, distance[np.ix_(rows_of, rows_of)], np.array(cameras))


def _warn_of_misspelt(columns: Iterable[str], path: Path) -> None:
    others = {name.lower(): name for name in columns if name not in (*COLUMNS, *OPTIONAL)}
    for name in OPTIONAL:
        close = difflib.get_close_matches(name, others, n=1)
        if name not in columns and close:
            logger.warning(
                f"{path} has no column {name!r}, but one called {others[close[0]]!r}, which is not used: "
                f"rename it if it holds the {name} of each image"
            )


def _is_label(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _seconds(word: str, parse: Callable[[str], float]) -> float:
    if not word:
        return np.nan
    # 14 digits are a date and time without marks: as seconds they would be 600,000 years
    if len(word) == 14 and word.isdigit() and not np.isnan(moment := parse(word)):
        return moment
    try:
        return float(word)
    except ValueError:
        return parse(word)


def _parquet(path: Path) -> dict[str, list[str]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow to be read: pip install pyarrow, or save the table as CSV") from error
    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not Parquet ({error})") from error
    return {name: ["" if value is None else str(value).strip() for value in values] for name, values in columns.items()}
