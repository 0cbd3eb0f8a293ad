"""VehicleID (PKU): no cameras, no times; one random image per vehicle against all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from torchreid_dfrst.data.dataset import VehicleDataset, find_folder
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import count, first_words, once, read_lines, sample
from torchreid_dfrst.evaluation.protocols import draw
from torchreid_dfrst.sightings import Sightings


class VehicleID(VehicleDataset):
    """VehicleID (Liu et al., CVPR 2016), ``VehicleID_V1.0``: 13,164 training vehicles.

    The standard protocol draws one random image of each vehicle into the *gallery*; all others are queries; ten
    repeats are averaged. ``split_id`` is the repeat, the same draw as ``protocols.draw(identity, split_id)``, so
    ``tools/evaluate.py`` makes all ten from the features of any one. There are no cameras: training images and
    queries get 0, gallery images 1, which keeps torchreid's junk rule from removing the only match.

    This class takes the test list of 800 vehicles; the classes below take the larger ones.

    Args:
        root: the folder that holds ``VehicleID_V1.0`` or is it.
        split_id: which of the repeats, from 0; torchreid hands it on.
        reverse: True: one image per vehicle is the *query*, all others are the gallery. Some code does this; its
            results are far higher (rank 1 of 95 instead of 77 percent) and never comparable.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a line is not ``image vehicle``, or two lines contradict each other.
    """

    dataset_dir = "vehicleid"
    folder_names: ClassVar[tuple[str, ...]] = ("vehicleid", "VehicleID_V1.0", "VehicleID")
    advice: ClassVar[str] = "VehicleID is sent by its authors on request; --root holds VehicleID_V1.0."
    test_size: ClassVar[int] = 800

    def __init__(self, root: str = "", split_id: int = 0, reverse: bool = False, **kwargs: Any) -> None:
        folder = find_folder(root, self.folder_names, ("train_test_split",), self.advice)
        self.root, self.dataset_dir = root, str(folder)
        lists = folder / "train_test_split"
        problems, read = Problems(), {}
        for part in ("train_list", f"test_list_{self.test_size}"):
            with problems.noted():
                read[part] = read_list(lists / f"{part}.txt", folder / "image")
        problems.raise_all()
        train, test = read.values()
        one = draw(test.identity, split_id)
        few, many = test[one], test[~one]
        query, gallery = (few, many) if reverse else (many, few)
        gallery = replace(gallery, camera=np.ones(len(gallery), dtype=np.int64))
        super().__init__(train, query, gallery, **kwargs)

    def unlisted(self) -> list[str]:
        """Images that neither the training list nor any test list names."""
        folder = Path(self.dataset_dir)
        listed = first_words((folder / "train_test_split").glob("t*.txt"))
        return sorted(path.name for path in folder.glob("image/*.jpg") if path.stem not in listed)


class VehicleID1600(VehicleID):
    """The test list of 1,600 vehicles."""

    test_size = 1600


class VehicleID2400(VehicleID):
    """The test list of 2,400 vehicles."""

    test_size = 2400


class VehicleID3200(VehicleID):
    """The test list of 3,200 vehicles."""

    test_size = 3200


class VehicleID6000(VehicleID):
    """The test list of 6,000 vehicles."""

    test_size = 6000


class VehicleID13164(VehicleID):
    """The test list of 13,164 vehicles."""

    test_size = 13164


def read_list(path: Path, images: Path) -> Sightings:
    """Images of a list of lines ``0279029 23781`` (image without ending, vehicle), in the order of their names.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is empty, a line is of another form, or an image is listed with two vehicles.
    """
    rows = [line.split() for line in read_lines(path, "list of images")]
    bad = [" ".join(row) for row in rows if len(row) != 2 or any(count(word, 0, 10**9) is None for word in row)]
    if bad or not rows:
        raise ValueError(
            f"{len(bad)} of {len(rows)} lines of {path} are not of the form '0279029 23781' (image, vehicle): "
            f"{sample(bad) or 'the list is empty'}"
        )
    vehicles = dict(sorted(once(((name, int(vehicle)) for name, vehicle in rows), path).items()))
    return Sightings(
        camera=np.zeros(len(vehicles), dtype=np.int64),
        identity=np.array(list(vehicles.values())),
        path=np.array([str(images / f"{name}.jpg") for name in vehicles]),
    )
