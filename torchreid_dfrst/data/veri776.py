"""VeRi-776, and any data in its format: names of images, lists, tracks, road distances and labels."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchreid_dfrst.data.copies import unrepeated
from torchreid_dfrst.data.dataset import Splits, VehicleDataset, tracks_of
from torchreid_dfrst.data.images import image_files
from torchreid_dfrst.data.numbers import numbers, whole_number
from torchreid_dfrst.data.problems import Problems, warn
from torchreid_dfrst.data.text import read_items, read_lines, read_text
from torchreid_dfrst.messages import numbered, sample
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings, same_vehicle

logger = logging.getLogger(__name__)

FRAMES_PER_SECOND = 25  # measured on the official lists: neighbouring cameras are then passed at 20 to 40 km/h
TRACK_GAP_FRAMES = 250  # cutting here gives 2,021 test tracks, 1,998 of them the official ones
FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
LISTS = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}
OFFICIAL_COUNTS = {"train": 37_778, "query": 1_678, "gallery": 11_579}

# Camera number of each row of VeRi-776's matrix (its camera_ID.txt). Rank correlation of distance and travel time on
# the official lists: 0.95 in this order, 0.61 in the order 1 to 20.
VERI_ORDER = (7, 5, 8, 4, 9, 3, 10, 6, 11, 2, 1, 13, 12, 18, 17, 19, 20, 15, 14, 16)
_VERI_MATRIX = "4e9c8462cdfa376c"

TWICE = "{count} [name stands|names stand] more than once"
_NAME = re.compile(r"(\d{4}|-1)_c(\d{3})_(\d{8})_(\d+)\.jpg", re.ASCII)


class Label(NamedTuple):
    """Colour and type of the vehicle in one image, numbers of ``list_color.txt`` and ``list_type.txt``; -1 unknown."""

    color: int
    type: int


class VeRiFormat(VehicleDataset):
    """Any folder in VeRi-776's format, such as your own recordings.

    The query images stay in the gallery: the junk rule (same vehicle, same camera) takes each out for its own query,
    and the official lists count them.

    ``root`` is the data set's folder itself (it holds ``image_train``, ``image_query``, ``image_test``), or, for the
    named data sets below, the folder that holds it; errors as ``read_veri`` has them.
    """

    own_lists = True
    marker = tuple(FOLDERS.values())
    advice = "Give --root the folder that holds image_train, image_query and image_test."

    @classmethod
    def read(cls, folder: Path, images: bool = True) -> Splits:
        """See ``read_veri``."""
        return read_veri(folder, images)

    @classmethod
    def splits_at(cls, root: str | Path, **options: Any) -> Splits:
        """The images that are there; the lists, with paths in the folder, where there are no folders of images."""
        folder = cls.find(root, (*FOLDERS.values(), *LISTS.values()))
        if any((folder / name).is_dir() for name in FOLDERS.values()):
            return cls.read(folder, **options)
        listed = cls.read(folder, images=False, **options)
        train, query, gallery = (
            replace(part, path=np.array([f"{FOLDERS[split]}/{name}" for name in part.path.tolist()]))
            for split, part in listed.parts().items()
        )
        return replace(listed, train=train, query=query, gallery=gallery)


class VeRi776(VeRiFormat):
    """VeRi-776 (Liu et al., ECCV 2016): 576 + 200 vehicles, 20 cameras, one hour.

    Counts: 37,778 training images, 1,678 queries, 11,579 gallery images in 2,021 tracks; others are logged.
    """

    own_lists = False
    folder_names = ("veri776", "VeRi", "veri", "VeRi_with_plate", "VeRi-776", "VeRi776")
    advice = (
        "VeRi-776 is sent by its authors on request; unpack it so that --root holds veri776/image_train, "
        "veri776/image_query and veri776/image_test."
    )

    @classmethod
    def read(cls, folder: Path, images: bool = True) -> Splits:
        """See ``read_veri``."""
        splits = read_veri(folder, images)
        counts = {split: len(part) for split, part in splits.parts().items()}
        if counts != OFFICIAL_COUNTS:
            here, official = (", ".join(f"{c[split]:,} {split}" for split in c) for c in (counts, OFFICIAL_COUNTS))
            logger.warning(
                f"{folder} has {here} images, VeRi-776 has {official}: results on it are not results on VeRi-776 (for "
                "other data in this format the name is veri_format)"
            )
        return splits


class City(VeRiFormat):
    """The synthetic city that ``dfrst city`` draws. Not VeRi-776: its results are called what they are."""

    own_lists = False
    folder_names = ("city",)
    advice = "Draw it with dfrst city --out DIR; it cannot be downloaded."


def read_veri(folder: str | Path, images: bool = True) -> Splits:
    """Read a folder in VeRi-776's format.

    Identities are ``VVVV``, cameras ``CCC - 1`` and called ``cCCC``, times ``TTTTTTTT / 25`` seconds. Training tracks
    are cut where more than 250 frames pass, gallery tracks come from ``test_track.txt`` (without it they are cut too),
    a query belongs to the track of its copy in the gallery; tracks of training and test never share a label.

    Args:
        folder: holds ``image_train``, ``image_query``, ``image_test``, and, all optional, the lists ``name_*.txt``,
            ``test_track.txt``, ``camera_Dist.txt`` and ``camera_ID.txt``.
        images: take the images that are there, sorted by name, as paths, and log every difference from the lists (the
            official ``name_train.txt`` lacks one vehicle of 32 images); else the rows of the lists in their order, with
            bare names as paths.

    Raises:
        FileNotFoundError: a folder of images (or, without images, a list) is missing.
        ValueError: a split is empty, a name does not parse or is listed twice, or a camera has no distance row.
    """
    folder, problems = Path(folder), Problems()
    names, parsed = {}, {}
    for split, directory in FOLDERS.items():
        names[split] = problems.attempt(_names_in_folder if images else _names_in_list, folder, split)
        parsed[split] = names[split] and problems.attempt(parse_names, names[split], f"{folder / directory}")
    network = problems.attempt(read_network, folder)
    for split in FOLDERS if network else ():
        if parsed[split]:
            problems.attempt(_require_rows, folder, network, names[split], parsed[split][1])
    track = parsed["gallery"] and problems.attempt(_test_tracks, folder, names["gallery"], parsed["gallery"])
    problems.raise_all()
    track_of = dict(zip(names["gallery"], track, strict=True))
    lost = [name for name in names["query"] if name not in track_of]
    text = f"{{count}} of {len(names['query'])} query images of {folder} [is|are] not in the gallery, where VeRi-776 "
    warn(f"{text}keeps them, so that their track is unknown", lost)
    tracks = {
        "train": cut_tracks(*parsed["train"]) + track.max(initial=-1) + 1,
        "query": np.array([track_of.get(name, UNKNOWN) for name in names["query"]], dtype=np.int64),
        "gallery": track,
    }
    sightings = {}
    for split, directory in FOLDERS.items():
        identity, camera, frame = parsed[split]
        path = [str(folder / directory / name) for name in names[split]] if images else names[split]
        called = ([name.split("_")[part] for name in names[split]] for part in (1, 0))
        columns = (camera, frame / FRAMES_PER_SECOND, identity, tracks[split], path, *called)
        sightings[split] = Sightings(*map(np.array, columns))
    return Splits(sightings["train"], sightings["query"], sightings["gallery"], network)


def parse_names(names: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Identity, camera (from 0) and frame of each ``VVVV_cCCC_TTTTTTTT_K.jpg``, three int64 arrays.

    A vehicle that is not known is written ``-1``.
    """
    rows = [_NAME.fullmatch(name) for name in names]
    bad = [name for name, row in zip(names, rows, strict=True) if row is None or row[2] == "000"]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(names)} names in {where} are not of the form VVVV_cCCC_TTTTTTTT_K.jpg with cameras "
            f"from 001, such as 0002_c002_00030600_0.jpg: {sample(bad)}; rename or remove them"
        )
    fields = np.array([(int(row[1]), int(row[2]) - 1, int(row[3])) for row in rows if row], dtype=np.int64)
    identity, camera, frame = fields.reshape(-1, 3).T
    return identity, camera, frame


