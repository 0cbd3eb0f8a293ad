"""Small data sets in the exact published formats, CRLF and blank lines included."""

import zlib

import numpy as np
import pytest
from PIL import Image


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def vehicleid(tmp_path):
    folder = tmp_path / "VehicleID_V1.0"
    (folder / "train_test_split").mkdir(parents=True)
    number = 0
    for name, vehicles in (
        ("train_list.txt", range(1, 5)),
        *((f"test_list_{n}.txt", range(9, 14)) for n in (800, 1600)),
    ):
        lines = []
        for vehicle in vehicles:
            for _ in range(2 + vehicle % 3):
                number += 7
                lines.append(f"{number:07d} {vehicle}")
                image(folder / "image" / f"{number:07d}.jpg")
        (folder / "train_test_split" / name).write_bytes("\r\n".join([*lines, "", ""]).encode())
    return tmp_path


@pytest.fixture
def veriwild(tmp_path):
    """Vehicle 7's query is seen again by its own camera only, so removal leaves it no match."""
    lists = tmp_path / "VERI-Wild" / "train_test_split"
    lists.mkdir(parents=True)
    rows = ["id/image;Camera ID;Time;Model;Type;Color"]
    names = {"train_list.txt": [], "test_3000_query.txt": [], "test_3000.txt": []}
    images = [("train_list.txt", v, c) for v in (1, 2, 3) for c in (0, 5, 173)]
    images += [("test_3000_query.txt", v, 4) for v in (6, 7)]
    images += [("test_3000.txt", 6, 4), ("test_3000.txt", 6, 8), ("test_3000.txt", 7, 4)]
    for number, (name, vehicle, camera) in enumerate(images):
        key = f"{vehicle:05d}/{number:06d}"
        names[name].append(key)
        rows.append(f"{key};{camera};2018-03-11 0{number % 10}:15:30;Volkswagen; small-sized truck;dark gray")
        image(tmp_path / "VERI-Wild" / "images" / f"{key}.jpg")
    for name, listed in names.items():
        (lists / name).write_text("\n".join(listed) + "\n")
    (lists / "vehicle_info.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def cityflow(tmp_path):
    folder = tmp_path / "AIC20_track2_reid"
    items = []
    for number in range(24):
        name = f"{number + 1:06d}.jpg"
        items.append(f'<Item imageName="{name}" vehicleID="{number // 4 + 1:04d}" cameraID="c{number % 4 + 6:03d}" />')
        image(folder / "image_train" / name)
    text = '<?xml version="1.0" encoding="gb2312"?>\r\n<TrainingImages><Items number="24">{}</Items></TrainingImages>'
    (folder / "train_label.xml").write_text(text.format("\r\n".join(items)))
    (folder / "train_track.txt").write_text("000001.jpg 000002.jpg \r\n000003.jpg \r\n")
    return tmp_path
