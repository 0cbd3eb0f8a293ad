"""VehicleID (PKU): no cameras, no times; one random image per vehicle against all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from torchreid_dfrst.data.copies import unrepeated
from torchreid_dfrst.data.dataset import Splits, VehicleDataset, with_test_sizes
from torchreid_dfrst.data.numbers import vehicle_number, whole_number
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import read_lines
from torchreid_dfrst.messages import sample
from torchreid_dfrst.sightings import Sightings, draw


class VehicleID(VehicleDataset):
    """VehicleID (Liu et al., CVPR 2016), ``VehicleID_V1.0``: 13,164 training vehicles.

    The standard protocol draws one random image of each vehicle into the *gallery*; all others are queries; ten
    repeats are averaged. ``split_id`` is the repeat, the same draw as ``sightings.draw(identity, split_id)``, so
    ``dfrst evaluate`` makes all ten from the features of any one. There are no cameras: training images and
    queries get 0, gallery images 1, which keeps torchreid's junk rule from removing the only match.

    This class takes the test list of 800 vehicles; the classes below take the larger ones.

    Args:
        root: the folder that holds ``VehicleID_V1.0`` or is it.
        split_id: which of the repeats, from 0; torchreid hands it on.
        reverse: one image per vehicle is the *query*, all others are the gallery. Some code does this; its results are
            far higher (rank 1 of 95 instead of 77 percent) and never comparable.
    """

    folder_names = ("vehicleid", "VehicleID_V1.0", "VehicleID")
    marker = ("train_test_split",)
    advice = "VehicleID is sent by its authors on request; --root holds VehicleID_V1.0."
    image_folder = "image"
    lists = ("train_list.txt", "test_list_{size}.txt")
    test_size = 800

    @classmethod
    def read(cls, folder: Path, split_id: int = 0, reverse: bool = False) -> Splits:
        """Read both lists and draw one test image of each vehicle."""
        problems, images = Problems(), folder / cls.image_folder
        train, test = (problems.attempt(read_list, path, images) for path in cls.list_paths(folder))
        problems.raise_all()
        one = draw(test.identity, split_id)
        query, gallery = (test[one], test[~one]) if reverse else (test[~one], test[one])
        gallery = replace(gallery, camera=np.ones(len(gallery), dtype=np.int64))
        return Splits(train, query, gallery, protocol="vehicleid-reversed" if reverse else "vehicleid")


VehicleID1600, VehicleID2400, VehicleID3200, VehicleID6000, VehicleID13164 = with_test_sizes(
    VehicleID, 1600, 2400, 3200, 6000, 13164
)


def read_list(path: Path, images: Path) -> Sightings:
    """Images of a list of lines ``0279029 23781`` (image without ending, vehicle), in the order of their names."""
    rows = [line.split() for line in read_lines(path, "list of images")]
    bad = [
        " ".join(row)
        for row in rows
        if len(row) != 2 or whole_number(row[0], 0, 10**9) is None or vehicle_number(row[1]) is None
    ]
    if bad or not rows:
        raise ValueError(
            f"{len(bad)} of {len(rows)} lines of {path} are not of the form '0279029 23781' (image, vehicle): "
            f"{sample(bad) or 'the list is empty'}"
        )
    vehicles = dict(sorted(unrepeated(((name, vehicle_number(vehicle)) for name, vehicle in rows), path).items()))
    words = {name: vehicle for name, vehicle in rows}
    return Sightings(
        camera=np.zeros(len(vehicles), dtype=np.int64),
        identity=np.array(list(vehicles.values())),
        path=np.array([str(images / f"{name}.jpg") for name in vehicles]),
        vehicle_name=np.array([words[name] for name in vehicles]),
    )
