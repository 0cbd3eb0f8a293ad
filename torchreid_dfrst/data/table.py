"""Any data set from one table: ``path,identity,camera,time,split[,track]``."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchreid_dfrst.checks import nearest
from torchreid_dfrst.data.boxes import boxed_names
from torchreid_dfrst.data.copies import contradictions
from torchreid_dfrst.data.dataset import Splits, VehicleDataset
from torchreid_dfrst.data.text import Problems, metres, read_text, sample, time_parser, warn
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings, is_unknown, plain

COLUMNS = ("path", "camera", "split")
OPTIONAL = ("identity", "time", "track")
IDENTITIES = ("identities", "ident", "vehicle", "vehicle_id", "vehicleid", "id", "pid", "vid", "label")
"""What others call the column ``identity``."""
NONE = "none"
NO_CAMERA = "where nobody knows the cameras: data.options.cameras none, dfrst import --cameras none"
SPLITS = ("train", "query", "gallery")
logger = logging.getLogger(__name__)


class Table(VehicleDataset):
    """Your own data set in ``table.csv`` or ``table.parquet``.

    Columns: ``path`` (relative to the table), ``camera`` (any words), ``split`` (train, query or gallery), and, all
    optional, ``identity`` (any words; empty, -1, nan, unknown and the like where the vehicle is not known), a box in
    the image (``x,y,w,h`` or ``left,top,right,bottom`` in pixels, see ``boxes``), ``time`` (seconds, or a date and time
    such as 2026-05-01 16:00:00; empty if unknown) and ``track``. Beside it, optional, either ``distances.csv`` (a
    header line of cameras, then their road distances in metres, rows in the order of the header) or ``cameras.csv``
    (``camera,x,y`` in metres: straight lines).

    Names are compared as ``sightings.plain`` gives them: ``3``, ``03`` and ``3.0`` are one camera, ``c003`` is another.

    Args:
        root: the table, or the folder that holds it.
        cameras: ``"none"``: nobody knows which camera took an image; there is no junk then, and no column ``camera``.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: a column is missing (the nearest name is given), a value does not parse, a row stands twice, rows
            contradict each other, or a camera has no distance.
    """

    own_lists = True
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
    def read(cls, path: Path, cameras: str | None = None) -> Splits:
        """Read a table and the distances beside it."""
        problems = Problems()
        table = problems.attempt(read_table, path, cameras)
        network = None
        if cameras is None:
            network = problems.attempt(read_distances, path.parent, table[1] if table else [])
        problems.raise_all()
        parts = table[0]
        protocol = "image-to-image" if cameras is None else "no-junk"
        return Splits(parts["train"], parts["query"], parts["gallery"], network, protocol=protocol)


def read_table(path: Path, cameras: str | None = None) -> tuple[dict[str, Sightings], list[str]]:
    """Sightings of each split, and the name of each camera label; errors as ``Table`` has them."""
    everyone, split, _, called = read_rows(path, cameras)
    return {name: everyone[split == name] for name in SPLITS}, called


def read_rows(
    path: Path, cameras: str | None = None, needed: Sequence[str] = COLUMNS
) -> tuple[Sightings, np.ndarray, list[str], list[str]]:
    """Rows of a table in their order.

    Args:
        path: the table.
        cameras: as ``Table`` takes it. Without cameras the gallery has label 1, all other images 0, so that no rule
            about cameras takes a match away.
        needed: columns that must be there.

    Returns:
        all sightings, ``(N,)`` names of their splits, their paths as written with their boxes, and the name of each
        camera label.

    Raises:
        FileNotFoundError, ValueError: as ``Table`` has them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}: {Table.advice}")
    if cameras not in (None, NONE):
        raise ValueError(f"cameras is {cameras!r}: none, or leave it out where the table has a column camera")
    columns = _columns(path, [name for name in needed if cameras is None or name != "camera"])
    count = len(columns["path"])
    columns = {**{name: [""] * count for name in (*COLUMNS, *OPTIONAL)}, **columns}
    if cameras == NONE:
        columns["camera"] = ["0" if split != "gallery" else "1" for split in columns["split"]]
    names = boxed_names(columns, columns["path"], str(path))
    problems, rows = Problems(), f"{{count}} [row|rows] of {path} [has|have]"
    bad = [f"row {row + 2}: {name!r}" for row, name in enumerate(columns["split"]) if name and name not in SPLITS]
    problems.note(f"{rows} another split than train, query, gallery", bad)
    for column in needed:
        empty = [f"row {row + 2}" for row, value in enumerate(columns[column]) if not value]
        problems.note(f"{rows} no {column}", empty)
    lost = [f"row {row + 2}: {word!r}" for row, word in enumerate(columns["camera"]) if word and is_unknown(word)]
    problems.note(f"{rows} an unknown camera ({NO_CAMERA})", lost)
    named = [key for key in zip(names, columns["split"], strict=True) if key[0]]
    twice = [str(key) for key, times in Counter(named).items() if times > 1]
    problems.note(f"{{count}} [image stands|images stand] more than once in one split of {path}", twice)
    times, parse = columns["time"], time_parser(None)
    seconds = np.array([_seconds(word, parse) for word in times])
    unread = [f"row {k + 2}: {times[k]!r}" for k in np.flatnonzero(~np.isfinite(seconds)) if times[k]]
    problems.note(f"{{count}} [time of {path} is|times of {path} are] neither seconds nor a date with a time", unread)
    problems.raise_all()
    identity, camera = known_labels(columns["identity"]), labels(columns["camera"])
    # a track belongs to one vehicle and camera, so the same number elsewhere is another track
    keys = [f"{i} {c} {t}" for i, c, t in zip(identity, camera[0], columns["track"], strict=True)]
    track = np.where([bool(word) for word in columns["track"]], labels(keys)[0], UNKNOWN)
    paths = np.array([str(path.parent / name) for name in names])
    called = np.array(columns["camera"]), np.array(columns["identity"])
    everyone = Sightings(camera[0], seconds, identity, track, paths, *called)
    split = np.array(columns["split"])
    if cameras == NONE:
        everyone = replace(everyone, camera_name=np.full(count, ""))
        both = sorted(set(paths[split == "query"]) & set(paths[split == "gallery"]))
        problems.note(
            f"without cameras {{count}} [query finds itself|queries find themselves] in the gallery of {path}", both
        )
        problems.raise_all()
    _warn_of_spellings(camera[1], path)
    found = contradictions(everyone, names, columns)
    problems.note(f"{{count}} [row|rows] of {path} [contradicts|contradict] an earlier one", found)
    problems.raise_all()
    return everyone, split, names, camera[1]


