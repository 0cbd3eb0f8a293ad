"""Scores by time and camera alone, what ties may do to them, and controls that a gain by time does not survive."""

import json
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from tools.studies.spacetime.simulated import embed
from torchreid_dfrst.cli import main
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.features import Extraction, Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.spatiotemporal.passes import passes


def test_ties_are_bounded_by_the_two_extreme_orders():
    test = traffic(1, 30)
    tied = np.round(build("lognormal").fit(traffic(0), road()).distance(test, test), 1)
    worst, best = audit.tie_bounds(tied, test, test)
    scores = [audit.rank(tied, test, test, seed).mAP for seed in range(5)]
    assert worst.mAP < min(scores) < max(scores) < best.mAP


def test_without_ties_there_is_one_score():
    test, rng = traffic(1, 30), np.random.default_rng(0)
    distance = rng.permutation(len(test) ** 2).reshape(len(test), -1).astype(np.float32)
    worst, best = audit.tie_bounds(distance, test, test)
    assert worst.mAP == best.mAP == audit.rank(distance, test, test).mAP


def test_a_constant_scores_like_chance_wherever_the_identity_stands_in_the_list():
    test = traffic(1, 60)
    constant = np.zeros((len(test), len(test)), dtype=np.float32)
    random = np.random.default_rng(0).random(constant.shape, dtype=np.float32)
    chance = audit.rank(random, test, test).mAP
    assert audit.rank(constant, test, test).mAP == pytest.approx(chance, rel=0.3)


def test_the_real_lists_give_the_paper_s_model_its_expected_score(veri_lists, capsys):
    main(["spacetime", "--root", str(veri_lists), "-t", "veri776", "--json", "spacetime.model", "lognormal"])
    result = json.loads(capsys.readouterr().out)["lognormal"]
    assert (result["mAP"], result["R1"]) == pytest.approx((16, 43), abs=1)
    assert result["mAP_ties"][0] <= result["mAP"] <= result["mAP_ties"][1]


def named(seed, vehicles, first=500):
    seen = traffic(seed, vehicles, first=first)
    path = np.array([f"{k}.jpg" for k in range(len(seen))])
    return Sightings(seen.camera, seen.time_s, seen.identity, passes(seen, by_identity=True), path)


GALLERY = named(3, 25)
QUERY = GALLERY[::4]


@pytest.mark.parametrize("what", ["times", "cameras", "both"])
def test_shuffling_deals_anew_and_keeps_an_image_one_image(what):
    query, gallery = audit.shuffled(QUERY, GALLERY, what, 0)
    for column, dealt in (("time_s", what != "cameras"), ("camera", what != "times")):
        now, before = getattr(gallery, column), getattr(GALLERY, column)
        np.testing.assert_array_equal(np.sort(now), np.sort(before))
        assert (now != before).any() == dealt
        np.testing.assert_array_equal(getattr(query, column), now[::4])


def test_skew_is_one_error_for_each_camera():
    query, gallery = audit.skewed(QUERY, GALLERY, 20.0, 0)
    for camera in np.unique(GALLERY.camera):
        error = (gallery.time_s - GALLERY.time_s)[GALLERY.camera == camera]
        assert np.ptp(error) < 0.11 and np.abs(error).max() <= 20.1
    np.testing.assert_array_equal(query.time_s, gallery.time_s[::4])


def test_wrong_times_move_whole_tracks():
    query, gallery = audit.wrong_times(QUERY, GALLERY, 0.4, 0)
    moved = gallery.time_s != GALLERY.time_s
    assert 0.2 < moved.mean() < 0.6
    for track in np.unique(GALLERY.track[moved]):
        rows = GALLERY.track == track
        assert np.ptp((gallery.time_s - GALLERY.time_s)[rows]) < 1e-6
    np.testing.assert_array_equal(query.time_s, gallery.time_s[::4])


def test_reliability_counts_every_pair_of_two_cameras_once():
    transit = build("lognormal").fit(traffic(0), road()).distance(QUERY, GALLERY)
    across = QUERY.camera[:, None] != GALLERY.camera
    bins = audit.reliability(transit, QUERY, GALLERY)
    assert sum(b["pairs"] for b in bins) == across.sum()
    same = (QUERY.identity[:, None] == GALLERY.identity)[across]
    assert sum(b["pairs"] * b["same"] for b in bins) == pytest.approx(same.sum())
    assert [b["distance"] for b in bins] == sorted(b["distance"] for b in bins)


def test_an_audit_names_cameras_as_the_users_file_does():
    names = dict(zip((3, 5, 7, 9, 11), ("north gate", "c001", "bridge", "tunnel", "c2"), strict=True))
    gallery = replace(GALLERY, camera_name=np.array([names[c] for c in GALLERY.camera.tolist()]))
    result = audit.run(build("provid"), named(0, 60, first=0), QUERY, gallery, road())
    assert result["cameras"] == [names[c] for c in road().cameras]
    assert {pair["query"] for pair in result["pairs"]} | {pair["gallery"] for pair in result["pairs"]} == {
        *names.values()
    }
    plain = audit.run(build("provid"), named(0, 60, first=0), QUERY, GALLERY, road())
    assert plain["cameras"] == [str(c) for c in road().cameras]
    for one, other in zip(result["pairs"], plain["pairs"], strict=True):
        assert one == {**other, "query": names[int(other["query"])], "gallery": names[int(other["gallery"])]}


def test_the_command_writes_controls_and_pictures(tmp_path, monkeypatch, capsys):
    train = named(0, 60, first=0)
    features = [Features(embed(s, 1.2), s) for s in (GALLERY, train)]
    run = Extraction(features[0][np.arange(0, len(GALLERY), 4)], features[0], train, features[1], road())
    run.save(tmp_path / "features.npz")
    words = [tmp_path / "features.npz", "spacetime.model", "likelihood", "spacetime.weight", "1"]
    main(["audit", *map(str, words), "--out", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "audit.json").read_text())["likelihood"]
    assert result["as it is"]["mAP"] > result["appearance"]["mAP"] + 1
    assert result["shuffled"]["both"]["mAP"] < result["appearance"]["mAP"]
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert {f"spacetime_{n}.png" for n in ("controls", "reliability", "pairs_likelihood")} <= pictures
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["likelihood", "mAP", "R1", "R5"]
    rows = {line[2:32].strip(): [float(word) for word in line[32:].split()] for line in shown[1:]}
    assert rows["as it is"] == [result["as it is"][name] for name in ("mAP", "R1", "R5")]
    assert {"both shuffled", "by appearance alone", "clocks off by up to 60 s", "share 0.5 of the times wrong"} <= set(
        rows
    )
