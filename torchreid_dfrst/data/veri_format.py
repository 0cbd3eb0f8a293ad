"""VeRi-776's files as arrays: names, lists and tracks become ``Sightings``. Knows nothing of torchreid."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import read_lines, sample
from torchreid_dfrst.data.veri_network import read_network
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings

FRAMES_PER_SECOND = 25  # measured on the official lists: neighbouring cameras are then passed at 20 to 40 km/h
TRACK_GAP_FRAMES = 250  # cutting here gives 2,021 test tracks, 1,998 of them the official ones
SPLITS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
LISTS = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}

TWICE = "{count} [name stands|names stand] more than once"
_NAME = re.compile(r"(\d{4})_c(\d{3})_(\d{8})_(\d+)\.jpg", re.ASCII)
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VeRi:
    """One data set in VeRi-776's format.

    Args:
        train: training images; tracks are cut at gaps of more than 250 frames.
        query: query images; each belongs to the track of its copy in the gallery.
        gallery: gallery images, the query images among them; tracks from ``test_track.txt``, else cut as in training.
        network: road distances, or None without ``camera_Dist.txt``.

    Cameras are ``CCC - 1``, identities ``VVVV``, times ``TTTTTTTT / 25`` seconds. Tracks of training and test never
    share a label.
    """

    train: Sightings
    query: Sightings
    gallery: Sightings
    network: CameraNetwork | None


def read_veri(folder: str | Path, images: bool = True) -> VeRi:
    """Read a folder in VeRi-776's format.

    Args:
        folder: holds ``image_train``, ``image_query``, ``image_test``, and, all optional, the lists ``name_*.txt``,
            ``test_track.txt``, ``camera_Dist.txt`` and ``camera_ID.txt``.
        images: True takes the images that are there, sorted by name, as paths, and logs every difference from the
            lists (the official ``name_train.txt`` lacks one vehicle of 32 images). False takes the rows of the lists
            in their order, with bare names as paths, and looks for no image.

    Raises:
        FileNotFoundError: a folder of images (or, without images, a list) is missing.
        ValueError: a split is empty, a name does not parse or is listed twice, a camera has no distance row, or
            several things are wrong, which are named together.
    """
    folder, problems = Path(folder), Problems()
    names, parsed, track = {}, {}, np.empty(0, dtype=np.int64)
    network: CameraNetwork | None = None
    for split in SPLITS:
        with problems.noted():
            names[split] = (_from_folder if images else _from_list)(folder, split)
            parsed[split] = parse_names(names[split], f"{folder / SPLITS[split]}")
    with problems.noted():
        network = read_network(folder)
    for split in parsed:
        with problems.noted():
            _require_rows(folder, network, names[split], parsed[split][1])
    with problems.noted():
        if "gallery" in parsed:
            track = _test_tracks(folder, names["gallery"], parsed["gallery"])
    problems.raise_all()
    of_name = dict(zip(names["gallery"], track.tolist(), strict=True))
    lost = [name for name in names["query"] if name not in of_name]
    if lost:
        _log.warning(
            numbered("{count} of %d query images of %s [is|are] not in the gallery (%s)", len(lost))
            + ", where VeRi-776 keeps them: track unknown",
            len(names["query"]),
            folder,
            sample(lost),
        )
    tracks = {
        "train": cut_tracks(*parsed["train"]) + track.max(initial=-1) + 1,
        "query": np.array([of_name.get(name, UNKNOWN) for name in names["query"]], dtype=np.int64),
        "gallery": track,
    }
    sightings = {}
    for split in SPLITS:
        identity, camera, frame = parsed[split]
        path = [str(folder / SPLITS[split] / name) for name in names[split]] if images else names[split]
        sightings[split] = Sightings(camera, frame / FRAMES_PER_SECOND, identity, tracks[split], np.array(path))
    return VeRi(**sightings, network=network)


def parse_names(names: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Identity, camera (from 0) and frame of each ``VVVV_cCCC_TTTTTTTT_K.jpg``, three int64 arrays.

    Raises:
        ValueError: a name has another form, or names camera 000.
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


def image_files(folder: Path) -> list[Path]:
    """Images in a folder by their endings, in the order of their names; none where there is no folder."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.name.lower().endswith(_IMAGES) and not path.name.startswith(".")]


