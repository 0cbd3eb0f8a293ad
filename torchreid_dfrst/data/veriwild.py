"""VERI-Wild: 174 cameras and one month of times, but no map."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.data.copies import unrepeated
from torchreid_dfrst.data.dataset import Splits, VehicleDataset, with_test_sizes
from torchreid_dfrst.data.numbers import vehicle_number, whole_number
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import read_lines
from torchreid_dfrst.data.times import ACCEPTED
from torchreid_dfrst.data.times import read_times as column_of_times
from torchreid_dfrst.messages import sample
from torchreid_dfrst.sightings import Sightings

logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """What ``vehicle_info.txt`` says of one image, as written but for blanks around it; empty where it says nothing."""

    camera: int
    time: str
    model: str
    type: str
    color: str


class VeRiWild(VehicleDataset):
    """VERI-Wild (Lou et al., CVPR 2019): 277,797 training images of 30,671 vehicles, cameras from 0.

    Times come from ``vehicle_info.txt``, whose format no public source states: several forms are tried, what cannot
    be read is counted and left out, and ``time_format`` settles it. Same vehicle and same camera is junk; with that
    rule 12 of the 3,000 and 21 of the 5,000 queries have no match left and are skipped, which the card counts.

    This class takes the small test set; ``VeRiWild5000`` and ``VeRiWild10000`` take the others.

    Args:
        root: the folder that holds ``VERI-Wild`` or is it.
        time_format: as ``datetime.strptime`` takes it; None takes what ``times.ACCEPTED`` lists.
    """

    folder_names = ("veriwild", "VERI-Wild", "VeRI-Wild")
    marker = ("train_test_split",)
    advice = "VERI-Wild is sent by its authors on request; --root is the folder that holds VERI-Wild."
    image_folder = "images"
    lists = ("train_list.txt", "test_{size}_query.txt", "test_{size}.txt")
    test_size = 3000

    @classmethod
    def read(cls, folder: Path, time_format: str | None = None) -> Splits:
        """Read cameras and times, and the three lists."""
        places = [parent / "vehicle_info.txt" for parent in (folder / "train_test_split", folder)]
        information = next(filter(Path.is_file, places), places[0])
        problems = Problems()
        records = problems.attempt(read_records, information)
        times = records and problems.attempt(read_times, records, information, time_format)
        parts = [
            problems.attempt(_read_list, path, folder / cls.image_folder, records, times)
            for path in cls.list_paths(folder)
        ]
        problems.raise_all()
        train, query, gallery = parts
        return Splits(train, query, gallery, labels=records, protocol="veriwild")

    @property
    def labels(self) -> Mapping[str, Record]:
        """Model, type and colour by ``vehicle/image``, of all images of VERI-Wild."""
        return self.splits.labels


VeRiWild5000, VeRiWild10000 = with_test_sizes(VeRiWild, 5000, 10000)


def read_records(path: Path) -> dict[str, Record]:
    """What the lines ``id/image;Camera ID;Time;Model;Type;Color`` of ``vehicle_info.txt`` say, by ``vehicle/image``."""
    records = unrepeated(_record_lines(path), path)
    if not records:
        raise ValueError(f"{path} is empty: a line id/image;camera;time;... per image is expected")
    return records


def read_times(records: Mapping[str, Record], path: Path, time_format: str | None = None) -> dict[str, float]:
    """Seconds by ``vehicle/image``, see ``times.read_times``; NaN where the time cannot be read, which is logged."""
    names = list(records)
    words, cameras = [record.time for record in records.values()], [str(record.camera) for record in records.values()]
    seconds, unread = column_of_times(words, path, time_format, names.__getitem__, cameras)
    if unread:
        advice = f"their format is not {time_format!r}" if time_format else f"give time_format; read are {ACCEPTED}"
        logger.warning(
            f"{len(unread)} of {len(names)} times in {path} cannot be read ({sample(words[k] for k in unread)}): these "
            f"images have no time; {advice}"
        )
    return dict(zip(names, seconds.tolist(), strict=True))


def _record_lines(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in enumerate(read_lines(path, "cameras and times"), start=1):
        fields = [field.strip() for field in line.split(";")]
        if number == 1 and fields[0].lower().startswith("id"):
            continue
        camera = whole_number(fields[1], 0, 10**6) if len(fields) >= 3 else None
        if camera is None:
            raise ValueError(f"line {number} of {path} is {line[:80]!r}, expected id/image;camera;time;...")
        # a few hundred words for 400,000 images
        words = map(intern, [*fields[2:6], "", "", ""][:4])
        yield fields[0].removesuffix(".jpg"), Record(camera, *words)


def _read_list(
    path: Path, images: Path, records: Mapping[str, Record] | None, times: Mapping[str, float] | None
) -> Sightings | None:
    # test_3000_id.txt and its like have vehicle and camera as numbers behind the name
    rows = [line.split() for line in read_lines(path, "list of images")]
    words = [row[0].removesuffix(".jpg") for row in rows]
    bad = []
    for word, row in zip(words, rows, strict=True):
        vehicle, *image = word.split("/")
        if len(image) != 1 or any(vehicle_number(number) is None for number in (vehicle, *row[1:])):
            bad.append(" ".join(row)[:80])
    if bad or not rows:
        raise ValueError(
            f"{len(bad)} of {len(rows)} lines of {path} are not of the form 20342/209528 (vehicle/image): "
            f"{sample(bad) or 'the list is empty'}"
        )
    names = list(unrepeated(((word, None) for word in words), path))
    if records is None or times is None:
        return None
    lost = [name for name in names if name not in records]
    if lost:
        raise ValueError(f"{len(lost)} images of {path} are not in vehicle_info.txt ({sample(lost)}): no camera known")
    vehicles = [name.partition("/")[0] for name in names]
    return Sightings(
        camera=np.array([records[name].camera for name in names]),
        time_s=np.array([times[name] for name in names]),
        identity=np.array([vehicle_number(vehicle) for vehicle in vehicles]),
        path=np.array([str(images / f"{name}.jpg") for name in names]),
        vehicle_name=np.array(vehicles),
    )
