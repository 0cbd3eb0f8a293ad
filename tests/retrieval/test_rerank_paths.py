"""The other ways to a re-ranked distance: blocks, nearest only, matrices, clustering, query expansion."""

import sys
import warnings

import numpy as np
import pytest
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, symmetric_transit, unit
from torchreid_dfrst.retrieval import (
    Parameters,
    Reranking,
    evaluate,
    expand,
    jaccard_distance,
    neighbors,
    rerank,
    rerank_distances,
)


def slow_rerank(original, queries, full, half, k2, share, weights):
    """k-reciprocal encoding with Python's sets; ``original`` orders the lists, ``weights`` weigh what they hold."""
    count = len(original)
    order = np.argsort(original, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, :k] if i in order[j, :k]}

    encoding = np.zeros((count, count))
    for i in range(count):
        own = mutual(i, full)
        members = set(own)
        for j in own:
            theirs = mutual(j, half)
            if len(theirs & own) > 2.0 / 3 * len(theirs):
                members |= theirs
        members = sorted(members)
        encoding[i, members] = weights[i, members] / weights[i, members].sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[i, :k2]].mean(axis=0) for i in range(count)])
    shared = np.array([[np.minimum(a, b).sum() for b in encoding] for a in encoding])
    return ((1 - share) * (1 - shared / (2 - shared)) + share * original)[:queries, queries or 0 :]


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_every_way_gives_the_same(weight):
    x, who = clusters(300, seed=1)
    q, g, transit = x[:70], x[70:], symmetric_transit(300)
    options = dict(transit=transit, weight=weight, memory_limit=1_000_000)
    whole = rerank(q, g, k1=12, k2=4, **options)
    job = Reranking(q, g, Parameters(k1=12, k2=4), **options)
    np.testing.assert_allclose(np.concatenate(list(job.blocks())), whole, atol=2e-6)
    top = job.top(8)
    order = np.argsort(whole, axis=1, kind="stable")[:, :8]
    assert (top.index == order).mean() > 0.99
    np.testing.assert_allclose(top.distance, np.take_along_axis(whole, order, axis=1), atol=2e-6)
    np.testing.assert_allclose(top.farthest, whole.max(axis=1), atol=2e-6)
    columns = who[:70], who[70:], np.zeros(70, int), np.ones(230, int)
    assert evaluate(job.blocks(), *columns).mAP == pytest.approx(evaluate(whole, *columns).mAP, abs=1e-4)


@given(st.integers(0, 10**6), st.integers(6, 30), st.integers(1, 5), st.integers(1, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_rerank_of_any_small_data_with_ties(seed, count, k1, k2, fused):
    generator = np.random.default_rng(seed)
    x = unit(generator.integers(1, 3, (count, 3)).astype(float))
    k2 = min(k1, k2)
    table = generator.integers(0, 3, (count, count)).astype(float)
    table = np.triu(table) + np.triu(table, 1).T
    weight = 0.25 if fused else 0.0
    original = np.round(slow_distance(x, x, table, weight), 12) ** 4
    original /= np.maximum(original.max(axis=1, keepdims=True), 1e-30)
    expected = slow_rerank(original, 2, k1 + 1, round(k1 / 2) + 1, k2, 0.3, np.exp(-original))
    transit = TableTransit(table, symmetric=seed % 2 == 0)
    found = rerank(x[:2], x[2:], transit=transit, weight=weight, k1=k1, k2=k2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


PATHS = {
    "transreid": lambda x, k: rerank(x[:2], x[2:], **k, definition="transreid"),
    "matrices": lambda x, k: rerank_distances(*cut_in_four(np.round(slow_distance(x, x), 12) ** 2), **k),
    "clustering": lambda x, k: jaccard_distance(x, **k),
}


def cut_in_four(whole, queries=2):
    return whole[:queries, queries:], whole[:queries, :queries], whole[queries:, queries:]


@pytest.mark.parametrize("path", PATHS)
@given(st.integers(0, 10**6), st.integers(9, 40), st.integers(2, 7), st.integers(1, 7), st.sampled_from([5, 16, 1024]))
@settings(max_examples=30, deadline=None)
def test_every_other_way_of_any_small_data_with_ties(path, seed, count, k1, k2, step):
    x = unit(np.random.default_rng(seed).integers(1, 3, (count, 3)).astype(float))
    k2 = min(k1, k2)
    original = np.round(slow_distance(x, x), 12)
    if path == "clustering":
        expected = slow_rerank(original, None, k1, round(k1 / 2) + 1, k2, 0.0, np.exp(-(original**2)))
    else:
        original **= 2 if path == "transreid" else 4
        original /= np.maximum(original.max(axis=1, keepdims=True), 1e-30)
        expected = slow_rerank(original, 2, k1 + 1, round(k1 / 2) + 1, k2, 0.3, np.exp(-original))
    with pytest.MonkeyPatch.context() as small:
        for module in ("matrices", "memory"):
            small.setattr(sys.modules[f"torchreid_dfrst.retrieval.{module}"], "STEP", step)
        small.setattr(sys.modules["torchreid_dfrst.retrieval.encoding"], "PAIRS", 20 * step)
        found = PATHS[path](x, dict(k1=k1, k2=k2))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (7, 1, 0.0), (15, 4, 1.0)])
def test_matrices_in_matrices_out_as_torchreid(k1, k2, lambda_value):
    x, _ = clusters(900, 32, 40, seed=2)
    q, g = x[:100], x[100:]
    import torch

    def far(a, b):
        return torchreid.metrics.compute_distance_matrix(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    given_matrices = far(q, g), far(q, q), far(g, g)
    before = [m.copy() for m in given_matrices]
    expected = torchreid.utils.re_ranking(*given_matrices, k1, k2, lambda_value)
    found = rerank_distances(*given_matrices, k1, k2, lambda_value)
    assert expected.std() > 0.01 and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(rerank(q, g, k1=k1, k2=k2, lambda_value=lambda_value), expected, atol=1e-5)
    for matrix, old in zip(given_matrices, before, strict=True):
        np.testing.assert_array_equal(matrix, old)


def test_matrices_that_differ_there_and_back_are_read_as_the_reference_reads_them():
    generator = np.random.default_rng(3)
    m = generator.random((60, 60))
    parts = m[:20, 20:], m[:20, :20], m[20:, 20:]
    expected = torchreid.utils.re_ranking(*parts, 6, 3, 0.3)
    np.testing.assert_allclose(rerank_distances(*parts, 6, 3, 0.3), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.zeros((3, 4))}, r"shapes \(3, 4\), \(2, 2\), \(5, 5\)"),
        ({0: np.zeros((0, 5)), 1: np.zeros((0, 0))}, "at least one query"),
        ({2: np.full((5, 5), np.nan)}, "image 2 is NaN or infinite"),
        ({2: np.full((5, 5), 1e20)}, "image 2 is NaN or infinite, or its square is in float32"),
        ({3: 7}, "k1 is 7 with 7 images"),
        ({4: 4}, "k2 is 4 with k1 3"),
        ({5: -0.1}, "lambda_value is -0.1"),
    ],
)
def test_bad_matrices_are_named(change, message):
    arguments = {0: np.ones((2, 5)), 1: np.ones((2, 2)), 2: np.ones((5, 5)), 3: 3, 4: 2, 5: 0.3} | change
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("error")
        rerank_distances(*arguments.values())


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (9, 1), (2, 2)])
def test_the_clustering_form_equals_its_definition(k1, k2):
    x, _ = clusters(150, seed=4)
    distance = slow_distance(x, x)
    expected = slow_rerank(np.round(distance, 12), None, k1, round(k1 / 2) + 1, k2, 0.0, np.exp(-(distance**2)))
    found = jaccard_distance(x, k1=k1, k2=k2)
    assert found.min() >= 0 and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_clustering_form_names_bad_input():
    x, _ = clusters(10)
    with pytest.raises(ValueError, match="k1 is 11 with 10 images"):
        jaccard_distance(x, k1=11)
    with pytest.raises(ValueError, match="at least two are needed"):
        jaccard_distance(x[:1])


