"""Every disease that the doctor knows, given to a healthy data set; and the two real patients."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.city.plan import Settings, plan_city
from torchreid_dfrst.data.veri776 import read_veri
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.doctor.camera_order import camera_order, delays
from torchreid_dfrst.doctor.clock_offsets import clock_offsets
from torchreid_dfrst.doctor.times import check_times
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import one_per_pass

NAMES = np.array([f"{word} gate" for word in "0th 1st 2nd 3rd 4th 5th 6th 7th 8th 9th".split()])


def severities(findings):
    return {(found.severity, found.check) for found in findings if found.severity != "note"}


def town(vehicles=300, cameras=10, seed=0):
    """Vehicles that drive straight from camera to camera, both ways, at about 10 m/s."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1500, (cameras, 2))
    metres = np.round(np.linalg.norm(place[:, None] - place, axis=2), -1)
    rows = []
    for vehicle in range(vehicles):
        time, here = rng.uniform(0, 3000), rng.integers(cameras)
        for _ in range(rng.integers(2, 6)):
            rows.append((here, time, vehicle))
            there = rng.choice(np.flatnonzero(np.arange(cameras) != here))
            time += 5 + metres[here, there] / rng.lognormal(np.log(10), 0.2)
            here = there
    camera, time, vehicle = (np.array(column) for column in zip(*rows, strict=True))
    network = CameraNetwork(np.arange(cameras), metres, NAMES)
    half = vehicle < vehicles // 2
    everyone = Sightings(camera, time, vehicle, np.arange(len(time)), np.array([f"{k}.jpg" for k in range(len(time))]))
    return {"train": everyone[half], "query": everyone[~half][:20], "gallery": everyone[~half]}, network


def changed(splits, **columns):
    """The same splits with columns made by functions of a split."""
    return {name: replace(part, **{c: make(part) for c, make in columns.items()}) for name, part in splits.items()}


def test_a_healthy_town_is_clean():
    assert not severities(check_times(*town()))


@pytest.mark.parametrize("factor, unit", [(25, "25 a second"), (1000, "milliseconds"), (1 / 60, "minutes")])
def test_wrong_time_units_are_named(factor, unit):
    splits, network = town()
    (found,) = check_times(changed(splits, time_s=lambda part: part.time_s * factor), network)
    assert (found.severity, found.check) == ("error", "units")
    assert unit in found.message


def test_a_shifted_clock_is_measured():
    splits, network = town()
    late = changed(splits, time_s=lambda part: part.time_s + 45.0 * (part.camera == 3))
    found = [f for f in check_times(late, network) if f.check == "clock offsets"]
    assert [f.severity for f in found] == ["warning"]
    assert found[0].count == 1 and found[0].examples[0].startswith("camera 3rd gate: +4")


def test_a_shuffled_matrix_is_a_wrong_camera_order():
    splits, network = town()
    cameras = np.random.default_rng(1).permutation(10)
    wrong = CameraNetwork(cameras, network.distance_m, NAMES[cameras])
    found = [f for f in check_times(splits, wrong) if f.severity == "error"]
    assert [f.check for f in found] == ["camera order"]
    assert "wrong camera order" in found[0].message
    # here the right order is the natural one, which is among those tried
    assert found[0].advice.split("it reads ")[1].split(", ") == list(NAMES)


def test_an_order_nobody_knows_is_found_by_search():
    splits, network = town(vehicles=1500)
    right = np.random.default_rng(2).permutation(10)
    splits = changed(splits, camera=lambda part: right[part.camera])
    wrong = CameraNetwork(np.random.default_rng(3).permutation(10), network.distance_m)
    everyone = Sightings.concatenate([splits["train"], splits["gallery"]])
    order = camera_order(delays(everyone), wrong, {"natural": np.arange(10)})
    assert order.wrong and order.best_name == "found by search" and order.best_correlation > 0.9
    assert (order.best == right).mean() > 0.5


def test_a_distance_that_no_car_can_drive():
    splits, network = town()
    metres = network.distance_m.copy()
    metres[2, 7] = metres[7, 2] = 15_000
    found = check_times(splits, CameraNetwork(network.cameras, metres, NAMES))
    assert ("warning", "distances too long") in severities(found)
    assert any("cameras 2nd gate and 7th gate: 15000 m" in text for f in found for text in f.examples)


def test_missing_times_and_missing_distances():
    splits, network = town()
    holes = changed(splits, time_s=lambda part: np.where(np.arange(len(part)) < 3, np.nan, part.time_s))
    assert ("warning", "missing times") in severities(check_times(holes, network))
    none = changed(splits, time_s=lambda part: np.full(len(part), np.nan))
    assert [f.severity for f in check_times(none, network)] == ["note"]
    assert [f.check for f in check_times(splits, None)] == ["distances"]
    named = changed(splits, camera_name=lambda part: NAMES[part.camera])
    (found,) = check_times(named, CameraNetwork(np.arange(8), network.distance_m[:8, :8]))
    assert (found.severity, found.check) == ("error", "distances")
    assert found.examples == ["camera 8th gate", "camera 9th gate"]


