import datetime

import numpy as np
import pytest

from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings


def some(count=4):
    return Sightings(
        np.arange(count) % 3,
        np.arange(count) * 2.5,
        np.arange(count) // 2,
        np.arange(count),
        np.array(list("abcdef"))[:count],
    )


def test_columns_left_out_are_unknown():
    bare = Sightings(np.array([3, 0]))
    assert np.isnan(bare.time_s).all() and (bare.identity == UNKNOWN).all() and (bare.track == UNKNOWN).all()
    assert list(bare.path) == ["", ""]


def test_rows_are_selected_together():
    chosen = some()[np.array([3, 1])]
    assert list(chosen.path) == ["d", "b"] and list(chosen.time_s) == [7.5, 2.5] and list(chosen.track) == [3, 1]
    assert len(some()[1:3]) == 2
    with pytest.raises(TypeError, match="received 2"):
        some()[2]


def test_concatenated_rows_keep_their_order():
    both = Sightings.concatenate([some(2), some(3)])
    assert list(both.path) == ["a", "b", "a", "b", "c"] and both.camera.dtype == np.int64


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"camera": [[1, 2]]}, r"camera has shape \(1, 2\)"),
        ({"camera": [1, 2], "time_s": [1.0]}, r"time_s has shape \(1,\), expected \(2,\)"),
        ({"camera": [1, -2]}, "camera is -2 in row 1"),
        ({"camera": [1.0, 2.0]}, "camera has dtype float64"),
        ({"camera": [1, 2], "identity": ["a", "b"]}, "identity has dtype .* over all parts together"),
        ({"camera": [1, 2], "time_s": ["20260501160000", "5"]}, r"time_s has dtype <U14, .*20260501160000.*datetime64"),
        ({"camera": [1], "time_s": [datetime.datetime(2026, 5, 1)]}, r"time_s has dtype object, .*datetime64"),
        ({"camera": [1, 2], "time_s": [0.0, np.inf]}, "infinite in row 1"),
    ],
)
def test_bad_columns_are_named(columns, message):
    with pytest.raises(ValueError, match=message):
        Sightings(**columns)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_become_seconds_since_1970(unit):
    moments = ["2026-05-01T16:00:00", "2026-05-01T16:01:10", "NaT", "1969-12-31T23:59:59"]
    expected = [1777651200.0, 1777651270.0, np.nan, -1.0]
    given = Sightings([0] * 4, np.array(moments, dtype=f"datetime64[{unit}]"))
    np.testing.assert_array_equal(given.time_s, expected)


def test_fractions_of_a_second_are_kept():
    def seconds(times):
        return Sightings([0], times).time_s.item()

    assert seconds(np.array(["2026-05-01T16:00:00.123456789"], dtype="datetime64[ns]")) == 1777651200.123456789
    assert seconds(np.array(["2026-05-01"], dtype="datetime64[D]")) == 1777593600
    assert seconds(np.array([1500], dtype="timedelta64[ms]")) == 1.5


def test_missing_times_are_counted_and_the_first_is_named():
    some().require_times("toy")
    holed = Sightings(np.zeros(3, int), [0.0, np.nan, np.nan], path=["x", "y", "z"])
    with pytest.raises(ValueError, match=r"2 of 3 sightings of toy have no time \(first: y\)"):
        holed.require_times("toy")


def network(labels=(7, 5, 8)):
    upper = np.array([[0, 40, 170], [0, 0, 130], [0, 0, 0]], float)
    return CameraNetwork(np.array(labels), upper + upper.T)


def test_distances_are_found_by_label_whatever_the_order_of_rows():
    assert network().between(np.array([5, 7]), np.array([8, 5, 7])).tolist() == [[130, 0, 40], [170, 40, 0]]
    assert network().rows(np.array([[8, 7]])).tolist() == [[2, 0]]


def test_a_camera_without_a_row_is_named():
    with pytest.raises(KeyError, match=r"camera 4, 9 has no row .* knows 5, 7, 8"):
        network().rows(np.array([9, 5, 4]))


@pytest.mark.parametrize(
    "matrix, message",
    [
        ([[0, 1], [2, 0]], "1.0 but 2.0 back"),
        ([[0, -1], [-1, 0]], "camera 1 to camera 2 is -1.0"),
        ([[0, np.nan], [np.nan, 0]], "is nan"),
        ([[3, 1], [1, 0]], "camera 1 to itself is 3.0"),
        ([[0, 1, 2], [1, 0, 2]], "shape"),
    ],
)
def test_bad_matrices_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        CameraNetwork(np.array([1, 2]), np.array(matrix, float))


def test_a_camera_has_one_row():
    with pytest.raises(ValueError, match="camera 1 has 2 rows"):
        CameraNetwork(np.array([1, 1]), np.zeros((2, 2)))


def test_the_fingerprint_knows_the_network_and_not_the_order_of_its_rows():
    one = network()
    order = np.array([2, 0, 1])
    same = CameraNetwork(one.cameras[order], one.distance_m[np.ix_(order, order)])
    assert same.fingerprint == one.fingerprint
    assert network(labels=(5, 7, 8)).fingerprint != one.fingerprint
    assert CameraNetwork(one.cameras, one.distance_m * 2).fingerprint != one.fingerprint