def _columns(path: Path, needed: Sequence[str]) -> dict[str, list[str]]:
    """The columns of a table, with a hint where a needed one, or what seems to be the identity, has another name."""
    try:
        columns = read_columns(path, tuple(needed))
    except ValueError as error:
        hint = f" ({NO_CAMERA})" if "no column 'camera'" in str(error) else ""
        raise ValueError(f"{error}{hint}") from None
    close = difflib.get_close_matches("identity", columns, n=1) or [n for n in columns if n.lower() in IDENTITIES]
    if "identity" not in columns and close:
        raise ValueError(f"{path} has no column 'identity' (did you mean {close[0]!r}?): rename one of them")
    _warn_of_misspelt(columns, path)
    return columns


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

    Words are one where ``sightings.plain`` gives one name.

    Returns:
        ``(N,)`` int64 labels, and the names in the order of their labels.
    """
    words = list(map(plain, words))
    if all(map(_is_label, words)):
        numbers = np.array(words, dtype=np.int64)
        return numbers, [str(number) for number in np.unique(numbers)]
    names, numbers = np.unique(np.array(words, dtype=np.str_), return_inverse=True)
    return numbers.astype(np.int64), names.tolist()


def known_labels(words: Sequence[str]) -> np.ndarray:
    """Numbers for the names of vehicles as ``labels`` has them, ``UNKNOWN`` for words that say it is not known."""
    known = np.array([not is_unknown(word) for word in words], dtype=bool)
    numbers = np.full(len(words), UNKNOWN)
    numbers[known] = labels([word for word, one in zip(words, known, strict=True) if one])[0]
    return numbers


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
    numeric, names = all(map(_is_label, cameras)), list(map(plain, names))
    source = matrix if matrix.is_file() else places
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{source} has more than one row of camera {sample(twice)}: keep one")
    lost = [name for name in cameras if name not in names]
    if lost:
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


def _warn_of_spellings(cameras: Sequence[str], path: Path) -> None:
    """Say which names of cameras look like one: ``c003``, ``Cam 3`` and ``3``; ``North`` and ``north``."""
    alike: dict[str, list[str]] = {}
    for name in cameras:
        alike.setdefault(re.sub(r"^(c|cam|camera)[ _-]*0*(?=\d+$)", "", name.casefold()), []).append(name)
    pairs = [" and ".join(group) for group in alike.values() if len(group) > 1]
    warn(f"{{count}} [camera|cameras] of {path} may have several names, which count as several cameras", pairs)


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