def test_delays_equal_the_definition():
    everyone = town(vehicles=30)[0]["gallery"]
    found = delays(everyone)
    slow = sorted(
        (a, b, s - r)
        for i, a, r in zip(everyone.identity, everyone.camera, everyone.time_s, strict=True)
        for j, b, s in zip(everyone.identity, everyone.camera, everyone.time_s, strict=True)
        if i == j and a != b and s > r
    )
    assert len(slow) > 50
    fast = sorted(zip(found.start, found.end, found.seconds, strict=True))
    np.testing.assert_allclose(fast, slow)


def test_real_veri_is_clean(veri_lists):
    report = check_dataset("veri_format", veri_lists)
    assert not severities(report.findings) and report.exit_code == 0
    assert report.counts["train"] == {"images": 37_778, "vehicles": 576, "cameras": 20}
    assert "0.94" in report.text() and "only lists were checked" in report.text()


def test_real_veri_in_natural_camera_order_is_an_error(veri_lists, tmp_path):
    shutil.copytree(veri_lists, tmp_path / "veri")
    (tmp_path / "veri" / "camera_ID.txt").write_text(" ".join(map(str, range(1, 21))))
    report = check_dataset("veri_format", tmp_path / "veri")
    assert report.exit_code == 2
    (error,) = [f for f in report.findings if f.severity == "error"]
    assert "wrong camera order" in error.message and "0.62" in error.message and "0.94" in error.message
    right = (veri_lists / "camera_ID.txt").read_text().split()
    assert error.advice.endswith(", ".join(f"c{int(number):03d}" for number in right))
    # what it says to write can be read
    (tmp_path / "veri" / "camera_ID.txt").write_text(error.advice.partition("it reads ")[2])
    assert check_dataset("veri_format", tmp_path / "veri").exit_code == 0


def test_real_clocks_agree_to_some_seconds(veri_lists):
    veri = read_veri(veri_lists, images=False)
    offsets = clock_offsets(one_per_pass(Sightings.concatenate([veri.train, veri.gallery])), veri.network)
    known = {0: 1.8, 2: 1.6, 5: -2.3, 8: 1.3, 10: -2.4, 15: 3.1}
    sure = {camera: offset for camera, (offset, error) in offsets.items() if error < 6}
    assert len(sure) >= 14 and max(map(abs, sure.values())) < 10
    assert all(abs(sure[camera] - value) < 6 for camera, value in known.items() if camera in sure)


# what is done to a camera's times, and the figure and the words by which it is named
ODD_CLOCKS = {
    "600 s ahead": (lambda t: t + 600, 600, "s against the others"),
    "an hour ahead": (lambda t: t + 3600, 3600, "s against the others"),
    "slow": (lambda t: 0.8 * t, 0.8, "of the rate of the others"),
    "anew": (lambda t: t % 600, 600, "starts anew every"),
    "milliseconds": (lambda t: 1000 * t, None, "counts milliseconds"),
    "backwards": (lambda t: -t, None, "runs backwards"),
    "jumps": (lambda t: t + 600 * (t > 1800), 600, "jumps by +"),
}


def named_clock(splits, network, camera, kind):
    """The only error that is found, once a camera's times are changed: its example."""
    change, figure, words = ODD_CLOCKS[kind]
    odd = changed(splits, time_s=lambda part: np.where(part.camera == camera, change(part.time_s), part.time_s))
    (error,) = [f for f in check_times(odd, network) if f.severity == "error"]
    assert error.check == "clock offsets" and error.count == 1
    name, _, text = error.examples[0].partition(": ")
    assert words in text
    if figure is not None:
        assert float(re.search(r"\d+(\.\d+)?", text).group()) == pytest.approx(figure, rel=0.06)
    return name


@pytest.mark.parametrize("kind", ["600 s ahead", "an hour ahead", "slow", "milliseconds", "backwards", "jumps"])
def test_an_odd_clock_is_not_a_wrong_camera_order(kind):
    assert named_clock(*town(), 3, kind) == "camera 3rd gate"


def clocks_of(change, cameras=(3, 5, 7, 8, 9)):
    """The errors and warnings once the times of some cameras are changed."""
    splits, network = town()
    odd = changed(splits, time_s=lambda part: np.where(np.isin(part.camera, cameras), change(part), part.time_s))
    return [found for found in check_times(odd, network) if found.severity != "note"]


HALF = {
    "another time zone": (lambda part: part.time_s + 3600, r": [+-]3[56]\d\d s against the others"),
    "minutes": (lambda part: part.time_s / 60, ": counts minutes"),
}


