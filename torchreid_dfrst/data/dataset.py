"""The common ground of our data sets: lists become sightings, and sightings torchreid's tuples."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torchreid

from torchreid_dfrst.data.copies import refuse_copies, unrepeated
from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.text import read_lines
from torchreid_dfrst.messages import sample
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Splits:
    """What the lists of a data set say: images with paths, and identities as the lists have them."""

    train: Sightings
    query: Sightings
    gallery: Sightings
    network: CameraNetwork | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)  # what the lists say besides, by image
    protocol: str = "image-to-image"  # with which results are published

    def parts(self) -> dict[str, Sightings]:
        """``train``, ``query`` and ``gallery`` by name."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    def require_images(self, name: str) -> None:
        """Raise a ``ValueError`` if there is no query or no gallery."""
        for split in ("query", "gallery"):
            if not len(self.parts()[split]):
                raise ValueError(f"the {split} split of {name} is empty: query and gallery are needed")


class VehicleDataset(torchreid.data.ImageDataset):
    """A torchreid data set that keeps the times of its images; a subclass says where its folder is and reads it.

    Items are torchreid's ``(path, pid, camid)``: training identities
    relabelled ``0..N-1`` in ascending order, query and gallery identities and ``camid`` as in the sightings. Training
    images without an identity are left out, -1 in query and gallery. These, training vehicles of one camera and queries
    without a match are logged.

    Args:
        root: torchreid's ``--root``: the folder that holds the data set, or the data set itself.
        kwargs: those of ``read``, which a subclass documents, and of torchreid's own data sets (``transform``, ...).

    Attributes:
        dataset_dir: folder of the data set.
        splits: what the lists say; ``network`` and ``protocol`` are its.
        sightings: ``train``, ``query`` and ``gallery``, row for row with torchreid's lists; original identities.

    Raises:
        FileNotFoundError: there is no such folder, or a list of it is missing.
        ValueError: there is no query or no gallery, a query image stands in the gallery under another camera or
            vehicle, a line is of another form, or lines contradict each other.
    """

    folder_names: ClassVar[tuple[str, ...]] = ()  # of its folder, the first one preferred
    marker: ClassVar[tuple[str, ...]]  # files or folders of which its folder holds at least one
    advice: ClassVar[str]  # what to do if it is not found
    image_folder: ClassVar[str] = ""  # where each image should be in a list; empty if being in the folder is enough
    lists: ClassVar[tuple[str, ...]] = ()  # those that are read, of train_test_split; {size} is the test_size
    test_size: ClassVar[int] = 0
    own_lists: ClassVar[bool] = False  # whoever uses it wrote its lists: the bytes of its images are compared
    _junk_pids: ClassVar[list[int]] = [UNKNOWN]  # torchreid's combineall leaves them out
    train: list[Any]
    data: list[Any]

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        place, own = self.find(root), inspect.signature(self.read).parameters
        self.root, self.dataset_dir = root, str(place if place.is_dir() else place.parent)
        self.splits = splits = self.read(place, **{name: kwargs.pop(name) for name in own if name in kwargs})
        splits.require_images(type(self).__name__)
        if self.own_lists:
            refuse_copies(splits.query, splits.gallery)
        report_unknown(splits.parts())
        _report_matches(type(self).__name__, splits)
        self.splits = splits = replace(splits, train=splits.train[splits.train.known])
        self.network, self.protocol, self.sightings = splits.network, splits.protocol, splits.parts()
        if kwargs.get("combineall"):
            everything = Sightings.concatenate([*splits.parts().values()])
            self.sightings["train"] = everything[everything.known]
        dense = replace(splits.train, identity=np.unique(splits.train.identity, return_inverse=True)[1])
        train, query, gallery = (
            list(zip(part.path.tolist(), part.identity.tolist(), part.camera.tolist(), strict=True))
            for part in (dense, splits.query, splits.gallery)
        )
        super().__init__(train or query[:1], query, gallery, **kwargs)
        if not train:  # torchreid looks at the first training image, whether there is one or not
            self.train = self.train[1:]
            self.data = self.train if self.mode == "train" else self.data

    @classmethod
    def read(cls, folder: Path) -> Splits:
        """Read every list once; a subclass adds the options that the data set takes, with defaults."""
        raise NotImplementedError

    @classmethod
    def find(cls, root: str | Path, marker: Sequence[str] = ()) -> Path:
        """The data set's folder: in ``root`` under one of its names, else ``root``; whichever holds a ``marker``."""
        root, marker = Path(root).expanduser().absolute(), marker or cls.marker
        places = [*(root / name for name in cls.folder_names), root]
        for place in places:
            if any((place / mark).exists() for mark in marker):
                return place
        if root.is_file():
            raise FileNotFoundError(
                f"{root} is a file: the folder that holds {' or '.join(marker)} is needed. {cls.advice}"
            )
        held = sample(sorted(p.name for p in root.iterdir()), 8) if root.is_dir() else "nothing: it does not exist"
        raise FileNotFoundError(
            f"no {' or '.join(marker)} in {', '.join(map(str, places))}. {root} holds {held or 'nothing'}. {cls.advice}"
        )

    @classmethod
    def splits_at(cls, root: str | Path, **options: Any) -> Splits:
        """What the lists of the data set in ``root`` say; no image is opened, nor needed where the lists name them."""
        return cls.read(cls.find(root), **options)

    @classmethod
    def list_paths(cls, folder: Path) -> list[Path]:
        """The ``lists`` of a folder."""
        return [folder / "train_test_split" / name.format(size=cls.test_size) for name in cls.lists]

    @classmethod
    def unlisted(cls, folder: Path, splits: Splits) -> list[str]:
        """Images of the folder that no list names, so that nothing uses them; lists of other test sets count too."""
        if not cls.image_folder:
            return []
        listed = {path for part in splits.parts().values() for path in part.path.tolist()}
        for path in set(folder.glob("train_test_split/t*.txt")) - {*cls.list_paths(folder)}:
            words = (line.split()[0] for line in read_lines(path, "list of images"))
            listed |= {str(folder / cls.image_folder / f"{word.removesuffix('.jpg')}.jpg") for word in words}
        found = (folder / cls.image_folder).glob("**/*.jpg")
        return sorted(path.relative_to(folder).as_posix() for path in found if str(path) not in listed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image as torchreid gives it, or a ``BadImageError``: torchreid tries a broken file again for ever."""
        path, pid, camid, dsetid = self.data[index]
        image = read_image(path)
        if self.transform is not None:
            image = self._transform_image(self.transform, self.k_tfm, image)
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}


def with_test_sizes(dataset: type[VehicleDataset], *sizes: int) -> Iterator[Any]:
    """The same data set with other test lists, each a class that its file has to call ``<name><size>``."""
    for size in sizes:
        words = {"__doc__": f"The test list of {size:,} vehicles.", "__module__": dataset.__module__}
        yield type(f"{dataset.__name__}{size}", (dataset,), {"test_size": size, **words})


def tracks_of(names: list[str], tracks: Sequence[Sequence[str]], path: Path) -> np.ndarray:
    """Place in ``tracks``, the images of each line of a file, of each of ``names``; -1 where no line has it."""
    rows = ((name, f"track {row}") for row, line in enumerate(tracks, start=1) for name in line)
    found = unrepeated(rows, path)
    warn(f"{{count}} [image is|images are] in no track of {path}", [name for name in names if name not in found])
    text = f"{{count}} [name that no list has stands|names that no list has stand] in {path}"
    warn(text, sorted(set(found).difference(names)))
    return np.array([int(found[name][6:]) - 1 if name in found else UNKNOWN for name in names], dtype=np.int64)


def vehicles_called(sightings: Sightings, identity: np.ndarray) -> list[str]:
    """What the user's file calls each of some vehicles of ``sightings``."""
    names = dict(zip(sightings.identity.tolist(), sightings.vehicle_name.tolist(), strict=True))
    return [names[vehicle] or str(vehicle) for vehicle in identity.tolist()]


def one_camera_vehicles(sightings: Sightings) -> np.ndarray:
    """Labels of the vehicles that a single camera saw; rows without identity are left out."""
    known = sightings[sightings.known]
    pairs = np.unique(np.stack([known.identity, known.camera]), axis=1)
    identity, cameras = np.unique(pairs[0], return_counts=True)
    return identity[cameras == 1]


def lone_queries(query: Sightings, gallery: Sightings) -> np.ndarray:
    """Rows of the queries of known vehicles that no *other* camera saw in the gallery: they have no match but junk."""
    seen_by: dict[int, set[int]] = {}
    for vehicle, camera in zip(gallery.identity.tolist(), gallery.camera.tolist(), strict=True):
        seen_by.setdefault(vehicle, set()).add(camera)
    rows = zip(query.identity.tolist(), query.camera.tolist(), strict=True)
    lone = [k for k, (v, c) in enumerate(rows) if v != UNKNOWN and not seen_by.get(v, set()) - {c}]
    return np.array(lone, dtype=np.int64)


UNKNOWN_ARE = {
    "train": "{count} training [image has|images have] no identity: not trained on, and nothing is fitted on [it|them]",
    "query": "{count} query [image has|images have] no identity: not scored",
    "gallery": "{count} gallery [image has|images have] no identity: ranked, and never right",
}
"""What becomes of the images of each split whose vehicle is not known."""


def report_unknown(parts: Mapping[str, Sightings]) -> None:
    """Log how many images of each split have no identity."""
    for split, part in parts.items():
        warn(UNKNOWN_ARE[split], part.path[~part.known])


def one_camera(query: Sightings, gallery: Sightings) -> str:
    """What is the matter where one camera took all images to be ranked; empty if more than one did."""
    cameras = np.union1d(query.camera, gallery.camera)
    if len(cameras) > 1:
        return ""
    return (
        f"all images of query and gallery are from camera {gallery.camera_called(cameras[0])}, so every match is junk: "
        "score with evaluate.protocol no-junk, or read the table with data.options.cameras none (dfrst import "
        "--cameras none)"
    )


def _report_matches(name: str, splits: Splits) -> None:
    train, query = splits.train, splits.query
    if len(np.unique(train.camera)) > 1:
        text = f"{{count}} of {len(train.vehicles)} training vehicles of {name} [is|are] seen by one camera "
        warn(
            f"{text}only and [teaches|teach] nothing about travel times",
            vehicles_called(train, one_camera_vehicles(train)),
        )
    lone = lone_queries(query, splits.gallery)
    if not query.known.any():
        logger.warning(f"no query of {name} has an identity: nothing can be scored, only ranked")
        return
    if len(lone) == query.known.sum():
        advice = one_camera(query, splits.gallery) or "check that query and gallery belong together, or only rank"
        logger.warning(
            f"none of the {len(query)} queries of {name} shows a vehicle that another camera saw in the gallery, so "
            f"nothing can be scored: {advice}"
        )
        return
    text = f"{{count}} of {len(query)} queries of {name} [shows|show] a vehicle that no other camera saw and cannot be "
    warn(f"{text}scored", query.path[lone])
