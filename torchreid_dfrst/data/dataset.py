"""The common ground of our data sets: sightings in, torchreid's tuples out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchreid

from torchreid_dfrst.data.images import read_image
from torchreid_dfrst.data.matches import report_matches
from torchreid_dfrst.data.text import sample
from torchreid_dfrst.sightings import CameraNetwork, Sightings


class VehicleDataset(torchreid.data.ImageDataset):
    """A torchreid data set that keeps the times of its images.

    Items are torchreid's ``(path, pid, camid)``: training identities relabelled ``0..N-1`` in ascending order,
    query and gallery identities as they are, ``camid`` as in the sightings.

    Args:
        train: training images, with paths and identities.
        query: query images.
        gallery: gallery images.
        network: road distances, or None.
        kwargs: as torchreid's own data sets take them (``transform``, ``mode``, ``combineall``, ``verbose``, ...).

    Attributes:
        sightings: ``train``, ``query`` and ``gallery``, row for row with the lists of the same name; identities are
            the original ones.
        network: road distances, or None.

    Raises:
        ValueError: a split is empty, or no query has a match.
    """

    def __init__(
        self,
        train: Sightings,
        query: Sightings,
        gallery: Sightings,
        network: CameraNetwork | None = None,
        **kwargs: Any,
    ) -> None:
        for name, part in (("train", train), ("query", query), ("gallery", gallery)):
            if not len(part):
                raise ValueError(f"the {name} split of {type(self).__name__} is empty: torchreid needs all three")
        report_matches(type(self).__name__, train, query, gallery)
        self.network = network
        self.sightings = {"train": train, "query": query, "gallery": gallery}
        if kwargs.get("combineall"):
            self.sightings["train"] = Sightings.concatenate([train, query, gallery])
        dense = np.unique(train.identity, return_inverse=True)[1]
        super().__init__(
            _items(train, dense), _items(query, query.identity), _items(gallery, gallery.identity), **kwargs
        )

    def unlisted(self) -> list[str]:
        """Images in the data set's folders that no list of it names, so that nothing uses them; for the doctor."""
        return []

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image with its labels, as torchreid's ``ImageDataset`` gives it.

        torchreid's own reader tries a broken file again for ever; this one stops.

        Raises:
            BadImageError: the image is not there or cannot be decoded.
        """
        path, pid, camid, dsetid = self.data[index]
        image = read_image(path)
        if self.transform is not None:
            image = self._transform_image(self.transform, self.k_tfm, image)
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}


def find_folder(root: str | Path, names: Iterable[str], marker: Sequence[str], advice: str) -> Path:
    """Where a data set lies: in ``root`` under one of its names, else ``root`` itself.

    Args:
        root: torchreid's ``--root``.
        names: names of the data set's folder, the first one preferred.
        marker: files or folders of which the data set's folder holds at least one.
        advice: the end of the message if there is none.

    Raises:
        FileNotFoundError: neither place holds a ``marker``.
    """
    root = Path(root).expanduser().absolute()
    places = [*(root / name for name in names), root]
    for place in places:
        if any((place / mark).exists() for mark in marker):
            return place
    held = sample(sorted(path.name for path in root.iterdir()), 8) if root.is_dir() else "nothing: it does not exist"
    raise FileNotFoundError(
        f"no {' or '.join(marker)} in {', '.join(map(str, places))}. {root} holds {held or 'nothing'}. {advice}"
    )


def _items(sightings: Sightings, identity: np.ndarray) -> list[tuple[str, int, int]]:
    return list(zip(sightings.path.tolist(), identity.tolist(), sightings.camera.tolist(), strict=True))