@pytest.mark.parametrize("cameras", [(3, 5), (3, 5, 7, 8, 9), (0, 1, 3, 5, 7, 8, 9)])
@pytest.mark.parametrize("kind", HALF)
def test_cameras_that_share_another_clock_are_all_named(kind, cameras):
    change, words = HALF[kind]
    (found,) = clocks_of(change, cameras)
    assert found.check == "clock offsets" and found.severity == "error"
    # of two time zones neither is wrong: that of fewer cameras is named
    odd = [c for c in range(10) if c not in cameras] if "zone" in kind and len(cameras) > 5 else cameras
    assert {re.split(words, example)[0] for example in found.examples} == {f"camera {NAMES[c]}" for c in odd}


def test_counters_that_all_start_anew_together_are_told():
    (found,) = clocks_of(lambda part: part.time_s % 1000, range(10))
    assert found.check == "clock offsets" and re.search(r"all counters .* about every (1000|99\d) s", found.message)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda part: part.time_s / 2, r"gaps between the same cameras are 0\.(4|5)\d? times those of training"),
        (lambda part: part.time_s / 20, "cameras are 0.049 times those of training"),  # no unit is blamed either
        (lambda part: np.random.default_rng(0).permutation(part.time_s), "spread otherwise than in training"),
    ],
)
def test_wrong_times_of_the_test_alone_are_told_and_the_map_is_not_blamed(change, words):
    splits, network = town()
    odd = {name: part if name == "train" else replace(part, time_s=change(part)) for name, part in splits.items()}
    (found,) = [one for one in check_times(odd, network) if one.severity != "note"]
    assert (found.severity, found.check) == ("warning", "test times") and re.search(words, found.examples[0])


@pytest.mark.parametrize("kind", ["constant", "shuffled"])
def test_one_camera_whose_times_say_nothing_is_named_and_the_map_is_not_blamed(kind):
    rng = np.random.default_rng(0)
    change = {
        "constant": lambda part: np.full(len(part), 500.0),
        "shuffled": lambda part: rng.permutation(part.time_s),
    }[kind]
    (found,) = clocks_of(change, [3])
    assert found.severity == "error" and "the times of camera 3rd gate, or its distances" in found.message
    assert found.advice == "correct the times of camera 3rd gate, or its row of the distances"


def test_traffic_that_comes_back_is_no_clock_minutes_off():
    """A drawn city: one camera's trips back cluster 269 s from those there."""
    plan = plan_city(Settings(identities=300, cameras=20, seed=3))
    columns = zip(*((shot.camera, shot.frame / 25, shot.identity, shot.name) for shot in plan.shots), strict=True)
    camera, time, identity, path = map(np.array, columns)
    network = CameraNetwork(np.arange(1, 21), np.round(plan.roads.camera_distance_m, -1))
    assert not severities(check_times({"train": Sightings(camera, time, identity, path=path)}, network))


@pytest.mark.parametrize("kind", ["600 s ahead", "an hour ahead", "slow", "anew", "backwards", "jumps"])
def test_the_odd_clock_of_real_veri_is_named(veri_lists, kind):
    veri = read_veri(veri_lists, images=False)
    half = {name: part[part.identity % 2 == 0] for name, part in veri.parts().items()}
    assert named_clock(half, veri.network, 9, kind) == "camera c010"


@pytest.mark.parametrize("most_s", [300, 3600])
def test_a_clock_of_its_own_for_every_camera_of_real_veri(veri_lists, most_s):
    veri = read_veri(veri_lists, images=False)
    ahead = np.round(np.random.default_rng(most_s).uniform(-most_s, most_s, 20))
    findings = check_times(changed(veri.parts(), time_s=lambda part: part.time_s + ahead[part.camera]), veri.network)
    assert {check for severity, check in severities(findings) if severity == "error"} == {"clock offsets"}
    told = {}
    for text in (text for found in findings if found.check == "clock offsets" for text in found.examples):
        camera, offset = re.match(r"camera c(\d+): ([+-]\d+) s", text).groups()
        told[int(camera) - 1] = int(offset)
    left = ahead[:19] - np.array([told.get(camera, 0) for camera in range(19)])  # c020 has 2 trips
    left = np.sort(np.abs(left - np.median(left)))
    assert left[16] < 40 and left[-1] < 120  # of two cameras, trips there and back take different roads
    named = [found.message for found in findings if found.severity == "error"]
    assert most_s < 3600 or re.match(r"1\d cameras have another clock than camera c0", *named)


