"""A camera on another clock is named, and a model that is used on other times than it was fitted on says so."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import build, load
from torchreid_dfrst.spatiotemporal.clocks import odd_clocks
from torchreid_dfrst.spatiotemporal.passes import one_per_pass

ROAD, TRAIN, TEST = road(), traffic(0, 60), traffic(1, 60, first=100)
ODD = {
    "ahead": (lambda t: t + 600, r"\+(59|60)\d s against"),
    "hours behind": (lambda t: t - 7200, r"-7[12]\d\d s against"),
    "slow": (lambda t: 0.8 * t, r"runs at 0\.(79|8)\d* of the rate"),
    "milliseconds": (lambda t: 1000 * t, "counts milliseconds"),
    "minutes": (lambda t: t / 60, "counts minutes"),
    "frames": (lambda t: 25 * t, "counts frames at 25 a second"),
    "anew": (lambda t: t % 600, r"starts anew every (59|60)\d s"),
}


def at_camera(seen, change, camera=7):
    return replace(seen, time_s=np.where(seen.camera == camera, change(seen.time_s), seen.time_s))


@pytest.mark.parametrize("kind", ODD)
def test_the_odd_clock_is_named_with_what_is_the_matter(kind):
    change, words = ODD[kind]
    (found,) = odd_clocks(one_per_pass(at_camera(TRAIN, change)), ROAD)
    assert found.camera == 7 and found.before < 0.5 < found.explained
    assert re.match(words, found.describe()), found.describe()
    if kind != "anew":
        right = TRAIN.time_s[TRAIN.camera == 7]
        np.testing.assert_allclose(found.corrected(change(right)), right, atol=40)


def test_two_cameras_in_another_time_zone():
    moved = at_camera(at_camera(TRAIN, lambda t: t + 3600), lambda t: t + 3600, camera=5)
    assert sorted(clock.camera for clock in odd_clocks(one_per_pass(moved), ROAD)) == [5, 7]


def test_a_column_of_mixed_units():
    mixed = at_camera(at_camera(TRAIN, lambda t: 1000 * t), lambda t: 1000 * t, camera=5)
    found = {c.camera: c.describe().partition(" (")[0] for c in odd_clocks(one_per_pass(mixed), ROAD)}
    assert found == {5: "counts milliseconds", 7: "counts milliseconds"}


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2], [4, 2, 0, 3, 1]])
def test_no_clock_is_blamed_for_the_map(order):
    wrong = CameraNetwork(ROAD.cameras, ROAD.distance_m[np.ix_(order, order)])
    assert odd_clocks(one_per_pass(TRAIN), wrong) == []


def test_a_vehicle_that_never_leaves_does_not_take_all_memory():
    parked = Sightings(np.tile([3, 5], 20_000), np.arange(40_000) * 20.0, np.zeros(40_000, int))
    odd_clocks(one_per_pass(parked), ROAD)  # 800 million pairs of passes


def changed(seen, change):
    return replace(seen, time_s=change(seen.time_s))


USES = {
    "queries an hour ahead": (lambda t: t + 3600, lambda t: t, r"the clock of the queries: \+36"),
    "both in tenths of a second": (lambda t: 5 * t, lambda t: 5 * t, r"times the \d+\.?\d* m/s that were fitted"),
    "one on the epoch": (lambda t: t + 1.7e9, lambda t: t, "100 % of the queries are more than"),
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", USES)
def test_use_on_other_times_than_fitted_is_told_with_figures(kind, saved, caplog, tmp_path):
    query, gallery, words = USES[kind]
    model = build("lognormal").fit(TRAIN, ROAD)
    if saved:
        model.save(tmp_path / "model.json")
        model = load(tmp_path / "model.json", ROAD)
    model.check_use(TEST[::2], TEST)
    assert not caplog.text
    model.check_use(changed(TEST[::2], query), changed(TEST, gallery))
    assert re.search(words, caplog.text), caplog.text


def test_use_in_another_unit_is_refused_as_the_fit_is():
    model = build("lognormal").fit(TRAIN, ROAD)
    thousand = changed(TEST, lambda t: 1000 * t)
    with pytest.raises(ValueError, match=r"times of query and gallery: vehicles would drive .* look like milliseconds"):
        model.check_use(thousand[::2], thousand)
    build("lognormal", check_units=False).fit(TRAIN, ROAD).check_use(thousand[::2], thousand)


def test_an_odd_camera_of_the_test_is_named(caplog):
    model, late = build("lognormal").fit(TRAIN, ROAD), at_camera(TEST, lambda t: t + 600)
    model.check_use(late[::2], late)
    assert re.search(r"camera 7: \+(59|60)\d s", caplog.text)


def test_lists_without_identities_are_compared_by_the_nearest_gap(caplog):
    model, nobody = build("lognormal").fit(TRAIN, ROAD), replace(TEST, identity=None)
    model.check_use(nobody[::2], nobody)
    assert not caplog.text
    model.check_use(changed(nobody[::2], lambda t: t + 1e6), nobody)
    assert "100 % of the queries" in caplog.text


def test_saved_habits_that_no_fit_leaves_are_refused(tmp_path):
    build("provid").fit(TRAIN, ROAD).save(tmp_path / "model.json")
    content = json.loads((tmp_path / "model.json").read_text())
    content["habits"]["speed"] = "fast"
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"habits is .*'fast'"):
        load(tmp_path / "model.json", ROAD)
