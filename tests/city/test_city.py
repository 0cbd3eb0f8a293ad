import hashlib
import json
import re
import shutil
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch  # noqa: F401  (torch before FAISS and OpenCV, as everywhere)

from torchreid_dfrst.city import Settings, make_city, make_vehicles, plan_city, render
from torchreid_dfrst.data.veri776 import read_veri

TINY = {"identities": 10, "cameras": 4, "seed": 3, "passages": 3, "images_per_track": 2}
NAME = re.compile(r"^(\d{4})_c(\d{3})_(\d{8})_(\d+)\.jpg$")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return make_city(tmp_path_factory.mktemp("data") / "city", **TINY)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("ascii")
    assert text.count("\n") == text.count("\r\n")
    return text.split("\r\n")


def parse(name: str) -> tuple[int, int, int, int]:
    match = NAME.match(name)
    assert match, name
    return tuple(int(group) for group in match.groups())


def test_same_settings_same_bytes_whatever_the_number_of_threads_and_processes(city, tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2 if before != 2 else 3)
    try:
        again = make_city(tmp_path / "again", workers=2, **TINY)
        assert cv2.getNumThreads() == (2 if before != 2 else 3)
    finally:
        cv2.setNumThreads(before)
    assert digest(again) == digest(city)
    other = make_city(tmp_path / "other", **{**TINY, "seed": 4})
    assert digest(other).keys() != digest(city).keys()


def test_our_reader_reads_it(city):
    data = read_veri(city)
    card = json.loads((city / "city.json").read_text())
    assert len(data.train) == card["images"]["image_train"] > 0
    assert len(data.gallery) == card["images"]["image_test"] > 0
    assert len(data.query) == card["images"]["image_query"] > 0
    assert not np.isnan(data.gallery.time_s).any()
    assert len(data.network) == TINY["cameras"]


@pytest.mark.parametrize("split", ["train", "test", "query"])
def test_lists_are_the_folders(city, split):
    names = lines(city / f"name_{split}.txt")
    assert names.pop() == "", "the lists end in a newline"
    assert names == sorted(path.name for path in (city / f"image_{split}").iterdir())
    for name in names:
        identity, camera, frame, _ = parse(name)
        assert 1 <= identity <= TINY["identities"] and 1 <= camera <= TINY["cameras"]
        assert frame % 5 == 0 and 0 <= frame < 2 * 3600 * 25
    cut = cv2.imread(str(city / f"image_{split}" / names[0]))
    assert min(cut.shape[:2]) > 20


def test_train_and_test_share_no_vehicle_and_queries_are_in_the_gallery(city):
    ids = {split: {parse(n)[0] for n in lines(city / f"name_{split}.txt")[:-1]} for split in ("train", "test", "query")}
    assert not ids["train"] & ids["test"]
    assert ids["query"] == ids["test"]
    for path in (city / "image_query").iterdir():
        assert path.read_bytes() == (city / "image_test" / path.name).read_bytes()


def test_one_query_per_vehicle_and_camera_and_answers_by_the_rule(city):
    gallery, queries = lines(city / "name_test.txt")[:-1], lines(city / "name_query.txt")[:-1]
    pairs = [parse(name)[:2] for name in queries]
    assert sorted(pairs) == sorted({parse(name)[:2] for name in gallery})
    right, junk = lines(city / "gt_index.txt")[:-1], lines(city / "jk_index.txt")[:-1]
    assert len(right) == len(junk) == len(queries)
    for query, good, same in zip(queries, right, junk, strict=True):
        identity, camera = parse(query)[:2]
        expected_good = [k + 1 for k, n in enumerate(gallery) if parse(n)[0] == identity and parse(n)[1] != camera]
        expected_same = [k + 1 for k, n in enumerate(gallery) if parse(n)[0] == identity and parse(n)[1] == camera]
        assert [int(k) for k in good.split()] == expected_good != []
        assert [int(k) for k in same.split()] == expected_same != []
        assert good.endswith(" ") and same.endswith(" ")


def test_tracks(city):
    tracks = lines(city / "test_track.txt")[:-1]
    assert tracks == sorted(tracks)
    assert (city / "test_track_VeRi.txt").read_bytes() == (city / "test_track.txt").read_bytes()
    seen, by_camera = [], defaultdict(list)
    for line in tracks:
        assert line.endswith(" ")
        header, *names = line.split()
        identity, camera, number = re.fullmatch(r"(\d{4})_c(\d{3})_t(\d{4})", header).groups()
        assert all(name.startswith(f"{identity}_c{camera}_") for name in names)
        frames = [parse(name)[2] for name in names]
        assert frames == sorted(set(frames)) and frames[-1] - frames[0] < 250
        seen += names
        by_camera[camera].append((int(number), frames[0]))
    assert sorted(seen) == lines(city / "name_test.txt")[:-1]
    for numbered in by_camera.values():
        assert [number for number, _ in sorted(numbered)] == list(range(1, len(numbered) + 1))
        assert [frame for _, frame in sorted(numbered)] == sorted(frame for _, frame in numbered)


