"""Any data set from one table: ``path,identity,camera,time,split[,track]``."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchreid_dfrst.data.boxes import boxed_names
from torchreid_dfrst.data.copies import contradictions
from torchreid_dfrst.data.csv_parquet import read_columns
from torchreid_dfrst.data.dataset import Splits, VehicleDataset
from torchreid_dfrst.data.image_paths import on_disk
from torchreid_dfrst.data.numbers import number, numbers
from torchreid_dfrst.data.problems import Problems, warn
from torchreid_dfrst.data.times import ACCEPTED, read_times
from torchreid_dfrst.files import require_file
from torchreid_dfrst.messages import nearest, numbered, sample
from torchreid_dfrst.names import is_label, is_unknown, known_labels, labels, plain
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings

COLUMNS = ("path", "camera", "split")
OPTIONAL = ("identity", "time", "track")
IDENTITIES = ("identities", "ident", "vehicle", "vehicle_id", "vehicleid", "id", "pid", "vid", "label")
"""What others call the column ``identity``."""
NONE = "none"
NO_CAMERA = "where nobody knows the cameras: data.options.cameras none, dfrst import --cameras none"
SPLITS = ("train", "query", "gallery")
LONG_NAMES = {"latitude": "lat", "longitude": "lon", "lng": "lon", "long": "lon"}
EARTH_M = 6_371_008.8  # mean radius
logger = logging.getLogger(__name__)


class Table(VehicleDataset):
    """Your own data set in ``table.csv`` or ``table.parquet``.

    Columns: ``path`` (relative to the table), ``camera`` (any words), ``split`` (train, query or gallery), and, all
    optional, ``identity`` (any words; empty, -1, nan, unknown and the like where the vehicle is not known), a box in
    the image (``x,y,w,h`` or ``left,top,right,bottom`` in pixels, see ``boxes``), ``time`` (see ``times.ACCEPTED``;
    empty if unknown) and ``track``. Beside it, optional, either ``distances.csv`` (a header line of cameras, then their
    road distances in metres, rows in the order of the header) or ``cameras.csv`` (``camera,x,y`` in metres: straight
    lines; ``camera,lat,lon`` in degrees: great circles).

    Names are compared as ``names.plain`` gives them: ``3``, ``03`` and ``3.0`` are one camera, ``c003`` is another.

    Args:
        root: the table, or the folder that holds it.
        cameras: ``"none"``: nobody knows which camera took an image; there is no junk then, and no column ``camera``.
        time_format: of the times, as ``datetime.strptime`` takes it; None takes what ``times.ACCEPTED`` lists.

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
    def read(cls, path: Path, cameras: str | None = None, time_format: str | None = None) -> Splits:
        """Read a table and the distances beside it."""
        problems = Problems()
        table = problems.attempt(read_table, path, cameras, time_format, True)
        network = None
        if cameras is None:
            network = problems.attempt(read_distances, path.parent, table[1] if table else [])
        problems.raise_all()
        parts = table[0]
        protocol = "image-to-image" if cameras is None else "no-junk"
        return Splits(parts["train"], parts["query"], parts["gallery"], network, protocol=protocol)


def read_table(
    path: Path, cameras: str | None = None, time_format: str | None = None, images: bool = False
) -> tuple[dict[str, Sightings], list[str]]:
    """Sightings of each split, and the name of each camera label; errors as ``Table`` has them."""
    everyone, split, _, called = read_rows(path, cameras, COLUMNS, time_format, images)
    return {name: everyone[split == name] for name in SPLITS}, called


