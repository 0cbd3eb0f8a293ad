"""A model that is used on other times than it was fitted on says so."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build, load
from torchreid_dfrst.spatiotemporal.habits import Habits, contradictions, habits, other_gaps

ROAD, TRAIN, TEST = road(), traffic(0, 60), traffic(1, 60, first=100)


def at_camera(seen, change, camera=7):
    return replace(seen, time_s=np.where(seen.camera == camera, change(seen.time_s), seen.time_s))


def changed(seen, change):
    return replace(seen, time_s=change(seen.time_s))


USES = {
    "queries an hour ahead": (lambda t: t + 3600, lambda t: t, r"the clock of the queries: \+36"),
    "halved": (lambda t: t / 2, lambda t: t / 2, r"cameras are 0\.(49|5\d?) times those of training .* their unit"),
    "doubled": (lambda t: 2 * t, lambda t: 2 * t, r"cameras are (1\.9|2\.?\d?) times"),
    "in tenths of a second": (
        lambda t: 5 * t,
        lambda t: 5 * t,
        r"cameras are (4\.9|5\.?\d?) times",
    ),
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


def dealt(seen, seed=0):
    """Times shuffled among all images."""
    return replace(seen, time_s=np.random.default_rng(seed).permutation(seen.time_s))


def by_camera(seen, most_s=30, seed=0):
    """Each camera with a clock of its own."""
    ahead = np.random.default_rng(seed).uniform(-most_s, most_s, 12)
    return replace(seen, time_s=seen.time_s + ahead[seen.camera])


def wider(seen):
    """A quarter of the vehicles three times as fast, a quarter three times as slow: the middle stays."""
    start = np.array([seen.time_s[seen.identity == vehicle].min() for vehicle in seen.identity])
    return replace(seen, time_s=start + (seen.time_s - start) * np.array([1 / 3, 1, 3, 1])[seen.identity % 4])


def constant(seen):
    return replace(seen, time_s=np.full(len(seen), 7.0))


@pytest.mark.parametrize("wrong", [dealt, by_camera, wider, constant])
def test_gaps_that_no_factor_explains_are_told_with_shares(wrong):
    (text,) = contradictions(habits(TRAIN, ROAD), wrong(TEST)[::2], wrong(TEST), ROAD)
    assert re.search(r"spread otherwise .* (\d+) % are shorter than nine in ten there, (\d+) % longer", text), text


@pytest.mark.parametrize("period_s", [300, 600])
def test_counters_of_the_test_that_start_anew_are_told(period_s):
    anew = changed(traffic(2, 200, first=500), lambda t: t % period_s)
    (text,) = contradictions(habits(TRAIN, ROAD), anew[::3], anew, ROAD)
    assert int(re.match(r"counters start anew about every (\d+) s", text)[1]) == pytest.approx(period_s, rel=0.03)


def test_of_many_vehicles_some_come_first_and_last_by_chance():
    rng, fitted = np.random.default_rng(0), Habits(0.0, 0.0, 0.0, {"3 5": [20.0] * 5})
    seen = Sightings(np.tile([3, 5], 8000), rng.uniform(0, 600, 16_000), np.repeat(np.arange(8000), 2))
    assert other_gaps(fitted, seen, ROAD).anew == ""
    trips = np.add.outer(rng.uniform(0, 900, 400), [0, 15]).ravel() % 600
    assert other_gaps(fitted, replace(seen[:800], time_s=trips), ROAD).anew


@pytest.mark.parametrize("seed", range(5))
def test_sound_times_of_few_vehicles_are_not_blamed(seed):
    few, other = traffic(10 + seed, 15), traffic(20 + seed, 15, first=100)
    assert contradictions(habits(few, ROAD), other[::3], other, ROAD) == []


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_slow_traffic_is_no_other_unit(factor):
    slow = changed(TEST, lambda t: t * factor)
    assert contradictions(habits(TRAIN, ROAD), slow[::3], slow, ROAD) == []


def test_gaps_that_are_more_alike_than_those_of_training_are_fine():
    """Training was sampled thinly, and many passes are missing."""
    assert contradictions(habits(wider(TRAIN), ROAD), TEST[::3], TEST, ROAD) == []


def test_the_warning_names_the_lists(caplog):
    late = changed(TEST, lambda t: t / 2)
    build("lognormal").fit(TRAIN, ROAD).check_use(late[::2], late, "veri776 in f.npz")
    assert "the times of query and gallery of veri776 in f.npz do not fit" in caplog.text


def test_cameras_that_training_lacks_are_compared_by_speed():
    train, test = TRAIN[TRAIN.camera < 7], TEST[TEST.camera >= 7]
    text = contradictions(habits(train, ROAD), *[changed(test, lambda t: 5 * t)] * 2, ROAD)[-1]
    assert re.search(r"vehicles drive .* times the \d+\.?\d* m/s that were fitted", text), text


def test_a_vehicle_that_is_seen_all_day_counts_once():
    """One of sixty has most of the legs, all of them slow."""
    slow = np.arange(400) * 300.0
    bus = Sightings(np.tile([3, 11], 200), slow, np.full(400, 999))
    assert contradictions(habits(TRAIN, ROAD), TEST[::2], Sightings.concatenate([TEST, bus]), ROAD) == []


def test_a_model_saved_without_gaps_compares_none(tmp_path, caplog):
    build("provid").fit(TRAIN, ROAD).save(tmp_path / "model.json")
    content = json.loads((tmp_path / "model.json").read_text())
    del content["habits"]["gaps"], content["habits"]["vehicles"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    load(tmp_path / "model.json", ROAD).check_use(*[changed(TEST, lambda t: t / 2)] * 2)
    assert not caplog.text


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


@pytest.mark.parametrize(
    "wrong",
    [{"speed": "fast"}, {"gaps": []}, {"gaps": {"3 5": [2, 1]}}, {"gaps": {"3 5": []}}, {"vehicles": -1}, {"a": 1}],
)
def test_saved_habits_that_no_fit_leaves_are_refused(tmp_path, wrong):
    build("provid").fit(TRAIN, ROAD).save(tmp_path / "model.json")
    content = json.loads((tmp_path / "model.json").read_text())
    content["habits"] |= wrong
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"habits is .*speed"):
        load(tmp_path / "model.json", ROAD)