def test_labels(city):
    colours = dict(line.split(" ") for line in lines(city / "list_color.txt"))
    types = dict(line.split(" ") for line in lines(city / "list_type.txt"))
    assert (city / "list_color.txt").stat().st_size == 88 and (city / "list_type.txt").stat().st_size == 77
    vehicles = {v["identity"]: v for v in json.loads((city / "city.json").read_text())["vehicles"]}
    for split, tag in (("train", "TrainingImages"), ("test", "TestImages")):
        first, root, items, *rest = lines(city / f"{split}_label.xml")
        assert first == '<?xml version="1.0" encoding="gb2312" ?>' and root == f'<{tag} Version="1.0">'
        assert rest[-3:] == ["    </Items>", f"</{tag}>", ""]
        names = lines(city / f"name_{split}.txt")[:-1]
        assert items == f'    <Items number="{len(names)}">'
        for name, line in zip(names, rest[:-3], strict=True):
            identity, camera = parse(name)[:2]
            found = dict(re.findall(r'(\w+)="([^"]*)"', line))
            assert found["imageName"] == name and found["vehicleID"] == f"{identity:04d}"
            assert found["cameraID"] == f"c{camera:03d}"
            assert colours[found["colorID"]] == vehicles[identity]["colour"]
            assert types[found["typeID"]] == vehicles[identity]["type"]


def test_distances_are_shortest_ways_in_the_order_of_camera_id(city):
    order = [int(k) for k in (city / "camera_ID.txt").read_text().split()]
    assert sorted(order) == list(range(1, TINY["cameras"] + 1)) and order != sorted(order)
    upper = np.array([[int(k) for k in line.split(" ")] for line in lines(city / "camera_Dist.txt")])
    assert (np.tril(upper) == 0).all()
    roads = plan_city(Settings(**TINY)).roads
    way = np.where(roads.length_m > 0, roads.length_m, np.inf)
    np.fill_diagonal(way, 0)
    for k in range(len(way)):  # Floyd and Warshall
        way = np.minimum(way, way[:, k, None] + way[None, k])
    for row, first in enumerate(order):
        for column, second in enumerate(order[row + 1 :], start=row + 1):
            exact = way[roads.camera_at[first - 1], roads.camera_at[second - 1]]
            assert upper[row, column] == pytest.approx(exact, abs=5) and upper[row, column] > 0
            assert upper[row, column] % 10 == 0


def test_nobody_flies():
    plan = plan_city(Settings(identities=60, cameras=12, seed=5))
    distance = plan.roads.camera_distance_m
    speeds = []
    for identity in range(1, 61):
        seen = sorted({t[0].passage for t in plan.tracks if t[0].identity == identity}, key=lambda p: p.time_s)
        for a, b in pairwise(seen):
            if a.camera != b.camera:
                speeds.append(distance[a.camera - 1, b.camera - 1] / (b.time_s - a.time_s))
    assert len(speeds) > 100
    assert max(speeds) < 30, "faster than 108 km/h in town"
    assert 1.5 < np.median(speeds) < 14


def test_near_duplicates_differ_a_little():
    vehicles = make_vehicles(120, np.random.default_rng(0), models=12, twins=0.4)
    twins = [vehicle for vehicle in vehicles if vehicle.twin_of]
    assert 30 < len(twins) < 70
    plan = plan_city(Settings(identities=60, seed=2, twins=0.5))
    for vehicle in plan.vehicles:
        if vehicle.twin_of:
            assert (vehicle.identity in plan.test) == (vehicle.twin_of in plan.test)
    ratios = []
    views = [(azimuth, 25) for azimuth in range(0, 360, 60)]
    for twin in twins[:7]:
        original = vehicles[twin.twin_of - 1]
        stranger = next(v for v in vehicles if v.model != twin.model and v.colour != twin.colour)
        assert (twin.model, twin.paint) == (original.model, original.paint) and twin.differs_by
        change, visible, other = [], [], []
        for view in views:
            picture = render(twin, *view).astype(float)
            difference = np.abs(picture - render(original, *view))
            change.append(difference.mean())
            visible.append((difference.max(axis=-1) > 25).sum())
            other.append(np.abs(picture - render(stranger, *view)).mean())
        assert max(visible) >= 10, "the difference can be seen from some side"
        ratios.append(np.mean(change) / np.mean(other))
    assert np.median(ratios) < 0.15


def test_front_side_and_rear_differ():
    for vehicle in make_vehicles(9, np.random.default_rng(1), models=9, twins=0.0):
        front, side, rear = (render(vehicle, azimuth, 12).astype(float) for azimuth in (0, 90, 180))
        for one, other in ((front, side), (front, rear), (side, rear)):
            assert np.abs(one - other).mean() > 2


def test_a_finished_city_is_kept_and_anything_else_is_refused(city, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in city.rglob("*")}
    assert make_city(city, **TINY) == city
    assert {path: path.stat().st_mtime_ns for path in city.rglob("*")} == before
    with pytest.raises(ValueError, match="seed is 3 there, 9 here"):
        make_city(city, **{**TINY, "seed": 9})
    copy = tmp_path / "copy"
    shutil.copytree(city, copy)
    next((copy / "image_train").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"image_train holds \d+ of \d+ images"):
        make_city(copy, **TINY)
    (copy / "city.json").unlink()
    with pytest.raises(ValueError, match="no finished city"):
        make_city(copy, **TINY)


def test_an_interrupted_run_leaves_no_card(tmp_path):
    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_city(tmp_path / "city", progress=stop, **TINY)
    assert not (tmp_path / "city" / "city.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identities": 10_000}, "identities=10000"),
        ({"cameras": 2}, "cameras=2"),
        ({"identities": 10.5}, "identities=10.5: give a whole number"),
        ({"twins": 1.5}, "twins=1.5"),
        ({"hours": float("nan")}, "hours=nan"),
        ({"color": 3}, "no setting 'color'"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_impossible_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_city(tmp_path / "city", **settings)
    assert not (tmp_path / "city").exists()
