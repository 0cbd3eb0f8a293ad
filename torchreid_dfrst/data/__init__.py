"""Data sets for torchreid; ``DATASETS`` maps the names that ``-s`` and ``-t`` take to their classes."""

from torchreid_dfrst.data.dataset import VehicleDataset
from torchreid_dfrst.data.veri776 import City, VeRi776, VeRiFormat

DATASETS: dict[str, type[VehicleDataset]] = {
    "city": City,
    "veri776": VeRi776,
    "veri_format": VeRiFormat,
}

__all__ = ["DATASETS", "City", "VeRi776", "VeRiFormat", "VehicleDataset"]