def read_rows(
    path: Path,
    cameras: str | None = None,
    needed: Sequence[str] = COLUMNS,
    time_format: str | None = None,
    images: bool = False,
) -> tuple[Sightings, np.ndarray, list[str], list[str]]:
    """Rows of a table in their order.

    Args:
        path: the table.
        cameras: as ``Table`` takes it, ``time_format`` too. Without cameras the gallery has label 1, all other images
            0, so that no rule about cameras takes a match away.
        needed: columns that must be there.
        time_format: of the times.
        images: look for images that are not where the table says, see ``image_paths.on_disk``.

    Returns:
        all sightings, ``(N,)`` names of their splits, their paths as written with their boxes, and the name of each
        camera label; errors as ``Table`` has them.
    """
    require_file(path, f"no table at {path}: {Table.advice}")
    if cameras not in (None, NONE):
        raise ValueError(f"cameras is {cameras!r}: none, or leave it out where the table has a column camera")
    columns = _columns_of_table(path, [name for name in needed if cameras is None or name != "camera"])
    count = len(columns["path"])
    columns = {**{name: [""] * count for name in (*COLUMNS, *OPTIONAL)}, **columns}
    columns["split"] = [word.lower() for word in columns["split"]]
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
    seconds = problems.attempt(_times_of_table, columns, path, time_format)
    problems.raise_all()
    identity, camera = known_labels(columns["identity"]), labels(columns["camera"])
    # a track belongs to one vehicle and camera, so the same number elsewhere is another track
    keys = [f"{i} {c} {t}" for i, c, t in zip(identity, camera[0], columns["track"], strict=True)]
    track = np.where([not is_unknown(word) for word in columns["track"]], labels(keys)[0], UNKNOWN)
    paths = np.array(on_disk(path.parent, names, path) if images else [str(path.parent / name) for name in names])
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
    for what, words in (("camera", camera[1]), ("vehicle", columns["identity"])):
        _warn_of_spellings(what, words, path)
    found = contradictions(everyone, names, columns)
    problems.note(f"{{count}} [row|rows] of {path} [contradicts|contradict] an earlier one", found)
    problems.raise_all()
    return everyone, split, names, camera[1]


def _columns_of_table(path: Path, needed: Sequence[str]) -> dict[str, list[str]]:
    """The columns of a table, with a hint where a needed one, or what seems to be the identity, has another name."""
    try:
        columns = read_columns(path, tuple(needed), OPTIONAL)
    except ValueError as error:
        raise ValueError(f"{error} ({NO_CAMERA})" if "no column 'camera'" in str(error) else str(error)) from None
    close = difflib.get_close_matches("identity", columns, n=1) or [n for n in columns if n.lower() in IDENTITIES]
    if "identity" not in columns and close:
        raise ValueError(f"{path} has no column 'identity' (did you mean {close[0]!r}?): rename one of them")
    others = {name.lower(): name for name in columns if name not in (*COLUMNS, *OPTIONAL)}
    for name in OPTIONAL:
        if name not in columns and (near := difflib.get_close_matches(name, others, n=1)):
            logger.warning(
                f"{path} has no column {name!r}, but one called {others[near[0]]!r}, which is not used: "
                f"rename it if it holds the {name} of each image"
            )
    return columns


def read_distances(folder: Path, cameras: list[str]) -> CameraNetwork | None:
    """Distances beside a table, for its cameras; None if there are none.

    ``distances.csv`` comes before ``cameras.csv``. Either holds what its header says: ``camera`` and ``x,y`` in metres
    or ``lat,lon`` in degrees, or the names of cameras over a matrix. What is no such thing, or lacks a camera, is a
    ``ValueError``.
    """
    found = [path for path in (folder / "distances.csv", folder / "cameras.csv") if path.is_file()]
    if not found:
        return None
    if len(found) > 1:
        logger.warning("%s is used, %s beside it is not", *found)
    source = found[0]
    columns = read_columns(source, ()) if source.stat().st_size else {}
    kind = "road"
    ours = {LONG_NAMES.get(name.lower(), name.lower()): column for name, column in columns.items()}
    if source.name == "cameras.csv" or any({"camera", *axes} <= set(ours) for axes in (("x", "y"), ("lat", "lon"))):
        names, distance, kind = _distances_between_places(source, ours)
    else:
        columns = _distances_in_order(columns)
        names = list(columns)
        if any(len(column) != len(names) for column in columns.values()) or not columns:
            raise ValueError(f"{source} has {len(names)} cameras in its header: as many rows are needed below")
        distance = numbers(columns.values(), source, "metres", first=2)
    if len(names) > 1 and distance.max() < 1:
        raise ValueError(
            f"{source} puts all cameras within {distance.max():.2g} m: metres are needed, or degrees as camera,lat,lon"
        )
    numeric, names = all(map(is_label, cameras)), list(map(plain, names))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{source} has more than one row of camera {sample(twice)}: keep one")
    lost = [f"{name}{nearest(name, names[:20])}" for name in cameras if name not in names]
    if lost:
        raise ValueError(f"{len(lost)} cameras of the table are not in {source}: {sample(lost)}; add them")
    rows_of = [names.index(name) for name in cameras]
    numbers_of = np.array(cameras, dtype=np.int64) if numeric else np.arange(len(cameras))
    return CameraNetwork(numbers_of, distance[np.ix_(rows_of, rows_of)], np.array(cameras), kind)


