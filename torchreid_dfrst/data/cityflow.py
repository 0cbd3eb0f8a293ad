"""CityFlow-ReID, the re-identification part of the AI City Challenge: labels in XML, no times."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from torchreid_dfrst.data.dataset import VehicleDataset, find_folder
from torchreid_dfrst.data.text import count, read_lines, sample
from torchreid_dfrst.data.xml_items import read_items
from torchreid_dfrst.sightings import UNKNOWN, Sightings


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
        ValueError: a label file is broken, or an item lacks its name, vehicle or camera.
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
        train = _labelled(folder / "train_label.xml", folder / "image_train")
        train = _with_tracks(train, folder / "train_track.txt")
        if (folder / "test_label.xml").is_file():
            query = _labelled(folder / "test_label.xml", folder / "image_query", folder / "name_query.txt")
            gallery = _labelled(folder / "test_label.xml", folder / "image_test", folder / "name_test.txt")
            gallery = _with_tracks(gallery, folder / "test_track.txt")
        else:
            vehicles = np.unique(train.identity)
            gallery = train[np.isin(train.identity, vehicles[hold_out - 1 :: hold_out])]
            if not len(gallery):
                raise ValueError(f"{folder} has {len(vehicles)} vehicles, too few for hold_out={hold_out}")
            train = train[~np.isin(train.identity, gallery.identity)]
            pairs = np.stack([gallery.identity, gallery.camera])
            query = gallery[np.unique(pairs, axis=1, return_index=True)[1]]
        super().__init__(train, query, gallery, **kwargs)


def _labelled(path: Path, images: Path, names: Path | None = None) -> Sightings:
    labels: dict[str, tuple[int, int]] = {}
    for number, item in enumerate(read_items(path), start=1):
        vehicle = count(item.get("vehicleID", ""), 0, 10**9)
        camera = count(item.get("cameraID", "").lower().removeprefix("c"), 1, 10**6)
        if vehicle is None or camera is None or not item.get("imageName"):
            raise ValueError(f"item {number} of {path} is {item}: imageName, vehicleID, cameraID are needed")
        labels[item["imageName"]] = (vehicle, camera - 1)
    listed = sorted(labels) if names is None else read_lines(names, "list of images")
    lost = [name for name in listed if name not in labels]
    if lost or not listed:
        raise ValueError(
            f"{len(lost)} of {len(listed)} images of {names or path} have no label in {path}: {sample(lost)}"
        )
    identity, camera = np.array([labels[name] for name in listed]).T
    return Sightings(camera, identity=identity, path=np.array([str(images / name) for name in listed]))


def _with_tracks(part: Sightings, path: Path) -> Sightings:
    if not path.is_file():
        return part
    of_name = {name: row for row, line in enumerate(read_lines(path, "tracks")) for name in line.split()}
    track = np.array([of_name.get(Path(image).name, UNKNOWN) for image in part.path.tolist()], dtype=np.int64)
    return Sightings(part.camera, part.time_s, part.identity, track, part.path)
