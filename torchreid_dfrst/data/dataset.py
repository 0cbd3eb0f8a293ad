"""The common ground of our data sets: lists become sightings, and sightings torchreid's tuples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torchreid

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.data.text import read_lines, sample, unrepeated, warn
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings


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
        """Raise a ``ValueError`` if one of the three is empty."""
        for split, part in self.parts().items():
            if not len(part):
                raise ValueError(f"the {split} split of {name} is empty: torchreid needs all three")


class VehicleDataset(torchreid.data.ImageDataset):
    """A torchreid data set that keeps the times of its images.

    A subclass says where its folder is and reads it. Items are torchreid's ``(path, pid, camid)``: training identities
    relabelled ``0..N-1`` in ascending order, query and gallery identities and ``camid`` as in the sightings. Training
    vehicles of one camera and queries without a match are logged.

    Args:
        root: torchreid's ``--root``: the folder that holds the data set, or the data set itself.
        kwargs: those of ``read``, and of torchreid's own data sets (``transform``, ``mode``, ``combineall``, ...).

    Attributes:
        dataset_dir: folder of the data set.
        splits: what the lists say; ``network`` and ``protocol`` are its.
        sightings: ``train``, ``query`` and ``gallery``, row for row with torchreid's lists of the same name, so that
            ``train`` holds everything with ``combineall``; identities are the original ones.

    Raises:
        FileNotFoundError: there is no such folder, or a part of it is missing.
        ValueError: a split is empty, no query has a match, or as ``read``.
    """

    folder_names: ClassVar[tuple[str, ...]] = ()  # of its folder, the first one preferred
    marker: ClassVar[tuple[str, ...]]  # files or folders of which its folder holds at least one
    advice: ClassVar[str]  # what to do if it is not found
    image_folder: ClassVar[str] = ""  # where each image should be in a list; empty if being in the folder is enough
    lists: ClassVar[tuple[str, ...]] = ()  # those that are read, of train_test_split; {size} is the test_size
    test_size: ClassVar[int] = 0

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        place, own = self.find(root), inspect.signature(self.read).parameters
        self.root, self.dataset_dir = root, str(place if place.is_dir() else place.parent)
        self.splits = splits = self.read(place, **{name: kwargs.pop(name) for name in own if name in kwargs})
        splits.require_images(type(self).__name__)
        _report_matches(type(self).__name__, splits)
        self.network, self.protocol, self.sightings = splits.network, splits.protocol, splits.parts()
        if kwargs.get("combineall"):
            self.sightings["train"] = Sightings.concatenate([*splits.parts().values()])
        dense = replace(splits.train, identity=np.unique(splits.train.identity, return_inverse=True)[1])
        super().__init__(*map(_items, (dense, splits.query, splits.gallery)), **kwargs)

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


def one_camera_vehicles(sightings: Sightings) -> list[str]:
    """Vehicles that a single camera saw, by name; rows without identity are left out."""
    known = sightings[sightings.identity != UNKNOWN]
    pairs = np.unique(np.stack([known.identity, known.camera]), axis=1)
    identity, cameras = np.unique(pairs[0], return_counts=True)
    return vehicles_called(known, identity[cameras == 1])


def lone_queries(query: Sightings, gallery: Sightings) -> np.ndarray:
    """Rows of the queries whose vehicle no *other* camera saw in the gallery: the junk rule leaves them no match."""
    seen_by: dict[int, set[int]] = {}
    for vehicle, camera in zip(gallery.identity.tolist(), gallery.camera.tolist(), strict=True):
        seen_by.setdefault(vehicle, set()).add(camera)
    rows = zip(query.identity.tolist(), query.camera.tolist(), strict=True)
    return np.array([k for k, (v, c) in enumerate(rows) if not seen_by.get(v, set()) - {c}], dtype=np.int64)


def _report_matches(name: str, splits: Splits) -> None:
    train, query = splits.train, splits.query
    if len(np.unique(train.camera)) > 1:
        text = f"{{count}} of {len(np.unique(train.identity))} training vehicles of {name} [is|are] seen by one camera "
        warn(f"{text}only and [teaches|teach] nothing about travel times", one_camera_vehicles(train))
    lone = lone_queries(query, splits.gallery)
    if len(lone) == len(query):
        raise ValueError(
            f"none of the {len(query)} queries of {name} shows a vehicle that another camera saw in the gallery: "
            "check that query and gallery belong together"
        )
    text = f"{{count}} of {len(query)} queries of {name} [shows|show] a vehicle that no other camera saw and cannot be "
    warn(f"{text}scored", query.path[lone])


def _items(part: Sightings) -> list[tuple[str, int, int]]:
    return list(zip(part.path.tolist(), part.identity.tolist(), part.camera.tolist(), strict=True))
