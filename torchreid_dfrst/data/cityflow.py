"""CityFlow-ReID, the re-identification part of the AI City Challenge: labels in XML, no times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torchreid_dfrst.data.copies import unrepeated
from torchreid_dfrst.data.dataset import Splits, VehicleDataset, tracks_of
from torchreid_dfrst.data.numbers import vehicle_number, whole_number
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import read_items, read_lines
from torchreid_dfrst.messages import sample
from torchreid_dfrst.sightings import UNKNOWN, Sightings


@dataclass(frozen=True)
class Annotation:
    """Vehicle and camera of one image, cameras from 1, and how the file writes them."""

    vehicle: int
    camera: int
    words: tuple[str, str] = field(compare=False, repr=False)


class CityFlow(VehicleDataset):
    """CityFlow-ReID (Tang et al., CVPR 2019): 36,935 training images of 333 vehicles, 40 cameras.

    The challenge keeps its test labels. With a ``test_label.xml`` of your own in the form of ``train_label.xml``
    (query and gallery), the official split is scored. Without it, training vehicles are divided: every
    ``hold_out``-th becomes the test set, one query for each of its cameras, all its images in the gallery.

    Args:
        root: the folder that holds ``cityflow`` (or ``AIC20_track2``...) or is it.
        hold_out: without test labels, every how many-th vehicle is held out, at least 2.
    """

    folder_names = ("cityflow", "CityFlow-ReID", "AIC19_track2_reid", "AIC20_track2_reid", "AIC21_Track2_ReID")
    marker = ("train_label.xml",)
    advice = "CityFlow-ReID comes from the AI City Challenge; --root is the folder that holds it."
    image_folder = "image_train"

    @classmethod
    def read(cls, folder: Path, hold_out: int = 5) -> Splits:
        """Read labels, lists and tracks."""
        if hold_out < 2:
            raise ValueError(f"hold_out is {hold_out}: every second vehicle at most can be held out")
        problems = Problems()
        labels = problems.attempt(_read_annotations, folder / "train_label.xml")
        train = labels and problems.attempt(_sightings, folder, "train", sorted(labels), labels)
        test = problems.attempt(_read_test, folder) if (folder / "test_label.xml").is_file() else None
        problems.raise_all()
        if test:
            return Splits(train, *test)
        vehicles = train.vehicles
        held = np.isin(train.identity, vehicles[hold_out - 1 :: hold_out])
        if not held.any():
            raise ValueError(f"{folder} has {len(vehicles)} vehicles, too few for hold_out={hold_out}")
        gallery = train[held]
        one_each = np.unique(np.stack([gallery.identity, gallery.camera]), axis=1, return_index=True)[1]
        return Splits(train[~held], gallery[one_each], gallery)


def _read_annotations(path: Path) -> dict[str, Annotation]:
    """Labels by image name."""
    labels = unrepeated(_annotation_items(path), path)
    if not labels:
        raise ValueError(f"{path} labels no image: <Item imageName=... vehicleID=... cameraID=... /> are expected")
    return labels


def _annotation_items(path: Path) -> Iterator[tuple[str, Annotation]]:
    for number, item in enumerate(read_items(path), start=1):
        words = item.get("vehicleID", ""), item.get("cameraID", "")
        vehicle = vehicle_number(words[0])
        camera = whole_number(words[1].lower().removeprefix("c"), 1, 10**6)
        if vehicle is None or camera is None or not item.get("imageName"):
            raise ValueError(f"item {number} of {path} is {item}: imageName, vehicleID, cameraID are needed")
        yield item["imageName"], Annotation(vehicle, camera, words)


def _read_test(folder: Path) -> tuple[Sightings, Sightings]:
    problems, labels = Problems(), _read_annotations(folder / "test_label.xml")
    query = problems.attempt(_read_folder_of_images, folder, "query", labels)
    gallery = problems.attempt(_read_folder_of_images, folder, "test", labels)
    problems.raise_all()
    return query, gallery


def _read_folder_of_images(folder: Path, part: str, labels: dict[str, Annotation]) -> Sightings:
    path = folder / f"name_{part}.txt"
    names = list(unrepeated(((name, None) for name in read_lines(path, "list of images")), path))
    lost = [name for name in names if name not in labels]
    if lost or not names:
        raise ValueError(
            f"{len(lost)} of {len(names)} images of {path} have no label in test_label.xml: "
            f"{sample(lost) or 'the list is empty'}"
        )
    return _sightings(folder, part, names, labels)


def _sightings(folder: Path, part: str, names: list[str], labels: dict[str, Annotation]) -> Sightings:
    path, track = folder / f"{part}_track.txt", np.full(len(names), UNKNOWN)
    if path.is_file():
        track = tracks_of(names, [line.split() for line in read_lines(path, "tracks")], path)
    found = [labels[name] for name in names]
    vehicle_name, camera_name = np.array([label.words for label in found]).T
    return Sightings(
        camera=np.array([label.camera - 1 for label in found]),
        identity=np.array([label.vehicle for label in found]),
        track=track,
        path=np.array([str(folder / f"image_{part}" / name) for name in names]),
        camera_name=camera_name,
        vehicle_name=vehicle_name,
    )
