"""Metrics of lists against those of whole rankings, and against a slow definition where lists end early."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.test_metrics import scene
from torchreid_dfrst.retrieval import Parameters, Reranking, evaluate, evaluate_lists, first
from torchreid_dfrst.retrieval.embeddings import normalise

SHARES = ("average_precision", "inverse_penalty")


def naive(index, q_identity, g_identity, q_camera, g_camera, max_rank, trapezoid):
    """One query after the other; a right image that is not listed adds nothing to what is divided by all of them."""
    cmc, precision, penalty, missing = [], [], [], 0
    for i, row in enumerate(index.tolist()):
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
    cmc, precision, penalty, missing = naive(first(distance, k), *columns, 20, form == "trapezoid")
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
        with pytest.raises(ValueError, match=r"in the gallery|every match is junk") as same:
            evaluate_lists(lists, *columns)
        assert str(same.value) == str(error)
        return
    found = evaluate_lists(lists, *columns, max_rank=20)
    cmc, precision, penalty, missing = naive(lists, *columns, min(20, images), False)
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
