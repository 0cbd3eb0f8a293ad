"""A VeRi folder small enough to write for every test: 4 + 4 vehicles, 4 cameras, 2 images per passage."""

from pathlib import Path

import numpy as np
from PIL import Image

CAMERA_ORDER = (3, 1, 4, 2)  # not ascending, so that reading the matrix in natural order shows
DISTANCE_M = np.array([[0, 300, 800, 1200], [0, 0, 500, 900], [0, 0, 0, 400], [0, 0, 0, 0]])
TRAIN, TEST = (1, 3, 5, 7), (2, 4, 6, 8)
COLORS = ("yellow", "orange", "green", "gray", "red", "blue", "white", "brown")
COLOR_NAMES = "yellow orange green gray red blue white golden brown black".split()
TYPE_NAMES = "sedan suv van hatchback mpv pickup bus truck estate".split()


def write_tiny_veri(folder: Path, seed: int = 0) -> Path:
    """Write the folder: 32 training images, 16 queries (copies of gallery images), 32 gallery images."""
    rng = np.random.default_rng(seed)
    names: dict[str, list[str]] = {"train": [], "query": [], "test": []}
    tracks: list[list[str]] = []
    for split, vehicles in (("train", TRAIN), ("test", TEST)):
        for vehicle in vehicles:
            start, speed = rng.uniform(0, 600), rng.lognormal(np.log(10), 0.2)
            for row in rng.permutation(4):
                frame = 5 * int((start + DISTANCE_M[0, row] / speed) * 5)
                passage = [f"{vehicle:04d}_c{CAMERA_ORDER[row]:03d}_{frame + 5 * k:08d}_0.jpg" for k in range(2)]
                names[split] += passage
                if split == "test":
                    tracks.append(passage)
                    names["query"].append(passage[1])
    for split, listed in names.items():
        listed.sort()
        (folder / f"image_{split}").mkdir(parents=True)
        _lines(folder / f"name_{split}.txt", listed)
        for name in listed:
            _draw(name).save(folder / f"image_{split}" / name, quality=85)
    ordinal: dict[str, int] = {}
    lines = []
    for passage in sorted(tracks):
        camera = passage[0][5:9]
        ordinal[camera] = ordinal.get(camera, 0) + 1
        lines.append(f"{passage[0][:9]}_t{ordinal[camera]:04d} {' '.join(passage)} ")
    _lines(folder / "test_track.txt", lines)
    for file, same_camera in (("gt_index.txt", False), ("jk_index.txt", True)):
        _lines(folder / file, [_rows(query, names["test"], same_camera) for query in names["query"]])
    _lines(folder / "camera_Dist.txt", [" ".join(map(str, row)) for row in DISTANCE_M])
    (folder / "camera_ID.txt").write_text(" ".join(map(str, CAMERA_ORDER)))
    _lines(folder / "list_color.txt", [f"{k} {name}" for k, name in enumerate(COLOR_NAMES, start=1)])
    _lines(folder / "list_type.txt", [f"{k} {name}" for k, name in enumerate(TYPE_NAMES, start=1)])
    for split, root in (("train", "TrainingImages"), ("test", "TestImages")):
        items = [
            f'<Item imageName="{n}" vehicleID="{n[:4]}" cameraID="{n[5:9]}" colorID="{int(n[:4])}" typeID="1" />'
            for n in names[split]
        ]
        head = ['<?xml version="1.0" encoding="gb2312" ?>', f'<{root} Version="1.0">', f'<Items number="{len(items)}">']
        _lines(folder / f"{split}_label.xml", [*head, *items, "</Items>", f"</{root}>"])
    return folder


def _draw(name: str) -> Image.Image:
    """A car-like box in the vehicle's colour, on a street as bright as its camera likes it."""
    vehicle, camera, box = int(name[:4]), int(name[6:9]), int(name[10:18])
    image = Image.new("RGB", (64, 64), (60 + 30 * camera,) * 3)
    image.paste(COLORS[vehicle - 1], (8 + box % 3, 20, 56, 52))
    image.paste((30, 30, 30), (14, 24, 30 + 4 * camera, 34))
    return image


def _rows(query: str, gallery: list[str], same_camera: bool) -> str:
    rows = [
        k
        for k, name in enumerate(gallery, start=1)
        if name[:4] == query[:4] and (name[5:9] == query[5:9]) == same_camera
    ]
    return "".join(f"{row} " for row in rows)


def _lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode("ascii"))
