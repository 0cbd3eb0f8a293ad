"""VeRi-776, and data in its format, for torchreid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torchreid_dfrst.data.dataset import VehicleDataset, find_folder
from torchreid_dfrst.data.veri_format import SPLITS, read_veri
from torchreid_dfrst.data.veri_labels import Label, read_labels
from torchreid_dfrst.sightings import Sightings

OFFICIAL_COUNTS = {"train": 37_778, "query": 1_678, "gallery": 11_579}

_log = logging.getLogger(__name__)


class VeRiFormat(VehicleDataset):
    """Any folder in VeRi-776's format, such as your own recordings.

    The query images stay in the gallery: the junk rule (same vehicle, same camera) takes each out for its own query,
    and the official lists count them. Differences between lists and folders, vehicles of one camera and queries
    without a match are logged with their counts.

    Args:
        root: the data set's folder itself (it holds ``image_train``, ``image_query``, ``image_test``), or, for the
            named data sets below, the folder that holds it.
        kwargs: as torchreid's own data sets take them.

    Raises:
        FileNotFoundError: there is no such folder, or a part of it is missing.
        ValueError: as ``read_veri``.
    """

    dataset_dir = ""
    folder_names: ClassVar[tuple[str, ...]] = ()
    advice: ClassVar[str] = "Give --root the folder that holds image_train, image_query and image_test."

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        self.root = root
        self.dataset_dir = str(find_folder(root, self.folder_names, tuple(SPLITS.values()), self.advice))
        veri = read_veri(self.dataset_dir)
        super().__init__(veri.train, veri.query, veri.gallery, veri.network, **kwargs)

    @cached_property
    def labels(self) -> dict[str, Label]:
        """Colour and type by image name, as far as the label files know them; read when first asked for."""
        return read_labels(self.dataset_dir)


class VeRi776(VeRiFormat):
    """VeRi-776 (Liu et al., ECCV 2016): 576 + 200 vehicles, 20 cameras, one hour.

    Counts: 37,778 training images, 1,678 queries, 11,579 gallery images in 2,021 tracks.
    """

    dataset_dir = "veri776"
    folder_names = ("veri776", "VeRi", "veri", "VeRi_with_plate", "VeRi-776", "VeRi776")
    advice = (
        "VeRi-776 is sent by its authors on request; unpack it so that --root holds veri776/image_train, "
        "veri776/image_query and veri776/image_test."
    )

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if not kwargs.get("combineall"):
            report_counts(self.dataset_dir, self.sightings)


class City(VeRiFormat):
    """The synthetic city that ``tools/make_city.py`` draws. Not VeRi-776: its results are called what they are."""

    dataset_dir = "city"
    folder_names = ("city",)
    advice = "Make the city with tools/make_city.py (see its --help); it is drawn, not downloaded."


def report_counts(folder: str | Path, sightings: Mapping[str, Sightings]) -> None:
    """Log it if data that is called VeRi-776 has another number of images."""
    counts = {split: len(part) for split, part in sightings.items()}
    if counts != OFFICIAL_COUNTS:
        _log.warning(
            "%s has %s images, VeRi-776 has %s: results on it are not results on VeRi-776 (for other data in this "
            "format the name is veri_format)",
            folder,
            *(", ".join(f"{number:,} {split}" for split, number in c.items()) for c in (counts, OFFICIAL_COUNTS)),
        )
