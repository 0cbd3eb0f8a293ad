"""Controls change what they say and nothing else, and a gain by space and time does not survive them."""

import json

import numpy as np
import pytest
from worlds import road, traffic

from tools.studies.spacetime.simulated import embed
from torchreid_dfrst.cli import main
from torchreid_dfrst.evaluation import controls
from torchreid_dfrst.retrieval.features import Extraction, Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.spatiotemporal.passes import passes


def named(seed, vehicles, first=500):
    seen = traffic(seed, vehicles, first=first)
    path = np.array([f"{k}.jpg" for k in range(len(seen))])
    return Sightings(seen.camera, seen.time_s, seen.identity, passes(seen, by_identity=True), path)


GALLERY = named(3, 25)
QUERY = GALLERY[::4]


@pytest.mark.parametrize("what", ["times", "cameras", "both"])
def test_shuffling_deals_anew_and_keeps_an_image_one_image(what):
    query, gallery = controls.shuffled(QUERY, GALLERY, what, 0)
    for column, dealt in (("time_s", what != "cameras"), ("camera", what != "times")):
        now, before = getattr(gallery, column), getattr(GALLERY, column)
        np.testing.assert_array_equal(np.sort(now), np.sort(before))
        assert (now != before).any() == dealt
        np.testing.assert_array_equal(getattr(query, column), now[::4])


def test_skew_is_one_error_for_each_camera():
    query, gallery = controls.skewed(QUERY, GALLERY, 20.0, 0)
    for camera in np.unique(GALLERY.camera):
        error = (gallery.time_s - GALLERY.time_s)[GALLERY.camera == camera]
        assert np.ptp(error) < 0.11 and np.abs(error).max() <= 20.1
    np.testing.assert_array_equal(query.time_s, gallery.time_s[::4])


def test_wrong_times_move_whole_tracks():
    query, gallery = controls.wrong_times(QUERY, GALLERY, 0.4, 0)
    moved = gallery.time_s != GALLERY.time_s
    assert 0.2 < moved.mean() < 0.6
    for track in np.unique(GALLERY.track[moved]):
        rows = GALLERY.track == track
        assert np.ptp((gallery.time_s - GALLERY.time_s)[rows]) < 1e-6
    np.testing.assert_array_equal(query.time_s, gallery.time_s[::4])


def test_reliability_counts_every_pair_of_two_cameras_once():
    transit = build("lognormal").fit(traffic(0), road()).distance(QUERY, GALLERY)
    across = QUERY.camera[:, None] != GALLERY.camera
    bins = controls.reliability(transit, QUERY, GALLERY)
    assert sum(b["pairs"] for b in bins) == across.sum()
    same = (QUERY.identity[:, None] == GALLERY.identity)[across]
    assert sum(b["pairs"] * b["same"] for b in bins) == pytest.approx(same.sum())
    assert [b["distance"] for b in bins] == sorted(b["distance"] for b in bins)


def test_the_command_writes_controls_and_pictures(tmp_path, capsys):
    train = named(0, 60, first=0)
    features = [Features(embed(s, 1.2), s) for s in (GALLERY, train)]
    run = Extraction(features[0][np.arange(0, len(GALLERY), 4)], features[0], train, features[1], road())
    run.save(tmp_path / "features.npz")
    words = ["spacetime.model", "likelihood", "spacetime.weight", "1", "--out", str(tmp_path / "out")]
    main(["audit", str(tmp_path / "features.npz"), *words])
    result = json.loads((tmp_path / "out" / "audit.json").read_text())["likelihood"]
    assert result["as it is"]["mAP"] > result["appearance"]["mAP"] + 1
    assert result["shuffled"]["both"]["mAP"] < result["appearance"]["mAP"]
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert pictures == {f"spacetime_{name}.png" for name in ("controls", "reliability", "pairs_likelihood")}
    assert "likelihood" in capsys.readouterr().out
