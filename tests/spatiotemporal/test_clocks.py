"""A camera on another clock is named."""

import re
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.clocks import odd_clocks, start_anew_s
from torchreid_dfrst.spatiotemporal.passes import one_per_pass

ROAD, TRAIN = road(), traffic(0, 60)
ODD = {
    "ahead": (lambda t: t + 600, r"\+(59|60)\d s against"),
    "hours behind": (lambda t: t - 7200, r"-7[12]\d\d s against"),
    "slow": (lambda t: 0.8 * t, r"runs at 0\.(79|8)\d* of the rate"),
    "milliseconds": (lambda t: 1000 * t, "counts milliseconds"),
    "minutes": (lambda t: t / 60, "counts minutes"),
    "frames": (lambda t: 25 * t, "counts frames at 25 a second"),
    "anew": (lambda t: t % 600, r"starts anew every (59|60)\d s"),
    "backwards": (lambda t: 2000 - t, "runs backwards"),
    "jumps ahead": (lambda t: t + 900 * (t > 900), r"jumps by \+(8[6-9]|9[0-4])\d s when the others show about \d+ s"),
    "jumps back": (lambda t: t - 500 * (t > 900), r"jumps by -(4[6-9]|5[0-4])\d s"),
}


def at_camera(seen, change, camera=7):
    return replace(seen, time_s=np.where(seen.camera == camera, change(seen.time_s), seen.time_s))


@pytest.mark.parametrize("kind", ODD)
def test_the_odd_clock_is_named_with_what_is_the_matter(kind):
    change, words = ODD[kind]
    (found,) = odd_clocks(one_per_pass(at_camera(TRAIN, change)), ROAD)
    assert found.camera == 7 and found.before < 0.55 < found.explained
    assert re.match(words, found.describe()), found.describe()
    if kind == "anew" or "jumps" in kind:  # it shows some times twice
        assert np.isnan(found.corrected(np.arange(3.0))).all()
    else:
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


def test_a_vehicle_that_comes_at_the_beginning_and_the_end_starts_no_counter():
    """One vehicle has all trips that a start would cut in two."""
    passed = np.concatenate([np.arange(10) * 12.0, 1750 + np.arange(10) * 12.0])
    bus = Sightings(np.tile([3, 5], 10), passed, np.full(20, 999))
    everyone = Sightings.concatenate([one_per_pass(TRAIN), bus])
    assert start_anew_s(everyone, ROAD) == 0
    five = [replace(bus, identity=bus.identity + k, time_s=bus.time_s + k) for k in range(5)]
    assert start_anew_s(Sightings.concatenate([everyone, *five]), ROAD) > 0
