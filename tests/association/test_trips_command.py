"""Trips from a features file: `dfrst trips`, and the rows of an evaluation."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from test_association import world
from worlds import road

from torchreid_dfrst import association, evaluation
from torchreid_dfrst.cli import invoke
from torchreid_dfrst.cli.trips import read_positions
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import UNKNOWN
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood

CAMERAS = range(3, 13, 2)


@pytest.fixture(scope="module")
def extraction():
    gallery, train = world(0), world(1, 80)
    query = gallery[::6]
    return Extraction(query, gallery, train.sightings, train, road(), {"data": "a road", "train_features": "held out"})


@pytest.fixture
def file(extraction, tmp_path):
    extraction.save(tmp_path / "features.npz")
    return tmp_path / "features.npz"


def test_the_command_writes_tables_and_pictures(file, extraction, tmp_path, capsys):
    places = "camera,longitude,latitude\n" + "".join(f"{camera},{camera / 10},50\n" for camera in CAMERAS)
    (tmp_path / "places.csv").write_text(places)
    assert invoke(["trips", str(file), "--positions", str(tmp_path / "places.csv")]) == 0
    said, out = capsys.readouterr().out, tmp_path / "trips"
    assert "pairwise" in said and "IDF1" in said and "joined no other" in said
    rows = list(csv.DictReader(open(out / "trips.csv")))
    assert sum(int(row["images"]) for row in rows) == len(extraction.gallery)
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    legs = {(row["from"], row["to"]): row for row in csv.DictReader(open(out / "travel_times.csv"))}
    assert 5 < float(legs["3", "5"]["median_s"]) < 40 and legs["3", "5"]["above_chance"] in ("yes", "no")
    assert 15 < float(legs["3", "5"]["median_km_h"]) < 70  # 150 m at some 10 m/s
    square = list(csv.reader(open(out / "origin_destination.csv")))
    assert [row[0] for row in square[1:]] == square[0][1:]
    lines = json.loads((out / "trips.geojson").read_text())["features"]
    moved = sum(int(value) for row in square[1:] for value in row[1:])
    assert len(lines) == moved and len(lines[0]["geometry"]["coordinates"]) >= 2
    assert {path.name for path in out.glob("*.png")} == {"time_space.png", "network.png", "by_hour.png"}


def test_the_command_works_without_times_distances_and_labels(extraction, tmp_path, capsys):
    gallery = extraction.gallery
    seen = replace(gallery.sightings, time_s=None, identity=None)
    plain = Extraction(extraction.query, Features(gallery.embedding, seen))
    plain.save(tmp_path / "plain.npz")
    assert invoke(["trips", str(tmp_path / "plain.npz"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "no image has a time" in said.err and "IDF1" not in said.out
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("3,1", "line 2"), ("3,200,50", "is no place"), ("3,8,50", "no position for camera 11, 5, 7, 9")],
)
def test_positions_that_will_not_do_are_named(file, tmp_path, text, words):
    (tmp_path / "places.csv").write_text(f"camera,longitude,latitude\n{text}\n")
    with pytest.raises((ValueError, KeyError), match=words):
        invoke(["trips", str(file), "--positions", str(tmp_path / "places.csv")])
    assert not (tmp_path / "trips").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(file, tmp_path, monkeypatch):
    monkeypatch.setattr(association, "associate", lambda *_, **__: pytest.fail("sightings were joined"))
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OSError, match=r"could not be written .*: choose another place"):
        invoke(["trips", str(file), "--out", str(tmp_path / "taken" / "x")])


def test_rows_by_trips_stand_beside_the_four(extraction):
    spacetime, rerank = {"model": "likelihood", "weight": 0.4}, {"k1": 5, "k2": 2}
    four = evaluation.score(extraction, spacetime, rerank)
    more = evaluation.score(extraction, spacetime, rerank, {"trips": True})
    assert list(more.metrics) == [*four.metrics, "+ trips", "+ ST + trips"]
    assert all(more.metrics[row].mAP == four.metrics[row].mAP for row in four.metrics)
    assert more.metrics["+ ST + trips"].mAP > max(metrics.mAP for metrics in four.metrics.values())
    card = evaluation.card(more, extraction, "dfrst evaluate")
    assert "whole gallery" in card.table() and "whole gallery" in card.content["choices"]["trips"]
    worth = card.content["neighbours"]["+ trips"]["pairwise"]
    assert worth["interval"][0] <= worth["F1"] <= worth["interval"][1]
    json.dumps(card.content)


def test_rows_by_trips_read_no_identity_of_what_they_rank(extraction):
    blind = [
        Features(part.embedding, replace(part.sightings, identity=np.full(len(part), UNKNOWN)))
        for part in (extraction.query, extraction.gallery)
    ]
    for (row, seen, _), (_, unseen, _) in zip(
        evaluation.trips.rankings(extraction.query, extraction.gallery, extraction, True),
        evaluation.trips.rankings(*blind, extraction, True),
        strict=True,
    ):
        np.testing.assert_array_equal(np.concatenate(list(seen)), np.concatenate(list(unseen)), err_msg=row)


@pytest.mark.parametrize(("seen", "warns"), [("held out", False), ("trained on", False), (None, True)])
def test_appearance_is_fitted_on_vehicles_the_network_does_not_know_or_the_log_warns(extraction, seen, warns, caplog):
    found = evaluation.trips.evidence(replace(extraction, source={"train_features": seen}))
    assert isinstance(found, Likelihood) == (seen == "trained on")
    assert ("may have been trained on" in caplog.text) == warns


@pytest.mark.parametrize("protocol", ["image-to-track-min", "image-to-track-mean", "vehicleid"])
def test_other_protocols_rank_by_trips_or_say_why_not(extraction, protocol, caplog):
    found = evaluation.score(extraction, {"model": None}, None, {"protocol": protocol, "rerank": False, "trips": True})
    if protocol == "vehicleid":  # one camera each: nothing to join
        assert list(found.metrics) == ["appearance"] and "no row '+ trips'" in caplog.text
    else:
        assert found.metrics["+ trips"].mAP > found.metrics["appearance"].mAP


def test_positions_are_read_as_tables_are_and_one_camera_has_one(tmp_path):
    (tmp_path / "p.csv").write_bytes("camera;longitude;latitude\nS\u00fcd;10,5;50\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"p\.csv, line 2: 'Süd,10,5,50' is not camera,longitude,latitude"):
        read_positions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("camera,lat,lon\na,48,11\n")
    assert read_positions(tmp_path / "p.csv") == {"a": (11, 48)}
    (tmp_path / "p.csv").write_text("a;11,5;48,1x\n")
    with pytest.raises(ValueError, match=r"line 1: 'a,11,5,48,1x' is not camera"):
        read_positions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("a,1,2\na,1,2\nb,3,4\na,1,3\n")
    with pytest.raises(ValueError, match=r"line 4: camera a stands there twice, at two places"):
        read_positions(tmp_path / "p.csv")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe"):
        read_positions(tmp_path / "pipe")
