import numpy as np
import pytest

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, unit
from torchreid_dfrst.retrieval import Parameters, Reranking, distance, neighbors, normalise, rerank


def test_normalise_keeps_the_direction_and_the_input():
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    before = x.copy()
    y = normalise(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(y * np.linalg.norm(x, axis=1, keepdims=True), x, atol=1e-5)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("weight", [0.0, 0.2, 3.0])
def test_neighbors_equal_the_definition(weight):
    rows, _ = clusters(23, seed=1)
    columns, _ = clusters(31, seed=1)
    table = np.random.default_rng(2).uniform(0, 2, (23, 31))
    slow = slow_distance(rows, columns, table, weight)
    found = neighbors(rows, columns, 7, transit=TableTransit(table), weight=weight)
    np.testing.assert_array_equal(found.index, np.argsort(slow, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(found.distance, np.sort(slow, axis=1)[:, :7], atol=1e-5)
    np.testing.assert_allclose(found.farthest, slow.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(distance(rows, columns, transit=TableTransit(table), weight=weight), slow, atol=1e-5)


def test_equal_distances_go_by_column_number():
    columns = unit(np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], dtype=float))
    found = neighbors(columns[:1], columns, 5)
    assert found.index.tolist() == [[0, 2, 5, 1, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(rows=np.full((2, 4), np.nan, np.float32)),
            r"2 of 2 rows of rows hold NaN or infinity \(first rows: 0, 1",
        ),
        (dict(rows=np.ones((2, 4), int)), "floating point"),
        (dict(rows=np.ones(4)), "floating point"),
        (dict(columns=np.ones((0, 4))), "no image"),
        (dict(rows=np.ones((2, 4))), r"not of length 1 \(row 0: 2, at most 0.0001 off is accepted\)"),
        (dict(count=1.5), "count is 1.5, expected a whole number"),
        (dict(weight="much"), "weight .* is 'much', expected a number"),
        (dict(memory_limit="1GB"), "memory_limit is '1GB'"),
        (dict(memory_limit=100), "a memory limit of 100 bytes is too small"),
        (dict(columns=np.eye(3, 5)), "4 and 5 dimensions"),
        (dict(count=4), "4 neighbours of 3 images"),
        (dict(count=0), "0 neighbours of 3 images"),
        (dict(weight=0.2), "no transit"),
        (dict(weight=-1.0), "0 or more"),
        (dict(transit=TableTransit(np.zeros((3, 2)))), r"transit has shape \(3, 2\)"),
    ],
)
def test_bad_input_is_named(change, message):
    given = dict(rows=np.eye(2, 4, dtype=np.float32), columns=np.eye(3, 4, dtype=np.float32), count=2) | change
    with pytest.raises(ValueError, match=message):
        neighbors(given.pop("rows"), given.pop("columns"), given.pop("count"), **given)


@pytest.mark.parametrize(("value", "dtype"), [(1e20, np.float32), (1e-30, np.float32), (1e30, np.float64)])
def test_very_long_and_very_short_vectors_have_a_direction(value, dtype):
    np.testing.assert_allclose(normalise(np.array([[value, 0.0], [value, value]], dtype)), [[1, 0], [0.5**0.5] * 2])


def test_what_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"1 of 2 rows .* \(first rows: 1\); float32 holds nothing above 3.4e38"):
        normalise(np.array([[1.0, 0], [1e300, 1]]))


@pytest.mark.parametrize("method", ["product", "faiss"])
def test_lengths_that_are_a_little_off_do_not_change_the_lists(method):
    x, _ = clusters(600, 32, seed=1)
    longer = (x * (1 + np.random.default_rng(0).uniform(-9e-5, 9e-5, (600, 1)))).astype(np.float32)
    before = longer.copy()
    found = neighbors(longer[:60], longer, 21, device="cpu", method=method)
    slow = slow_distance(normalise(longer[:60]), normalise(longer))
    np.testing.assert_array_equal(found.index, slow.argsort(axis=1, kind="stable")[:, :21])
    np.testing.assert_array_equal(longer, before)


def test_arrays_that_are_read_only_are_read(recwarn):
    x, _ = clusters(60, seed=2)
    table = np.random.default_rng(0).uniform(0, 2, (60, 60)).astype(np.float32)
    for array in (x, table):
        array.setflags(write=False)
    neighbors(x[:9], x, 3)
    distance(x, x, transit=TableTransit(table), weight=0.1)
    assert not recwarn.list


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_transit_without_a_number_for_every_pair_is_refused(value):
    x, _ = clusters(60, seed=2)
    for pair in ((3, 7), (59, 0), (3,)):
        table = np.zeros((60, 60))
        table[pair] = value
        with pytest.raises(ValueError, match="distances of 1 rows are NaN or infinite: the transit has to give"):
            neighbors(x, x, 3, transit=TableTransit(table), weight=0.2, device="cpu")


def test_zero_vectors_have_no_direction():
    with pytest.raises(ValueError, match=r"1 of 3 embeddings are zero .* \(first rows: 1\)"):
        normalise(np.array([[1.0, 0], [0, 0], [0, 1]]))


def test_a_transit_without_a_number_is_named_wherever_it_is_added():
    x, _ = clusters(60, seed=1)
    table = np.zeros((60, 60))
    table[3, 40] = np.nan
    message = "distances of 1 rows are NaN or infinite: the transit has to give a number"
    with pytest.raises(ValueError, match=message):
        distance(x, x, transit=TableTransit(table), weight=0.2)
    with pytest.raises(ValueError, match=message):
        rerank(x[:20], x[20:], transit=TableTransit(table), weight=0.2, on="appearance")
    with pytest.raises(ValueError, match=message):
        Reranking(x[:20], x[20:], Parameters(on="appearance"), TableTransit(table), 0.2).top(5)