@pytest.mark.parametrize("k1", [5, 12])
def test_a_transit_with_two_directions_is_mirrored(k1):
    x, _ = clusters(90, seed=7)
    table = np.random.default_rng(0).uniform(0, 2, (90, 90))
    both = (table + table.T) / 2
    both[:20, 20:], both[20:, :20] = table[:20, 20:], table[:20, 20:].T
    lopsided, straight = TableTransit(table), TableTransit(both, symmetric=True)
    options = dict(weight=0.3, k1=k1, k2=3)
    np.testing.assert_allclose(
        rerank(x[:20], x[20:], transit=lopsided, **options),
        rerank(x[:20], x[20:], transit=straight, **options),
        atol=1e-5,
    )
    mean = TableTransit((table + table.T) / 2, symmetric=True)
    np.testing.assert_allclose(
        jaccard_distance(x, transit=lopsided, **options), jaccard_distance(x, transit=mean, **options), atol=1e-5
    )


def test_query_expansion_is_the_weighted_mean():
    x, _ = clusters(40, seed=5)
    q, g = x[:6], x[6:]
    near = neighbors(q, g, 5)
    for alpha in (0.0, 3.0):
        expected = []
        for i in range(len(q)):
            weights = [max(float(q[i] @ g[j]), 0) ** alpha for j in near.index[i, :4]]
            expected.append(q[i] + sum(w * g[j] for w, j in zip(weights, near.index[i, :4], strict=True)))
        np.testing.assert_allclose(expand(q, g, near, 4, alpha), unit(np.array(expected)), atol=1e-6)
    with pytest.raises(ValueError, match="6 of 5 neighbours"):
        expand(q, g, near, 6)
    with pytest.raises(ValueError, match="alpha is -1"):
        expand(q, g, near, 2, -1)
    with pytest.raises(ValueError, match="alpha is 'a', expected a number"):
        expand(q, g, near, 2, "a")
    with pytest.raises(ValueError, match=r"count is 2.0, expected a whole number"):
        expand(q, g, near, 2.0)


def test_cuts_are_the_near_ties_that_can_matter():
    x, _ = clusters(60, seed=6)
    gallery = np.concatenate([x, x[:5]])
    job = Reranking(x[:4], gallery, Parameters(k1=8, k2=3))
    ends = {8, 4, 2}
    assert len(job.near.near_ties) > len(job.cuts) > 0
    for row, left, _ in job.cuts:
        assert job.near.index[row].tolist().index(left) in ends
