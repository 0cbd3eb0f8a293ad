"""Metrics and first images of rankings and of lists, against slow definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from torchreid_dfrst.retrieval import Parameters, Reranking, evaluate, evaluate_lists, first
from torchreid_dfrst.retrieval.embeddings import normalise
from torchreid_dfrst.retrieval.metrics import Best
from torchreid_dfrst.sightings import Sightings


def scene(seed=0, queries=40, images=150, ties=False):
    generator = np.random.default_rng(seed)
    distance = generator.random((queries, images)).astype(np.float32)
    if ties:
        distance = np.round(distance, 1)
    columns = [generator.integers(0, high, size) for high in (12, 4) for size in (queries, images)]
    return distance, columns


def rankings(distance):
    return [sorted(range(len(line)), key=lambda j, line=line: (line[j], j)) for line in distance.tolist()]


def naive(rankings, q_identity, g_identity, q_camera, g_camera, max_rank=20, trapezoid=False):
    """One query after the other; a right image that is not listed adds nothing to what is divided by all of them."""
    cmc, precision, penalty, missing = [], [], [], 0
    for i, row in enumerate(rankings):
        same = g_identity == q_identity[i]
        right = set(np.flatnonzero(same & (g_camera != q_camera[i])).tolist())
        junk = set(np.flatnonzero(same & (g_camera == q_camera[i])).tolist())
        if not right:
            continue
        ranking = [j for j in row if j >= 0 and j not in junk]
        ranks = [r for r, j in enumerate(ranking, start=1) if j in right]
        total = 0.0
        for n, r in enumerate(ranks, start=1):
            before = (n - 1) / (r - 1) if r > 1 else 1.0
            total += (n / r + before) / 2 if trapezoid else n / r
        precision.append(total / len(right))
        cmc.append([any(r <= place for r in ranks) for place in range(1, max_rank + 1)])
        penalty.append(len(right) / ranks[-1] if len(ranks) == len(right) else 0.0)
        missing += len(ranks) < len(right)
    return np.mean(cmc, axis=0), np.mean(precision), np.mean(penalty), missing


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
def test_metrics_equal_the_definition(ties, blocks):
    distance, columns = scene(ties=ties)
    cmc, precision, penalty, _ = naive(rankings(distance), *columns)
    found = evaluate(np.array_split(distance, 7) if blocks else distance, *columns, max_rank=20)
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose([found.mAP, found.mINP], [precision, penalty], atol=1e-12)
    assert found.rank(5) == cmc[4]
    assert found.rank(500) == cmc[-1]


def test_metrics_equal_torchreid():
    distance, columns = scene(1)
    cmc, precision = torchreid.metrics.evaluate_rank(distance, *columns, max_rank=20, use_cython=False)
    found = evaluate(distance, *columns, max_rank=20)
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-6)
    assert found.mAP == pytest.approx(precision, abs=1e-6)


def test_trapezoid_equals_the_official_code():
    distance = np.arange(5.0)[None]
    found = evaluate(distance, [0], np.array([1, 0, 0, 1, 0]), [0], np.ones(5, int), average_precision="trapezoid")
    expected = ((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3
    assert found.mAP == pytest.approx(expected)


def test_queries_without_a_match_are_counted():
    found = evaluate(np.array([[1.0, 2.0]] * 3), [0, 1, 7], np.array([0, 1]), [0, 1, 0], np.array([1, 1]))
    assert (found.used, found.skipped) == (1, 2)
    assert np.isnan(found.average_precision).tolist() == [False, True, True]
    assert found.first_match.tolist() == [1, 0, 0]


ONE = np.ones(3, int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(distance=np.zeros((2, 4))), r"shape \(2, 4\)"),
        (dict(distance=np.full((2, 3), np.nan)), "query 0 is NaN"),
        (dict(distance=np.zeros(3)), r"shape \(3,\)"),
        (dict(distance=[np.zeros((1, 3))]), "of 1 queries were given, 2 are expected"),
        (dict(g_identity=np.array([], int)), "0 gallery images"),
        (dict(q_identity=np.array([], int)), "0 queries"),
        (dict(q_identity=np.array([8, 9])), "none of the 2 query identities is in the gallery"),
        (dict(q_camera=[1, 1]), "all images are from camera 1"),
        (dict(q_camera=[1, 1], g_camera=[1, 1, 2], g_identity=[1, 1, 5]), "only from the query.s own camera"),
        (dict(q_camera=[1]), r"query_camera has shape \(1,\)"),
        (dict(g_identity=np.ones(3)), "float64, expected"),
        (dict(max_rank=0), "max_rank is 0"),
        (dict(distance=None), "distance is None, expected"),
        (dict(q_identity=None), r"query_identity has shape \(\)"),
    ],
)
def test_bad_input_is_named(change, message):
    given = dict(distance=np.zeros((2, 3)), q_identity=[1, 1], g_identity=ONE, q_camera=[0, 0], g_camera=ONE) | change
    rank = given.pop("max_rank", 5)
    with pytest.raises(ValueError, match=message):
        evaluate(*given.values(), max_rank=rank)


@pytest.mark.parametrize(("r", "message"), [(0, "rank 0 does not exist"), (1.0, "r is 1.0, expected a whole number")])
def test_a_rank_that_cannot_be_is_named(r, message):
    score = evaluate(np.eye(2)[::-1], np.arange(2), np.arange(2), np.zeros(2, int), np.ones(2, int))
    with pytest.raises(ValueError, match=message):
        score.rank(r)


def test_first_images_without_junk():
    distance = np.array([[3.0, 1.0, 1.0, 0.5]])
    assert first(distance, 3).tolist() == [[3, 1, 2]]
    assert first(distance, 4, np.array([[False, True, False, False]])).tolist() == [[3, 2, 0, -1]]
    assert first(distance, 1, np.ones((1, 4), bool)).tolist() == first(distance[:, :0], 1).tolist() == [[-1]]
    line = np.random.default_rng(0).integers(0, 50, (1, 1000))
    for count in (1, 30, 100, 999):
        np.testing.assert_array_equal(first(line, count)[0], np.argsort(line[0], kind="stable")[:count])


@pytest.mark.parametrize(
    ("distance", "count", "message"),
    [
        (np.ones((2, 2)), 1.5, "count is 1.5, expected a whole number"),
        (np.ones((2, 2)), True, "count is True"),
        (np.ones((2, 2)), 0, "0 images of distances"),
        (np.array([[0.0], [np.nan]]), 1, "distance of query 1 is NaN"),
    ],
)
def test_first_images_that_cannot_be_are_named(distance, count, message):
    with pytest.raises(ValueError, match=message):
        first(distance, count)


SHARES = ("average_precision", "inverse_penalty")


def assert_same(found, whole):
    np.testing.assert_allclose(found.cmc, whole.cmc, atol=1e-12)
    np.testing.assert_allclose([found.mAP, found.mINP], [whole.mAP, whole.mINP], atol=1e-12)
    for name in SHARES:
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-12)
    assert found.first_match.tolist() == whole.first_match.tolist()
    assert (found.used, found.skipped, found.truncated) == (whole.used, whole.skipped, 0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("form", ["precision", "trapezoid"])
def test_whole_lists_give_the_metrics_of_the_matrix(ties, form):
    distance, columns = scene(ties=ties)
    options = dict(max_rank=20, average_precision=form)
    whole = evaluate(distance, *columns, **options)
    assert whole.truncated == 0 and 0 < whole.mAP < 1
    assert_same(evaluate_lists(first(distance, distance.shape[1]), *columns, **options), whole)


@pytest.mark.parametrize("form", ["precision", "trapezoid"])
@pytest.mark.parametrize("k", [1, 7, 40, 149])
def test_short_lists_equal_the_slow_definition(k, form):
    distance, columns = scene(3, ties=True)
    found = evaluate_lists(first(distance, k), *columns, max_rank=20, average_precision=form)
    cmc, precision, penalty, missing = naive(first(distance, k).tolist(), *columns, 20, form == "trapezoid")
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose([found.mAP, found.mINP], [precision, penalty], atol=1e-12)
    assert found.truncated == missing > 0
    assert found.mAP <= evaluate(distance, *columns, average_precision=form).mAP


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 4, 1000]))
@settings(max_examples=100, deadline=None)
def test_lists_of_any_matrix_with_ties(seed, queries, images, k, levels):
    generator = np.random.default_rng(seed)
    distance = generator.integers(0, levels, (queries, images)).astype(np.float32)
    columns = [generator.integers(0, high, size) for high in (4, 3) for size in (queries, images)]
    lists = first(distance, k)  # -1 where k is more than there is
    lists[0, generator.integers(0, k) :] = -1
    try:
        whole = evaluate(distance, *columns, max_rank=20)
    except ValueError as error:
        assert not ((columns[0][:, None] == columns[1]) & (columns[2][:, None] != columns[3])).any()
        with pytest.raises(ValueError, match=r"in the gallery|every match is junk") as same:
            evaluate_lists(lists, *columns)
        assert str(same.value) == str(error)
        return
    cmc, precision, penalty, _ = naive(rankings(distance), *columns, min(20, images))
    np.testing.assert_allclose(whole.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose([whole.mAP, whole.mINP], [precision, penalty], atol=1e-12)
    found = evaluate_lists(lists, *columns, max_rank=20)
    cmc, precision, penalty, missing = naive(lists.tolist(), *columns, min(20, images))
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose([found.mAP, found.mINP], [precision, penalty], atol=1e-12)
    assert (found.used, found.skipped, found.truncated) == (whole.used, whole.skipped, missing)
    if not missing:
        assert_same(found, whole)


def test_lists_of_a_re_ranking_are_those_of_its_matrix():
    generator = np.random.default_rng(0)
    who = generator.integers(0, 12, 160)
    x = normalise(generator.normal(size=(12, 16))[who] + generator.normal(size=(160, 16)))
    columns = who[:40], who[40:], np.zeros(40, int), np.ones(120, int)
    job = Reranking(x[:40], x[40:], Parameters(k1=8, k2=3))
    matrix = np.concatenate(list(job.blocks()))
    assert_same(evaluate_lists(job.top(120).index, *columns), evaluate(matrix, *columns))


def test_a_query_whose_list_holds_no_match_counts_as_never_right():
    columns = [0, 1], np.array([0, 1, 5, 5]), [0, 0], np.ones(4, int)
    found = evaluate_lists(np.array([[0, 2], [2, 3]]), *columns)
    assert (found.used, found.truncated, found.mAP, found.mINP) == (2, 1, 0.5, 0.5)
    assert found.cmc.tolist() == [0.5] * 4
    assert found.first_match.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.zeros((3, 2), int), r"shape \(3, 2\) and dtype int64, expected \(2, k\) integers"),
        (np.zeros(2, int), r"shape \(2,\)"),
        (np.zeros((2, 0), int), r"shape \(2, 0\)"),
        (np.zeros((2, 2)), "dtype float64"),
        (np.array([[0, 1], [1, 4]]), "query 1 holds row 4 of a gallery of 4: 0 to 3"),
        (np.array([[0, -2], [1, 0]]), "query 0 holds row -2"),
        (np.array([[0, 1], [-1, 0]]), "query 1 goes on behind a -1"),
        (np.array([[0, 1], [3, 3]]), "query 1 holds gallery row 3 twice"),
    ],
)
def test_lists_that_cannot_be_are_named(index, message):
    with pytest.raises(ValueError, match=message):
        evaluate_lists(index, [0, 1], np.array([0, 1, 5, 5]), [0, 0], np.ones(4, int))


def test_unknown_choices_are_named():
    columns = [0], np.array([0]), [0], np.array([1])
    with pytest.raises(KeyError, match="median"):
        evaluate_lists(np.array([[0]]), *columns, average_precision="median")
    with pytest.raises(ValueError, match="max_rank is 0"):
        evaluate_lists(np.array([[0]]), *columns, max_rank=0)


@pytest.mark.parametrize("junk", [True, False])
@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("count", [1, 4, 25])
def test_lists_and_matches_are_those_of_the_whole_ranking(junk, levels, count):
    rng = np.random.default_rng(0)
    query, gallery = (Sightings(rng.integers(0, 2, n), identity=rng.integers(0, 9, n)) for n in (30, 20))
    distance = rng.integers(0, levels, (30, 20)).astype(np.float32)
    best = Best(query, gallery, count, junk)
    blocks = list(best.watch(np.array_split(distance, 4)))
    np.testing.assert_array_equal(np.concatenate(blocks), distance)
    own = (query.identity[:, None] == gallery.identity) & (query.camera[:, None] == gallery.camera) & junk
    whole = np.full((30, 25), -1)
    for i, line in enumerate(distance):
        ranking = [j for j in np.argsort(line, kind="stable") if not own[i, j]]
        whole[i, : len(ranking)] = ranking
    np.testing.assert_array_equal(best.index, whole[:, :count])
    near = np.take_along_axis(distance, np.maximum(whole, 0), axis=1)
    np.testing.assert_array_equal(best.distance, np.where(whole < 0, np.nan, near)[:, :count])
    right = (gallery.identity[whole] == query.identity[:, None]) & (whole >= 0)
    some = right.any(axis=1)
    assert 10 < some.sum() < 30
    np.testing.assert_array_equal(best.rank, np.where(some, right.argmax(axis=1) + 1, 0))
    first = np.take_along_axis(whole, right.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(best.match, np.where(some, first, -1))


def test_a_query_without_its_vehicle_has_a_list_and_no_match():
    query = Sightings(np.array([0]), identity=np.array([5]))
    gallery = replace(query, camera=np.array([1]), identity=np.array([6]))
    best = Best(query, gallery, 3)
    list(best.watch([np.array([[0.5]], dtype=np.float32)]))
    assert best.index.tolist() == [[0, -1, -1]] and (best.match[0], best.rank[0]) == (-1, 0)
