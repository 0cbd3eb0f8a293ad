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


def called(count=4):
    """Cameras 0 and 1 have names, camera 2 has none; of vehicle 0 only the second image says how it is called."""
    camera, identity = np.arange(count) % 3, np.arange(count) // 2
    gates, cars = np.array(["north gate", "c003", ""])[camera], np.array(["", "blue van", "", "7b"])[:count]
    return Sightings(camera, identity=identity, camera_name=gates, vehicle_name=cars)


def test_cameras_and_vehicles_are_called_as_the_users_file_calls_them():
    seen = called()
    assert [seen.camera_called(c) for c in (0, 1, 2, 9)] == ["north gate", "c003", "2", "9"]
    assert [seen.vehicle_called(v) for v in (0, 1, 5)] == ["blue van", "7b", "5"]
    assert some().camera_called(1) == "1" and some().vehicle_called(1) == "1"
    assert list(seen[[3, 0]].camera_name) == ["north gate", "north gate"]


def test_parts_with_and_without_names_are_joined():
    for both in (Sightings.concatenate([some(), called()]), Sightings.concatenate([called(), some()])):
        assert both.camera_called(0) == "north gate" and both.vehicle_called(0) == "blue van"
    with pytest.raises(ValueError, match=r"camera_name has shape \(1,\), expected \(2,\)"):
        Sightings([0, 1], camera_name=["north gate"])


def test_a_network_takes_the_names_that_it_lacks_from_sightings():
    given = CameraNetwork(np.array([1, 0, 2]), network().distance_m, ["own", "", ""])
    named = given.named(some(), called())
    assert list(named.names) == ["own", "north gate", ""]
    assert [named.called(c) for c in (1, 0, 2)] == ["own", "north gate", "2"]
    assert named.fingerprint == given.fingerprint and list(given.names) == ["own", "", ""]


@pytest.mark.parametrize(
    "matrix, message",
    [
        ([[0, 1], [2, 0]], "distance from camera north gate to c003 is 1.0 but 2.0 back"),
        ([[0, -1], [-1, 0]], "distance from camera north gate to camera c003 is -1.0"),
        ([[3, 1], [1, 0]], "distance from camera north gate to itself is 3.0"),
    ],
)
def test_bad_distances_are_those_of_cameras_with_names(matrix, message):
    with pytest.raises(ValueError, match=message):
        CameraNetwork(np.array([4, 5]), np.array(matrix, float), ["north gate", "c003"])


def test_cameras_that_have_no_row_or_two_have_names():
    with pytest.raises(ValueError, match="camera north gate has 2 rows"):
        CameraNetwork(np.array([4, 4]), np.zeros((2, 2)), ["north gate", "north gate"])
    known = CameraNetwork(np.array([0, 2]), np.array([[0.0, 9.0], [9.0, 0.0]]), ["south gate", ""])
    seen = called()
    with pytest.raises(KeyError, match=r"camera c003 has no row in the distance matrix, which knows south gate, 2:"):
        known.rows(seen.camera, seen.camera_called)
    with pytest.raises(ValueError, match=r"\(2,\) cameras, \(1,\) names"):
        CameraNetwork(known.cameras, known.distance_m, ["south gate"])
