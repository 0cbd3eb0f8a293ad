"""Images that come again, numbers of vehicles that two files share, and clocks that are ahead."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="galleries need pyarrow, an optional extra")

from tests.gallery.crops import SOURCE, WIDTH, crops
from torchreid_dfrst.cli import invoke
from torchreid_dfrst.gallery import Gallery, lookups
from torchreid_dfrst.retrieval import Features

DAY = 86400.0


@pytest.fixture
def made(tmp_path):
    return Gallery.create(tmp_path / "g", SOURCE, WIDTH)


def changed(features, noise=0.0, **columns):
    """The same images with other columns, embedded a little differently."""
    rng = np.random.default_rng(9)
    off = rng.normal(size=features.embedding.shape) * noise * np.linalg.norm(features.embedding, axis=1)[:, None]
    return Features(features.embedding + off / WIDTH**0.5, replace(features.sightings, **columns))


NO_TIME, NO_PATH = {"time_s": np.full(40, np.nan)}, {"path": np.full(40, "")}
AT_ONCE = {"time_s": np.zeros(40)}
KINDS = [{}, NO_TIME, NO_PATH, NO_TIME | NO_PATH, AT_ONCE, AT_ONCE | NO_PATH, NO_TIME | {"path": np.full(40, "a.mp4")}]


@pytest.mark.parametrize("columns", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_added_again_is_not_there_twice(tmp_path, columns, dtype, caplog, monkeypatch):
    made, held = Gallery.create(tmp_path / "g", SOURCE, WIDTH, dtype), changed(crops(40), **columns)
    assert made.add(held[:25], SOURCE) == 25 and caplog.text == ""
    number = made.content.number
    assert made.add(held[:25], SOURCE) == 0 and made.content.number == number
    assert "has 25 of these 25 images already" in caplog.text
    made.compact()
    monkeypatch.setattr(lookups, "PAIRS", 3)
    assert made.add(held, SOURCE) == 15 and made.info()["images"] == 40, "a list that has grown"


def test_an_image_that_is_embedded_a_little_differently_is_there(made):
    held = crops(40)
    made.add(held, SOURCE)
    assert made.add(changed(held, 1e-3), SOURCE) == 0
    moved = np.array([f"/mnt/data/{path}" for path in held.sightings.path])
    assert made.add(changed(held, path=moved), SOURCE) == 0, "from another folder, by the rule of searches"


@pytest.mark.parametrize(
    "other",
    [
        lambda held: changed(held, 0.1),
        lambda held: changed(held, time_s=held.sightings.time_s + 0.04),
        lambda held: changed(held, path=np.array([f"x{path}" for path in held.sightings.path])),
        lambda held: changed(held, camera_name=np.full(40, "gate 9")),
        lambda held: changed(held, 0.1, path=np.full(40, "")),
    ],
    ids=["vehicle of the same frame", "time", "name", "camera", "no name"],
)
def test_two_sightings_that_differ_both_stay(made, other):
    held = crops(40, time_s=np.repeat([5.0, 3700.0], 20))
    made.add(held, SOURCE)
    assert made.add(other(held), SOURCE) == 40 == len(made) - 40


def test_rows_of_one_addition_and_rows_that_were_deleted_are_added(made):
    one = crops(1)
    both = Features(np.repeat(one.embedding, 2, axis=0), one.sightings[np.zeros(2, dtype=int)])
    assert made.add(both, SOURCE) == 2, "one addition is taken as it is"
    made.delete(path="crop-0.jpg")
    assert made.add(one, SOURCE) == 1 and made.info()["images"] == 1


def test_files_of_other_times_are_not_read(made, monkeypatch):
    made.add(crops(40, time_s=np.linspace(0, 3000, 40)), SOURCE)
    monkeypatch.setattr(made.store, "load", lambda *_: pytest.fail("a file was read"))
    for more in (NO_TIME, {"time_s": np.linspace(3600, 7000, 40)}, {"time_s": np.repeat([-9.0, 9e5], 20)}):
        assert made.add(changed(crops(40, identity=np.full(40, -1)), **more), SOURCE) == 40


def test_a_damaged_file_is_named_and_counts_as_not_there(made, tmp_path, caplog):
    held = crops(40, time_s=np.arange(40.0))
    made.add(held, SOURCE)
    (tmp_path / "g" / made.content.files[0].path).write_bytes(b"torn")
    assert made.add(held, SOURCE) == 40 and caplog.text.count("what it holds counts as not there") == 1


def numbered(seed, vehicles, names=None):
    held = crops(len(vehicles), seed, names=f"{seed}-", identity=np.array(vehicles))
    return changed(held, vehicle_name=np.full(len(vehicles), "") if names is None else np.array(names))


def test_numbers_of_vehicles_that_two_files_share_are_said_once(made, tmp_path, caplog):
    made.add(numbered(0, [7, 7, 12, -1]), SOURCE)
    made.add(numbered(1, [3, 70, 5], ["3", "car 7", ""]), SOURCE)
    assert caplog.text == "", "no number is there, and names are names"
    made.add(numbered(2, [12, 7, 7, 4]), SOURCE)
    assert "g has vehicles numbered 7, 12 already: one number is taken for one vehicle" in caplog.text
    made.add(numbered(3, [7]), SOURCE)
    assert caplog.text.count("vehicles numbered") == 1
    other = Gallery.open(tmp_path / "g")
    other.add(numbered(0, [7, 7, 12, -1]), SOURCE)
    assert caplog.text.count("vehicles numbered") == 1, "the same images again are the same vehicles"
    other.add(numbered(4, [9, 5], ["", "5"]), SOURCE)
    assert "vehicles numbered 5 already" in caplog.text


def clocks(made, **newest):
    """A sighting an hour of ten days for each camera, up to the day that is given."""
    for k, (camera, day) in enumerate(newest.items()):
        time_s = (day - np.arange(0.02, 10, 1 / 24)) * DAY
        made.add(changed(crops(240, k, time_s, f"{camera}-"), camera_name=np.full(240, camera)), SOURCE)


def expire(made, words, capsys):
    capsys.readouterr()
    invoke(["gallery", "expire", made.store.address, *words.split()])
    said = capsys.readouterr()
    return said.out, said.err


def kept(made):
    """Hours that are left of each camera."""
    made.refresh()
    cameras = [name for file in made.content.files for name in made.store.load(file)["camera"].to_pylist()]
    return {name: cameras.count(name) for name in sorted(set(cameras))}


def test_one_clock_ahead_takes_nothing_of_other_cameras(made, capsys):
    clocks(made, north=20, south=20.1, ahead=400)
    assert made.newest() == pytest.approx({"north": 19.98 * DAY, "south": 20.08 * DAY, "ahead": 399.98 * DAY})
    out, said = expire(made, "--keep 5d", capsys)
    left = kept(made)
    assert left["ahead"] == 240 and 117 <= left["north"] < left["south"] <= 122, "five days before the newest of south"
    assert f"with {720 - sum(left.values())} images" in out
    assert "camera 'ahead' is of 34558272.00 s, that of 'south' of 1734912.00 s: --keep counts from the second" in said
    made.delete(camera="ahead", from_s=21 * DAY)
    assert expire(made, "--keep 5d", capsys)[1] == "", "of a clock that was mended nothing is said"


def test_one_clock_ahead_by_less_than_is_kept_takes_nothing_either(made, capsys):
    clocks(made, north=20, south=20.1, ahead=23)
    assert expire(made, "--keep 5d", capsys)[1] == "" and kept(made)["north"] >= 117


def test_clocks_of_half_of_the_cameras_ahead_are_refused(made, capsys):
    clocks(made, north=20, south=20.1, ahead=400, also=401)
    words = (
        r"--keep 5d would remove \d+ of 960 images, all of 2 of 4 cameras: .* 'also' .* 'ahead' .* 'south' of 1734912"
    )
    with pytest.raises(ValueError, match=words):
        expire(made, "--keep 5d", capsys)
    assert kept(made) == {"also": 240, "ahead": 240, "north": 240, "south": 240}
    expire(made, f"--before {15 * DAY:.0f}", capsys)
    assert kept(made)["ahead"] == 240 > kept(made)["north"] > 115


@pytest.mark.parametrize(
    ("newest", "left"), [({"north": 20}, {"north": 120}), ({"a": 9, "b": 60, "c": 60}, {"b": 120, "c": 120}), ({}, {})]
)
def test_one_camera_alone_and_cameras_that_stopped_expire(made, newest, left, capsys):
    clocks(made, **newest)
    made.add(changed(crops(40), **NO_TIME), SOURCE)
    said = expire(made, "--keep 5d", capsys)[1]
    found = kept(made)
    assert sum(found.pop(f"gate {k}") for k in range(3)) == 40 and found == pytest.approx(left, abs=2)
    assert said == ("" if newest else "no sighting has a time\n")
