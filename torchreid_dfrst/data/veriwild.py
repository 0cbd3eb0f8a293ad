"""VERI-Wild: 174 cameras and one month of times, but no map."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from torchreid_dfrst.data.dataset import VehicleDataset, find_folder
from torchreid_dfrst.data.problems import Problems
from torchreid_dfrst.data.text import count, first_words, once, read_lines, sample
from torchreid_dfrst.sightings import Sightings

FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%d%H%M%S", "%Y-%m-%d_%H-%M-%S")
_log = logging.getLogger(__name__)


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
        time_format: as ``datetime.strptime`` takes it; None tries the usual ones.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: a list or ``vehicle_info.txt`` is missing.
        ValueError: a line is of another form, lines contradict each other, or an image has no camera.
    """

    dataset_dir = "veriwild"
    folder_names: ClassVar[tuple[str, ...]] = ("veriwild", "VERI-Wild", "VeRI-Wild")
    advice: ClassVar[str] = "VERI-Wild is sent by its authors on request; --root is the folder that holds VERI-Wild."
    test_size: ClassVar[int] = 3000

    def __init__(self, root: str = "", time_format: str | None = None, **kwargs: Any) -> None:
        folder = find_folder(root, self.folder_names, ("train_test_split",), self.advice)
        self.root, self.dataset_dir = root, str(folder)
        lists = folder / "train_test_split"
        information = [lists / "vehicle_info.txt", folder / "vehicle_info.txt"]
        self.information = next(filter(Path.is_file, information), information[0])
        problems, seen, splits = Problems(), None, []
        with problems.noted():
            seen = read_information(self.information, time_format)
        for name in ("train_list.txt", f"test_{self.test_size}_query.txt", f"test_{self.test_size}.txt"):
            with problems.noted():
                names = _names(lists / name)
                if seen is not None:
                    splits.append(_split(lists / name, names, folder / "images", seen))
        problems.raise_all()
        train, query, gallery = splits
        super().__init__(train, query, gallery, **kwargs)

    @cached_property
    def labels(self) -> dict[str, Record]:
        """Model, type and colour by ``vehicle/image``, of all images of VERI-Wild; read when first asked for."""
        return read_records(self.information)

    def unlisted(self) -> list[str]:
        """Images, as ``vehicle/image``, that neither the training list nor any test list names."""
        folder = Path(self.dataset_dir)
        listed = first_words((folder / "train_test_split").glob("t*.txt"))
        found = (
            path.relative_to(folder / "images").with_suffix("").as_posix() for path in folder.glob("images/*/*.jpg")
        )
        return sorted(set(found) - {name.removesuffix(".jpg") for name in listed})


class VeRiWild5000(VeRiWild):
    """The medium test set."""

    test_size = 5000


class VeRiWild10000(VeRiWild):
    """The large test set."""

    test_size = 10000


def read_records(path: Path) -> dict[str, Record]:
    """What ``vehicle_info.txt`` says, by ``vehicle/image``.

    Lines are ``id/image;Camera ID;Time;Model;Type;Color`` after a header line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has too few fields or a camera that is no number, or lines contradict each other.
    """
    return once(_records(path), path)


def read_information(path: Path, time_format: str | None = None) -> dict[str, tuple[int, float]]:
    """Camera (from 0) and time in seconds (NaN if unknown) by ``vehicle/image``.

    Raises:
        FileNotFoundError, ValueError: as ``read_records``.
    """
    parse = time_parser(time_format)
    records = read_records(path)
    found = {name: (record.camera, parse(record.time)) for name, record in records.items()}
    unread = [records[name].time for name, (_, time) in found.items() if np.isnan(time)]
    if unread:
        _log.warning(
            "%d of %d times in %s cannot be read (%s): these images have no time; %s",
            len(unread),
            len(found),
            path,
            sample(unread),
            f"their format is not {time_format!r}" if time_format else "give their format with time_format",
        )
    return found


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in enumerate(read_lines(path, "cameras and times"), start=1):
        fields = [field.strip() for field in line.split(";")]
        if number == 1 and fields[0].lower().startswith("id"):
            continue
        camera = count(fields[1], 0, 10**6) if len(fields) >= 3 else None
        if camera is None:
            raise ValueError(f"line {number} of {path} is {line[:80]!r}, expected id/image;camera;time;...")
        yield fields[0].removesuffix(".jpg"), Record(camera, *[*fields[2:6], "", "", ""][:4])


def time_parser(time_format: str | None) -> Callable[[str], float]:
    """A function from the text of a date and time to seconds since 1970 (read as UTC), NaN if it is none."""
    formats = FORMATS if time_format is None else (time_format,)

    def parse(text: str) -> float:
        for form in formats:
            for whole in (form, form + ".%f"):
                try:
                    moment = datetime.datetime.strptime(text, whole)
                    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()
                except (ValueError, OverflowError):
                    continue
        return float("nan")

    return parse


def _names(path: Path) -> list[str]:
    # test_3000_id.txt and its like have vehicle and camera as numbers behind the name
    rows = [line.split() for line in read_lines(path, "list of images")]
    names = [row[0].removesuffix(".jpg") for row in rows]
    bad = []
    for name, row in zip(names, rows, strict=True):
        vehicle, *image = name.split("/")
        if len(image) != 1 or any(count(word, 0, 10**9) is None for word in (vehicle, *row[1:])):
            bad.append(" ".join(row)[:80])
    if bad or not names:
        raise ValueError(
            f"{len(bad)} of {len(names)} lines of {path} are not of the form 20342/209528 (vehicle/image): "
            f"{sample(bad) or 'the list is empty'}"
        )
    return list(once(((name, None) for name in names), path))


def _split(path: Path, names: list[str], images: Path, seen: dict[str, tuple[int, float]]) -> Sightings:
    lost = [name for name in names if name not in seen]
    if lost:
        raise ValueError(f"{len(lost)} images of {path} are not in vehicle_info.txt ({sample(lost)}): no camera known")
    camera, time = np.array([seen[name] for name in names]).T
    return Sightings(
        camera=camera.astype(np.int64),
        time_s=time,
        identity=np.array([int(name.split("/")[0]) for name in names]),
        path=np.array([str(images / f"{name}.jpg") for name in names]),
    )
