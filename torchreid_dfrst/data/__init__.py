"""Data sets for torchreid; ``DATASETS`` maps the names that ``-s`` and ``-t`` take to their classes.

To add one: a file with a ``VehicleDataset`` that says where its folder is and reads it, and a row here.
"""

from torchreid_dfrst.data import vehicleid, veriwild
from torchreid_dfrst.data.cityflow import CityFlow
from torchreid_dfrst.data.dataset import VehicleDataset
from torchreid_dfrst.data.table import Table
from torchreid_dfrst.data.vehicleid import VehicleID
from torchreid_dfrst.data.veri776 import City, VeRi776, VeRiFormat
from torchreid_dfrst.data.veriwild import VeRiWild

DATASETS: dict[str, type[VehicleDataset]] = {
    "city": City,
    "cityflow": CityFlow,
    "table": Table,
    "vehicleid": VehicleID,
    "vehicleid1600": vehicleid.VehicleID1600,
    "vehicleid2400": vehicleid.VehicleID2400,
    "vehicleid3200": vehicleid.VehicleID3200,
    "vehicleid6000": vehicleid.VehicleID6000,
    "vehicleid13164": vehicleid.VehicleID13164,
    "veri776": VeRi776,
    "veri_format": VeRiFormat,
    "veriwild": VeRiWild,
    "veriwild5000": veriwild.VeRiWild5000,
    "veriwild10000": veriwild.VeRiWild10000,
}

__all__ = ["DATASETS", "City", "CityFlow", "Table", "VeRi776", "VeRiFormat", "VeRiWild", "VehicleDataset", "VehicleID"]