@pytest.mark.parametrize("seed", range(2))
def test_a_drawn_order_of_real_veri_is_a_wrong_camera_order(veri_lists, seed):
    veri = read_veri(veri_lists, images=False)
    order = np.random.default_rng(seed).permutation(20)
    wrong = CameraNetwork(veri.network.cameras[order], veri.network.distance_m)
    (error,) = [found for found in check_times(veri.parts(), wrong) if found.severity == "error"]
    assert error.check == "camera order" and "in VeRi-776's own order: 0.94" in error.message


def test_city_a_is_clean(city_a):
    report = check_dataset("veri_format", city_a)
    assert report.exit_code == 0, report.text()


@pytest.fixture
def folder(tiny_veri):
    return tiny_veri / "veri776"


def test_the_tiny_folder_is_clean(folder):
    report = check_dataset("veri_format", folder)
    assert report.exit_code == 0, report.text()


def rename(folder, split, old, new):
    for path in sorted((folder / f"image_{split}").glob(f"{old}_*")):
        path.rename(path.with_name(new + path.name[4:]))
    names = folder / f"name_{split}.txt"
    names.write_text(names.read_text().replace(f"{old}_c", f"{new}_c"))


def break_image(folder):
    path = sorted((folder / "image_train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])


def copy_under_another_vehicle(folder):
    (one, *_, other) = sorted((folder / "image_train").iterdir())
    shutil.copy(one, other)


def copy_into_test(folder):
    rename(folder, "train", "0001", "0002")
    shutil.copy(next((folder / "image_train").glob("0002_*")), next((folder / "image_test").glob("0002_*")))


def repeat_image(folder):
    one, other, *_ = sorted((folder / "image_train").iterdir())
    shutil.copy(one, other)


def one_camera(folder):
    for path in (folder / "image_train").glob("0001_*"):
        if "_c002_" not in path.name:
            path.unlink()


def unseen_camera(folder):
    for path in (folder / "image_train").glob("*_c003_*"):
        path.unlink()


def lone_query(folder):
    for path in (folder / "image_test").glob("0002_*"):
        if "_c001_" not in path.name:
            path.unlink()


def wrong_truth(folder):
    lines = (folder / "gt_index.txt").read_text().splitlines()
    (folder / "gt_index.txt").write_text("\n".join(["1 2 3", *lines[1:]]))


def bomb(folder):
    (folder / "test_label.xml").write_text('<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>')


def short_truth(folder):
    (folder / "jk_index.txt").write_text("1 2\n")


@pytest.mark.parametrize(
    ("spoil", "severity", "check", "example"),
    [
        (break_image, "error", "unreadable images", "image_train/0001"),
        (copy_under_another_vehicle, "error", "the same image under two vehicles", "image_train/0001"),
        (copy_into_test, "error", "the same image in training and test", "image_test/0002"),
        (copy_into_test, "error", "vehicles in training and test", "0002"),
        (repeat_image, "warning", "repeated images", "image_train/0001"),
        (one_camera, "warning", "one-camera vehicles", "0001"),
        (unseen_camera, "warning", "cameras never seen in training", "camera c003"),
        (lone_query, "warning", "queries without a match", "0002_c001"),
        (wrong_truth, "error", "right answers and junk", "0002_c001"),
        (short_truth, "error", "right answers and junk", ""),
        (bomb, "error", "labels", ""),
    ],
)
def test_each_disease(folder, spoil, severity, check, example):
    spoil(folder)
    report = check_dataset("veri_format", folder)
    found = next(f for f in report.findings if f.check == check and f.severity == severity)
    assert found.count >= 1 and found.advice
    assert example in " ".join(found.examples)
    assert report.exit_code == {"error": 2, "warning": 1}[report.findings[0].severity]
    assert check in report.text()


def test_what_the_loader_warns_of_is_in_the_report(folder):
    (folder / "image_train" / "Thumbs.db").write_text("")
    report = check_dataset("veri_format", folder)
    assert report.exit_code == 1 and "Thumbs.db" in report.text()


def test_what_cannot_be_loaded_is_an_error_of_its_own(folder):
    Image.new("RGB", (4, 4)).save(folder / "image_train" / "x.jpg")
    report = check_dataset("veri_format", folder)
    assert report.exit_code == 2 and report.findings[0].check == "loading" and "x.jpg" in report.text()
    assert check_dataset("veri776", folder.parent / "nowhere").exit_code == 2


def test_an_unknown_name(folder):
    with pytest.raises(KeyError, match="did you mean 'veri776'"):
        check_dataset("veri767", folder)


def test_without_images_only_lists_are_read(folder):
    break_image(folder)
    assert check_dataset("veri_format", folder, images=False).exit_code == 0


def test_the_command(folder, capsys):
    from torchreid_dfrst.cli import main

    arguments = ["check", "-t", "veri_format", "--root", str(folder)]
    main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0
    one_camera(folder)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "WARNING: one-camera vehicles" in out and "usable, with warnings" in out