def _distances_in_order(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """A matrix whose first column names the cameras of its rows, with the rows in the order of the header."""
    first, *names = columns or [""]
    rows_of = list(map(plain, columns[first])) if names else []
    if not names or sorted(rows_of) != sorted(map(plain, names)):
        return columns
    rows = [rows_of.index(plain(name)) for name in names]
    return {name: [columns[name][row] for row in rows] for name in names}


def _distances_between_places(source: Path, ours: dict[str, list[str]]) -> tuple[list[str], np.ndarray, str]:
    """Names of cameras, their distances from places, and the kind of these distances."""
    sphere = bool({"lat", "lon"} & set(ours))
    axes = ("lat", "lon") if sphere else ("x", "y")
    lost = [f"{name!r}{nearest(name, ours)}" for name in ("camera", *axes) if name not in ours]
    if lost:
        raise ValueError(
            f"{source} has no column {' and none '.join(lost)}: camera,x,y in metres or camera,lat,lon in degrees are "
            "needed"
        )
    place = numbers([ours[axis] for axis in axes], source, ", ".join(axes), first=2)
    if not sphere:
        distance = np.linalg.norm(place[:, None] - place, axis=2)
        return ours["camera"], (distance + distance.T) / 2, "straight line"
    nowhere = (place == 0).all(axis=1) & (np.abs(np.median(place, axis=0)) > 1).any()
    wrong = np.flatnonzero((~np.isfinite(place) | (np.abs(place) > (90, 180))).any(axis=1) | nowhere)
    if len(wrong):
        k = int(wrong[0])
        raise ValueError(
            f"row {k + 2} of {source} (camera {ours['camera'][k]}) lies at lat {place[k, 0]:g}, lon {place[k, 1]:g}: "
            "degrees from -90 to 90 and from -180 to 180; 0, 0 is no place; are the columns swapped?"
        )
    lat, lon = np.radians(place).T
    north, east = (np.sin((angle[:, None] - angle) / 2) ** 2 for angle in (lat, lon))
    haversine = north + np.cos(lat[:, None]) * np.cos(lat) * east
    distance = 2 * EARTH_M * np.arcsin(np.sqrt(np.minimum(haversine, 1)))
    logger.warning("%s gives distances along great circles, which are shorter than roads", source)
    return ours["camera"], (distance + distance.T) / 2, "great circle, not road"


def _warn_of_spellings(what: str, words: Iterable[str], path: Path) -> None:
    """Say which names look like one: ``c003``, ``Cam 3`` and ``3``; ``North``, ``north`` and ``'north'``."""
    alike: dict[str, list[str]] = {}
    for name in sorted(name for name in set(map(plain, words)) if not is_unknown(name)):
        key = name if number(name) is not None else re.sub(r"[\W_]+", " ", name.casefold()).strip()
        alike.setdefault(re.sub(r"^(c|cam|camera) ?0*(?=\d+$)", "", key), []).append(name)
    pairs = [" and ".join(group) for group in alike.values() if len(group) > 1]
    warn(f"{{count}} [{what}|{what}s] of {path} may have several names, which count as several {what}s", pairs)


def _times_of_table(columns: dict[str, list[str]], path: Path, time_format: str | None) -> np.ndarray:
    words = columns.get("time", [""] * len(columns["path"]))
    seconds, unread = read_times(words, path, time_format, lambda k: f"row {k + 2}", columns["camera"])
    if unread:
        text = numbered(f"{{count}} [time of {path} is|times of {path} are] ", len(unread))
        text += f"not of the form {time_format!r}" if time_format else f"none of: {ACCEPTED}"
        text += "" if time_format else "; give the form of others as data.options.time_format"
        raise ValueError(f"{text}: {sample(f'row {k + 2}: {words[k]!r}' for k in unread)}")
    return seconds