def cut_tracks(identity: np.ndarray, camera: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Track of each image: the images of one vehicle and camera, cut where more than 250 frames pass.

    Returns:
        ``(N,)`` int64 labels from 0, counted in the order of identity, camera and time.
    """
    order = np.lexsort((frame, camera, identity))
    i, c, t = identity[order], camera[order], frame[order]
    new = (i[1:] != i[:-1]) | (c[1:] != c[:-1]) | (t[1:] - t[:-1] > TRACK_GAP_FRAMES)
    track = np.empty(len(order), dtype=np.int64)
    track[order] = np.concatenate(([0], np.cumsum(new)))[: len(order)]
    return track


def read_tracks(path: str | Path) -> list[list[str]]:
    """Image names of each track of ``test_track.txt``, line by line.

    The first word of a line, ``VVVV_cCCC_tNNNN``, numbers the track within its camera; it is not a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line holds no image, or images of two vehicles or cameras.
    """
    tracks = [line.split() for line in read_lines(path, "list of tracks")]
    for row, words in enumerate(tracks):
        if len(words) < 2 or any(word[:9] != words[0][:9] for word in words):
            raise ValueError(
                f"track {row + 1} of {path} is {sample(words)!r}, expected VVVV_cCCC_tNNNN and then the names of "
                "images of that vehicle and camera"
            )
    return [words[1:] for words in tracks]


def _from_list(folder: Path, split: str) -> list[str]:
    path = folder / LISTS[split]
    names = read_lines(path, f"list of {split} images")
    if not names:
        raise ValueError(f"{path} is empty: the {split} split needs at least one image")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{numbered(TWICE, len(twice))} in {path} ({sample(twice)}): keep one of each")
    return names


def _from_folder(folder: Path, split: str) -> list[str]:
    directory, path = folder / SPLITS[split], folder / LISTS[split]
    if not directory.is_dir():
        raise FileNotFoundError(
            f"no folder {directory}: data in VeRi-776's format has {', '.join(SPLITS.values())}; "
            f"{folder} holds {sample(sorted(p.name for p in folder.iterdir()), 8) if folder.is_dir() else 'nothing'}"
        )
    files = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    names = [path.name for path in image_files(directory)]
    if not names:
        raise ValueError(f"{directory} holds no image: the {split} split needs at least one .jpg")
    if len(names) < len(files):
        other = [name for name in files if not name.lower().endswith(_IMAGES)]
        text = "{count} [file of %s is no image and is|files of %s are no images and are] left out: %s"
        _log.warning(numbered(text, len(other)), directory, sample(other))
    if path.is_file():
        listed = read_lines(path, f"list of {split} images")
        extra, missing = sorted(set(names) - set(listed)), sorted(set(listed) - set(names))
        for what, found in (
            ("{count} [image is|images are] not in", extra),
            ("{count} [image is missing that stands|images are missing that stand] in", missing),
        ):
            if found:
                _log.warning("%s %s: %s; the folder counts", numbered(what, len(found)), path, sample(found))
        twice = [name for name, times in Counter(listed).items() if times > 1]
        if twice:
            _log.warning(numbered(f"{TWICE} in %s: %s", len(twice)), path, sample(twice))
    return names


def _test_tracks(folder: Path, names: list[str], parsed: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    path = folder / "test_track.txt"
    if not path.is_file():
        _log.warning("no %s: gallery tracks are cut at gaps of more than %d frames", path, TRACK_GAP_FRAMES)
        return cut_tracks(*parsed)
    of_name: dict[str, int] = {}
    twice = []
    for track, words in enumerate(read_tracks(path)):
        for name in words:
            if name in of_name:
                twice.append(name)
            if of_name.setdefault(name, track) != track:
                raise ValueError(f"{name} is in tracks {of_name[name] + 1} and {track + 1} of {path}: one track each")
    if twice:
        _log.warning(numbered(f"{TWICE} in a track of %s: %s", len(twice)), path, sample(twice))
    for what, found in (
        ("{count} [image is|images are] in no track of", [name for name in names if name not in of_name]),
        ("{count} [image is|images are] not in the gallery but in", sorted(set(of_name) - set(names))),
    ):
        if found:
            _log.warning("%s %s: %s", numbered(what, len(found)), path, sample(found))
    return np.array([of_name.get(name, UNKNOWN) for name in names], dtype=np.int64)


def _require_rows(folder: Path, network: CameraNetwork | None, names: Sequence[str], camera: np.ndarray) -> None:
    if network is None:
        return
    lost = np.flatnonzero(~np.isin(camera, network.cameras))
    if len(lost):
        images = numbered("{count} [image|images]", len(lost))
        raise ValueError(
            f"camera {sample(f'c{c + 1:03d}' for c in np.unique(camera[lost]))} has {images} (such as "
            f"{names[lost[0]]}) but no row in {folder / 'camera_Dist.txt'}, whose rows camera_ID.txt names: "
            "add the row, or remove camera_Dist.txt to go without distances"
        )