def cut_tracks(identity: np.ndarray, camera: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Track of each image, from 0 in the order of identity, camera and time: cut where more than 250 frames pass."""
    order = np.lexsort((frame, camera, identity))
    i, c, t = identity[order], camera[order], frame[order]
    new = ~same_vehicle(i[1:], i[:-1]) | (c[1:] != c[:-1]) | (t[1:] - t[:-1] > TRACK_GAP_FRAMES)
    track = np.empty(len(order), dtype=np.int64)
    track[order] = np.concatenate(([0], np.cumsum(new)))[: len(order)]
    return track


def read_tracks(path: str | Path) -> list[list[str]]:
    """Image names of each track of ``test_track.txt``; the ``tNNNN`` that begins a line is a number, not a time."""
    tracks = [line.split() for line in read_lines(path, "list of tracks")]
    for row, words in enumerate(tracks):
        if len(words) < 2 or any(word[:9] != words[0][:9] for word in words):
            raise ValueError(
                f"track {row + 1} of {path} is {sample(words)!r}, expected VVVV_cCCC_tNNNN and then the names of "
                "images of that vehicle and camera"
            )
    return [words[1:] for words in tracks]


def read_network(folder: str | Path) -> CameraNetwork | None:
    """Camera distances of a folder in VeRi-776's format, None without them: cameras from 0 as in ``Sightings``, metres.

    Args:
        folder: holds ``camera_Dist.txt`` (metres along the road; a triangle or the full matrix) and ``camera_ID.txt``
            (camera number of each row, from 1; or ``c001``).

    Raises:
        FileNotFoundError: there is no ``camera_ID.txt`` and the matrix is not VeRi-776's, whose order is known.
        ValueError: not a square matrix of numbers, neither triangular nor symmetric, or another number of cameras.
    """
    path, order = Path(folder) / "camera_Dist.txt", Path(folder) / "camera_ID.txt"
    if not path.is_file():
        return None
    distance = _read_distance_matrix(path)
    if order.is_file():
        words = " ".join(read_lines(order, "camera numbers")).lower().replace(",", " ").split()
        rows = [whole_number(word.removeprefix("c"), 1, 999) for word in words]
        bad = [word for word, number in zip(words, rows, strict=True) if number is None]
        if bad:
            raise ValueError(f"{order} holds {sample(bad)}, expected camera numbers from 1 to 999")
        cameras = np.array(rows, dtype=np.int64)
    elif _digest_of_matrix(distance) == _VERI_MATRIX:
        cameras = np.array(VERI_ORDER)
    else:
        raise FileNotFoundError(
            f"no {order}: the rows of {path} are not in the order of camera numbers by themselves; write the "
            f"{len(distance)} camera numbers of its rows into that file, separated by blanks"
        )
    if len(cameras) != len(distance):
        raise ValueError(f"{order} names {len(cameras)} cameras, but {path} has {len(distance)} rows: one each")
    return CameraNetwork(cameras - 1, distance, np.array([f"c{number:03d}" for number in cameras]))


def known_orders(network: CameraNetwork) -> dict[str, np.ndarray]:
    """Orders in which the rows of a matrix are found to be read, by name: cameras from 0, row by row."""
    orders = {"in the order of camera numbers": np.sort(network.cameras)}
    if _digest_of_matrix(network.distance_m) == _VERI_MATRIX:
        orders["in VeRi-776's own order"] = np.array(VERI_ORDER, dtype=np.int64) - 1
    return {name: order for name, order in orders.items() if not np.array_equal(order, network.cameras)}


def read_labels(folder: str | Path) -> dict[str, Label]:
    """Labels by image name from ``train_label.xml`` and ``test_label.xml``, whichever are there; 0 is not known.

    Raises:
        ValueError: a file is not sound XML, an item has no name or no number, or items contradict each other.
    """
    files = [Path(folder) / name for name in ("train_label.xml", "test_label.xml")]
    files = [path for path in files if path.is_file()]
    return unrepeated((row for path in files for row in _label_items(path)), " and ".join(map(str, files)))


def read_index(path: str | Path, gallery_size: int) -> list[np.ndarray]:
    """Rows of the gallery for each query, from ``gt_index.txt`` or ``jk_index.txt``, counted from 0.

    The file counts rows of ``name_test.txt`` from 1, a line for each of ``name_query.txt``; else a ``ValueError``.
    """
    rows = []
    # a query may have no entry: here an empty line means something
    for number, line in enumerate(read_text(path, "list of gallery rows").splitlines(), start=1):
        words = line.split()
        bad = [word for word in words if whole_number(word, 1, gallery_size) is None]
        if bad:
            raise ValueError(f"line {number} of {path} holds {bad[0]!r}, expected rows from 1 to {gallery_size}")
        rows.append(np.array(words, dtype=np.int64) - 1)
    return rows


def _names_in_list(folder: Path, split: str) -> list[str]:
    path = folder / LISTS[split]
    names = read_lines(path, f"list of {split} images")
    if not names:
        raise ValueError(f"{path} is empty: the {split} split needs at least one image")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{numbered(TWICE, len(twice))} in {path} ({sample(twice)}): keep one of each")
    return names


def _names_in_folder(folder: Path, split: str) -> list[str]:
    directory, path = folder / FOLDERS[split], folder / LISTS[split]
    if not directory.is_dir():
        raise FileNotFoundError(
            f"no folder {directory}: data in VeRi-776's format has {', '.join(FOLDERS.values())}; "
            f"{folder} holds {sample(sorted(p.name for p in folder.iterdir()), 8) if folder.is_dir() else 'nothing'}"
        )
    names = [path.name for path in image_files(directory)]
    if not names:
        raise ValueError(f"{directory} holds no image: the {split} split needs at least one .jpg")
    other = sorted({file.name for file in directory.iterdir() if not file.name.startswith(".")}.difference(names))
    warn(
        f"{{count}} [file of {directory} is no image and is|files of {directory} are no images and are] left out", other
    )
    if path.is_file():
        listed = read_lines(path, f"list of {split} images")
        extra, missing = sorted(set(names).difference(listed)), sorted(set(listed).difference(names))
        warn(f"{{count}} [image is|images are] not in {path}, but the folder counts", extra)
        warn(f"{{count}} [image is missing that stands|images are missing that stand] in {path}", missing)
        warn(f"{TWICE} in {path}", [name for name, count in Counter(listed).items() if count > 1])
    return names


def _test_tracks(folder: Path, names: list[str], parsed: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    path = folder / "test_track.txt"
    if not path.is_file():
        logger.warning("no %s: gallery tracks are cut at gaps of more than %d frames", path, TRACK_GAP_FRAMES)
        return cut_tracks(*parsed)
    return tracks_of(names, read_tracks(path), path)


def _require_rows(folder: Path, network: CameraNetwork, names: Sequence[str], camera: np.ndarray) -> None:
    lost = [name for name, known in zip(names, np.isin(camera, network.cameras), strict=True) if not known]
    if lost:
        raise ValueError(
            f"camera {sample(sorted({name.split('_')[1] for name in lost}))} has "
            f"{numbered('{count} [image|images]', len(lost))} (such as {lost[0]}) but no row in "
            f"{folder / 'camera_Dist.txt'}, whose rows camera_ID.txt names: "
            "add the row, or remove camera_Dist.txt to go without distances"
        )


def _digest_of_matrix(distance: np.ndarray) -> str:
    """Sixteen hexadecimal digits of a symmetric matrix, rows in their order in the file."""
    return hashlib.sha256(np.ascontiguousarray(distance).astype("<f8").tobytes()).hexdigest()[:16]


def _read_distance_matrix(path: Path) -> np.ndarray:
    rows = [line.replace(",", " ").split() for line in read_lines(path, "camera distances")]
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(
            f"{path} has {numbered('{count} [row|rows]', len(rows))} of "
            f"{sample(sorted({len(row) for row in rows})) or 'no'} numbers: a square matrix is expected"
        )
    given = numbers(zip(*rows, strict=True), path, "metres")
    if not np.triu(given, 1).any() or not np.tril(given, -1).any():
        return given + given.T - np.diag(np.diagonal(given))
    if (given == given.T).all():
        return given
    i, j = np.argwhere(given != given.T)[0]
    raise ValueError(
        f"{path} has {given[i, j]:g} in row {i + 1}, column {j + 1} but {given[j, i]:g} mirrored: give one triangle "
        "with zeros in the other, or a symmetric matrix"
    )


def _label_items(path: Path) -> Iterator[tuple[str, Label]]:
    for number, item in enumerate(read_items(path), start=1):
        name = item.get("imageName")
        if not name:
            raise ValueError(f"item {number} of {path} has no imageName: expected <Item imageName=... />")
        words = {key: item.get(key, "0").strip() for key in ("colorID", "typeID")}
        for key, word in words.items():
            if whole_number(word, 0, 999) is None:
                raise ValueError(f"{key} of {name} in {path} is {word!r}: expected a number")
        yield name, Label(*(int(word) or UNKNOWN for word in words.values()))
