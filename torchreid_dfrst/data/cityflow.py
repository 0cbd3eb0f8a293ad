"""CityFlow-ReID, the re-identification part of the AI City Challenge: labels in XML, no times."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.data.dataset import VehicleDataset, find_folder
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import count, once, read_lines, sample
from torchreid_dfrst.data.xml_items import read_items
from torchreid_dfrst.sightings import UNKNOWN, Sightings

_log = logging.getLogger(__name__)


class Label(NamedTuple):
    """Vehicle and camera of one image, as written: cameras from 1."""

    vehicle: int
    camera: int


class CityFlow(VehicleDataset):
    """CityFlow-ReID (Tang et al., CVPR 2019): 36,935 training images of 333 vehicles, 40 cameras.

    The challenge keeps its test labels. With a ``test_label.xml`` of your own in the form of ``train_label.xml``
    (query and gallery), the official split is scored. Without it, training vehicles are divided: every
    ``hold_out``-th becomes the test set, one query for each of its cameras, all its images in the gallery.

    Args:
        root: the folder that holds ``cityflow`` (or ``AIC20_track2``...) or is it.
        hold_out: without test labels, every how many-th vehicle is held out, at least 2.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: ``train_label.xml`` is missing.
        ValueError: a label file is broken, an item lacks its name, vehicle or camera, or rows contradict each other.
    """

    dataset_dir = "cityflow"
    folder_names: ClassVar[tuple[str, ...]] = (
        "cityflow", "CityFlow-ReID", "AIC19_track2_reid", "AIC20_track2_reid", "AIC21_Track2_ReID",
    )  # fmt: skip
    advice: ClassVar[str] = "CityFlow-ReID comes from the AI City Challenge; --root is the folder that holds it."

    def __init__(self, root: str = "", hold_out: int = 5, **kwargs: Any) -> None:
        if hold_out < 2:
            raise ValueError(f"hold_out is {hold_out}: every second vehicle at most can be held out")
        folder = find_folder(root, self.folder_names, ("train_label.xml",), self.advice)
        self.root, self.dataset_dir = root, str(folder)
        problems, parts, labelled = Problems(), {}, (folder / "test_label.xml").is_file()
        with problems.noted():
            labels = read_labels(folder / "train_label.xml")
            train = _sightings(sorted(labels), folder / "image_train", labels)
            parts["train"] = _with_tracks(train, folder / "train_track.txt")
        with problems.noted():
            test = read_labels(folder / "test_label.xml") if labelled else {}
            for part in ("query", "test") if labelled else ():
                with problems.noted():
                    parts[part] = _listed(folder / f"name_{part}.txt", folder / f"image_{part}", test)
        with problems.noted():
            if "test" in parts:
                parts["test"] = _with_tracks(parts["test"], folder / "test_track.txt")
        problems.raise_all()
        train = parts["train"]
        if labelled:
            query, gallery = parts["query"], parts["test"]
        else:
            vehicles = np.unique(train.identity)
            gallery = train[np.isin(train.identity, vehicles[hold_out - 1 :: hold_out])]
            if not len(gallery):
                raise ValueError(f"{folder} has {len(vehicles)} vehicles, too few for hold_out={hold_out}")
            train = train[~np.isin(train.identity, gallery.identity)]
            pairs = np.stack([gallery.identity, gallery.camera])
            query = gallery[np.unique(pairs, axis=1, return_index=True)[1]]
        super().__init__(train, query, gallery, **kwargs)

    def unlisted(self) -> list[str]:
        """Training images that ``train_label.xml`` does not label."""
        labelled = read_labels(Path(self.dataset_dir) / "train_label.xml")
        return sorted(p.name for p in Path(self.dataset_dir).glob("image_train/*.jpg") if p.name not in labelled)


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by image name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as ``read_items``; an item lacks its name, vehicle or camera; there is none, or two contradict each
            other.
    """
    labels = once(_items(path), path)
    if not labels:
        raise ValueError(f"{path} labels no image: <Item imageName=... vehicleID=... cameraID=... /> are expected")
    return labels


def _items(path: Path) -> Iterator[tuple[str, Label]]:
    for number, item in enumerate(read_items(path), start=1):
        vehicle = count(item.get("vehicleID", ""), 0, 10**9)
        camera = count(item.get("cameraID", "").lower().removeprefix("c"), 1, 10**6)
        if vehicle is None or camera is None or not item.get("imageName"):
            raise ValueError(f"item {number} of {path} is {item}: imageName, vehicleID, cameraID are needed")
        yield item["imageName"], Label(vehicle, camera)


def _listed(path: Path, images: Path, labels: dict[str, Label]) -> Sightings:
    names = list(once(((name, None) for name in read_lines(path, "list of images")), path))
    lost = [name for name in names if name not in labels]
    if lost or not names:
        raise ValueError(
            f"{len(lost)} of {len(names)} images of {path} have no label in test_label.xml: "
            f"{sample(lost) or 'the list is empty'}"
        )
    return _sightings(names, images, labels)


def _sightings(names: list[str], images: Path, labels: dict[str, Label]) -> Sightings:
    identity, camera = np.array([labels[name] for name in names]).T
    return Sightings(camera - 1, identity=identity, path=np.array([str(images / name) for name in names]))


def _with_tracks(part: Sightings, path: Path) -> Sightings:
    if not path.is_file():
        return part
    lines = enumerate(read_lines(path, "tracks"), start=1)
    of_name = once(((name, row) for row, line in lines for name in line.split()), path)
    names = [Path(image).name for image in part.path.tolist()]
    for what, found in (
        ("{count} [image is|images are] in no track of", [name for name in names if name not in of_name]),
        ("{count} [name that no list has stands|names that no list has stand] in", sorted(set(of_name) - set(names))),
    ):
        if found:
            _log.warning("%s %s: %s", numbered(what, len(found)), path, sample(found))
    track = np.array([of_name[name] - 1 if name in of_name else UNKNOWN for name in names], dtype=np.int64)
    return replace(part, track=track)
