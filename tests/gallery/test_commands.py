"""``dfrst gallery``, ``search`` and ``same``: from a folder of crops and a CSV to who was where."""

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="galleries need pyarrow, an optional extra")

from tests.gallery.crops import SOURCE, WIDTH
from torchreid_dfrst.cli import invoke, main
from torchreid_dfrst.cli.arguments import span
from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.gallery import Gallery
from torchreid_dfrst.gallery.extraction import extraction
from torchreid_dfrst.retrieval import Extraction, normalise

START = 1777651200  # 2026-05-01 16:00 UTC


@pytest.fixture(scope="module")
def street(tiny_run, tmp_path_factory):
    """A table of crops nobody labelled, and a gallery of it that knows space and time."""
    folder = tmp_path_factory.mktemp("street")
    images = sorted((tiny_run / "data" / "veri776" / "image_test").glob("*.jpg"))
    rows = [["path", "camera", "time"]]
    for path in images:
        camera, frame = re.search(r"_(c\d+)_(\d+)_", path.name).groups()
        stamp = np.datetime64(int((START + int(frame) / 25) * 1000), "ms")
        rows.append([f"crops/{path.name}", camera, f"{stamp}Z"])
    (folder / "crops").mkdir()
    for path in images:
        shutil.copy(path, folder / "crops")
    with open(folder / "crops.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    weights = f"--weights {tiny_run}/run/weights.safetensors"
    invoke(f"gallery add {folder}/g {folder}/crops.csv {weights} --thumbnails".split())
    invoke(f"gallery fit {folder}/g {tiny_run}/features.npz spacetime.model lognormal".split())
    return folder, weights, rows[1:]


def search(words, capsys):
    capsys.readouterr()
    invoke(["search", *words.split()])
    said = capsys.readouterr()
    return said.out, said.err


def test_three_commands_find_a_car_again(street, capsys, tmp_path):
    folder, weights, rows = street
    path, camera, time = rows[0]
    words = f"{folder}/{path} --gallery {folder}/g {weights} --camera {camera} --time {time} --before 10min --after 1h"
    text, said = search(f"{words} --top 5", capsys)
    assert len(text.splitlines()) == 6 and text.startswith(f"{folder}/{path}: ") and said == ""
    assert path not in text.partition("\n")[2], "its own image is not a hit"
    out, _ = search(f"{words} --top 5 --csv --page {tmp_path}/p.html", capsys)
    hits = list(csv.DictReader(io.StringIO(out)))
    assert [hit["rank"] for hit in hits] == ["1", "2", "3", "4", "5"] and "2026-05-01 16:" in text
    low, high = (START + int(re.search(r"_(\d{8})_", path)[1]) / 25 + s for s in (-600, 3600))
    assert all(low <= float(hit["time_s"]) <= high for hit in hits)
    assert [float(hit["distance"]) for hit in hits] == sorted(float(hit["distance"]) for hit in hits)
    assert "data:image/jpeg" in (tmp_path / "p.html").read_text()
    listed = json.loads(search(f"{words} --json", capsys)[0])
    assert [one["path"] for one in listed[:5]] == [hit["path"] for hit in hits]


def test_a_page_takes_small_images_from_the_gallery(street, capsys, tmp_path):
    folder, weights, rows = street
    moved = tmp_path / "moved"
    shutil.copytree(folder / "g", moved)
    (query,) = {folder / rows[0][0]}
    shutil.move(folder / "crops", tmp_path / "crops")
    try:
        shutil.copy(tmp_path / "crops" / query.name, tmp_path / "q.jpg")
        search(f"{tmp_path}/q.jpg --gallery {moved} {weights} --top 3 --page {tmp_path}/p.html", capsys)
    finally:
        shutil.move(tmp_path / "crops", folder / "crops")
    assert (tmp_path / "p.html").read_text().count("data:image/jpeg") == 4


def test_what_a_person_should_know_is_said(street, capsys, tmp_path):
    folder, weights, rows = street
    where = f"{folder}/{rows[0][0]} --gallery {folder}/g {weights}"
    assert "appearance alone: a camera and a time" in search(where, capsys)[1]
    for word in ("2026-05-01T16:05", "20260501_160500"):
        assert f"{word} has no zone: taken as UTC" in search(f"{where} --camera c003 --time {word}", capsys)[1]
    invoke(f"gallery add {tmp_path}/new {folder}/crops.csv {weights}".split())
    new = f"{folder}/{rows[0][0]} --gallery {tmp_path}/new {weights} --camera c003 --time 2026-05-01T16:05Z"
    assert "`dfrst gallery fit` teaches the gallery space and time" in search(new, capsys)[1]
    late = search(f"{where} --camera c003 --time 2027-05-01T16:05Z --after 5min", capsys)
    assert "begins after the last sighting" in late[1] and "0 images in its window" in late[0]


def test_cameras_and_times_that_the_gallery_does_not_know_are_said(street, capsys, caplog, tmp_path):
    folder, weights, rows = street
    where = f"{folder}/{rows[0][0]} --gallery {folder}/g {weights}"
    late = search(f"{where} --camera c003 --time 2027-05-01T16:05Z", capsys)[1]
    assert late.count("1 query is later than the last sighting of the gallery") == 1 and "window" not in late
    with pytest.raises(KeyError, match="the gallery has no camera 'moon'"):
        search(f"{where} --camera moon", capsys)
    shutil.copytree(folder / "g", tmp_path / "g")
    invoke(f"gallery delete {tmp_path}/g --camera moon".split())
    said = capsys.readouterr()
    cameras = ", ".join(sorted({camera for _, camera, _ in rows}))
    assert said.out == "deleted 0 images\n"
    assert said.err == f"no sighting is of camera 'moon': the gallery has {cameras}\n"
    plain = "\n".join(f"{path},{camera},{time.removesuffix('Z')}" for path, camera, time in rows)
    (folder / "plain.csv").write_text(f"path,camera,time\n{plain}\n")
    invoke(f"gallery add {tmp_path}/plain {folder}/plain.csv {weights}".split())
    assert caplog.text.count("have no zone: taken as UTC") == 1
    words = f"{folder}/{rows[0][0]} --gallery {tmp_path}/plain {weights}"
    assert "no sighting is of camera 'moon': the gallery has c0" in search(f"{words} --camera moon", capsys)[1]
    assert "no sighting" not in search(f"{words} --camera c003", capsys)[1]
    invoke(f"gallery add {tmp_path}/zoned {folder}/crops.csv {weights}".split())
    assert caplog.text.count("have no zone") == 1


def test_another_network_is_refused_before_any_image_is_read(street, monkeypatch, tmp_path):
    folder, weights, rows = street
    Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    monkeypatch.setattr("torchreid_dfrst.inference.unlabelled.embed", lambda *_, **__: pytest.fail("images were read"))
    for words in (
        f"gallery add {tmp_path}/g {folder}/crops.csv",
        f"search {folder}/{rows[0][0]} --gallery {tmp_path}/g",
    ):
        with pytest.raises(ValueError, match=r"cannot be compared with those of .*, made by tiny, weights abababab"):
            invoke([*words.split(), *weights.split()])


def test_a_gallery_is_joined_to_trips_as_a_features_file_is(street, tiny_run, capsys, tmp_path):
    folder, _, rows = street
    invoke(f"trips {folder}/g --out {tmp_path}/trips".split())
    said = capsys.readouterr().out
    found = list(csv.DictReader(open(tmp_path / "trips" / "trips.csv")))
    assert f"{len(rows)} images" in said and sum(int(row["images"]) for row in found) == len(rows)
    assert {row["camera"] for row in found} == {camera for _, camera, _ in rows}
    assert all(row["vehicle"] == "" and float(row["first_s"]) > START for row in found)
    legs = csv.DictReader(open(tmp_path / "trips" / "travel_times.csv"))
    assert all(float(row["distance_m"]) > 0 for row in legs if row["from"] != row["to"]), "roads of the model"
    invoke(f"gallery add {tmp_path}/labelled {tiny_run}/features.npz".split())
    held = extraction(Gallery.open(tmp_path / "labelled")).gallery
    there = Extraction.load(tiny_run / "features.npz").gallery
    order = np.argsort(held.sightings.path), np.argsort(there.sightings.path)
    ours, given = held[order[0]], there[order[1]]
    np.testing.assert_allclose(ours.embedding, normalise(given.embedding), atol=1e-6)
    for name in ("path", "time_s", "vehicle_name"):
        np.testing.assert_array_equal(getattr(ours.sightings, name), getattr(given.sightings, name))
    same = [x.sightings.identity[:, None] == x.sightings.identity for x in (ours, given)]
    np.testing.assert_array_equal(*same)
    Gallery.create(tmp_path / "empty", SOURCE, WIDTH)
    with pytest.raises(ValueError, match="empty holds no image"):
        invoke(["trips", str(tmp_path / "empty")])


def test_a_folder_and_a_features_file_are_added_and_searched(street, tiny_run, capsys, caplog, tmp_path):
    folder, weights, rows = street
    invoke(f"gallery add {tmp_path}/g {folder}/crops {weights} --half".split())
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.info()["without a time"] == len(rows) == len(gallery) and gallery.content.dtype == "float16"
    invoke(f"gallery add {tmp_path}/g {tiny_run}/features.npz".split())
    out, _ = search(f"{tiny_run}/features.npz --gallery {tmp_path}/g --top 2 --csv", capsys)
    assert len(out.splitlines()) == 1 + 2 * 16
    for what in (f"{folder}/crops {weights}", f"{tiny_run}/features.npz"):
        assert main(f"gallery add {tmp_path}/g {what}".split()) in (0, None)
        assert caplog.messages[-1].partition(" has ")[2].startswith(f"{len(rows)} of these {len(rows)} images already")
        assert ": 0 images more" in capsys.readouterr().err
    invoke(f"gallery info {tmp_path}/g --json".split())
    assert json.loads(capsys.readouterr().out)["images"] == 2 * len(rows)


def test_expire_delete_compact_and_export(street, capsys, tmp_path):
    folder, _, rows = street
    shutil.copytree(folder / "g", tmp_path / "g")
    count = sum(camera == "c003" for _, camera, _ in rows)
    for words, said in (
        ("delete DIR --camera c003", f"deleted {count} images; dfrst gallery compact"),
        ("compact DIR", f"erased {count}, damaged 0"),
        ("export DIR", f"file://{tmp_path}/g/day=2026-05-01/hour=16/"),
        ("info DIR --check", "2026-05-01 16:"),
        ("expire DIR --before 2026-05-01T16:30", "removed 0 files with 0 images"),
        ("expire DIR --before 2026-05-02T00:00", f"removed 1 files with {len(rows) - count} images"),
    ):
        invoke(["gallery", *words.replace("DIR", f"{tmp_path}/g").split()])
        assert said in capsys.readouterr().out


@pytest.fixture
def calibrated(street, tiny_run):
    network = Gallery.open(street[0] / "g").content.network
    made = Calibration(network, (-1.0, 1.0), (-9.0, 9.0), (3.0, 1.0, 2.0), None, 4.0, 12, True, "logistic")
    made.save(tiny_run / "run" / "calibration.json")
    return made


def test_a_new_gallery_takes_the_calibration_beside_its_network(street, calibrated, tiny_run, capsys, tmp_path):
    folder, weights, rows = street
    image = f"{folder}/{rows[0][0]}"
    beside = tiny_run / "run" / "calibration.json"
    replace(calibrated, false_matches=((0.1, -1.0, -1.0), (0.01, 99.0, 99.0))).save(beside)
    invoke(f"gallery add {tmp_path}/g {folder}/crops.csv {weights}".split())
    assert "probabilities by" in capsys.readouterr().err and Gallery.open(tmp_path / "g").info()["calibrated"]
    words = f"{image} --gallery {tmp_path}/g {weights} --top 5"
    found, _ = search(f"{words} --strangers 0 --page {tmp_path}/p.html", capsys)
    assert (
        " trip 0 " in found and "  its trip: c0" in found and "its trip, by time" in (tmp_path / "p.html").read_text()
    )
    assert "none passes a false-match rate of 0.01" in search(f"{words} --false-match-rate 0.01", capsys)[0]
    assert "  passes" in search(f"{words} --false-match-rate 0.1", capsys)[0]
    beside.write_text("{}")
    invoke(f"gallery add {tmp_path}/h {folder}/crops.csv {weights}".split())
    assert "no probabilities: " in capsys.readouterr().err and not Gallery.open(tmp_path / "h").info()["calibrated"]
    assert len(Gallery.open(tmp_path / "h")) == len(rows)


def test_the_same_photograph_is_the_same_vehicle(street, calibrated, capsys):
    folder, weights, rows = street
    a, b = (f"{folder}/{rows[k][0]}" for k in (0, -1))
    invoke(f"same {a} {a} {weights}".split())
    said = capsys.readouterr().out
    assert said.startswith("100.0% that both show one vehicle") and "appearance       +9.00 nats" in said
    assert "12 vehicles that the network was not trained on" in said
    Gallery.open(folder / "g").learn(calibration=calibrated.content)
    times = f"--camera-a c003 --time-a 16:00 --camera-b c001 --time-b 16:01 --gallery {folder}/g"
    times = times.replace("16:0", "2026-05-01T16:0")
    invoke(f"same {a} {b} {weights} {times} --candidates 100".split())
    said = capsys.readouterr().out
    here = times.replace("c001", "c003")
    invoke(f"same {a} {b} {weights} {here}".split())
    assert "space and time   +0.00 nats  (c003 to c003" in capsys.readouterr().out, "one camera and itself is no trip"
    assert "c003 to c001 in +60 s" in said and "100 candidates, 50% strangers" in said
    nats = [float(x) for x in re.findall(r"([+-]\d+\.\d\d) nats", said)]
    sure = float(re.match(r"([\d.]+)%", said)[1]) / 100
    assert sure == pytest.approx(1 / (1 + np.exp(-sum(nats))), abs=2e-3) and nats[1] != 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("search {image} --gallery {folder}/none", "none does not exist: make one with `dfrst gallery add"),
        ("search {image} --gallery {folder}/g", "is no features file: say with --weights"),
        ("search {folder}/no.jpg --gallery {folder}/g {weights}", "(no such file); repair it, or leave it out"),
        ("search {image} --gallery {folder}/g {weights} --least 0.5 --false-match-rate 0.1", "give one"),
        ("search {image} --gallery {folder}/g {weights} --least 2", "--least is 2.0: 0 or more, at most 1"),
        ("search {image} --gallery {folder}/g {weights} --false-match-rate 0.1", "calibration"),
        ("search {image} --gallery {folder}/g {weights} --camera gate --time 70.5", "has no camera 'gate'"),
        ("search {image} --gallery {folder}/g {weights} --before 5min", "not every query has a time"),
        ("search {image} --gallery {folder}/g {weights} --time noon", "'noon' is no time: give seconds"),
        ("search {image} --gallery {folder}/g {weights} --time 16 --after soon", "'soon' is no duration"),
        ("gallery add {folder}/g {folder}/g {weights}", "holds no image"),
        ("gallery add {folder}/g {folder}/crops {weights}", "knows no camera 'unknown'"),
        ("gallery add {folder}/crops {folder}/no.csv {weights}", "crops is there and no gallery"),
        ("gallery delete {folder}/g", "say what to delete"),
        ("gallery expire {folder}/g", "say either --before TIME or --keep"),
        ("gallery info {folder}/g --camera c003", "dfrst gallery info takes no camera (c003)"),
        ("gallery add {folder}/new", "say what to add"),
        ("same {image} {image} {weights} --camera-a c003", "go together"),
        ("same {image} {folder}/crops {weights}", "name one image on each side"),
        ("same {image} {image} {weights} --candidates 0", "--candidates is 0"),
        ("same {image} {image} {weights} --gallery {folder}/g --calibration x.json", "leave --calibration out"),
        ("same {image} {image} {weights} --calibration {folder}/none.json", "no calibration at"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line(street, calibrated, words, said, capsys):
    folder, weights, rows = street
    given = words.format(folder=folder, weights=weights, image=f"{folder}/{rows[0][0]}")
    with pytest.raises(SystemExit) as stop:
        main(given.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and len(error.strip().splitlines()) <= 2
    assert not (Path(folder) / "new").exists()


def test_durations():
    assert [span(word) for word in ("90", "30min", "2h", "7d", "1.5 h")] == [90, 1800, 7200, 604800, 5400]
