"""Re-ranked distances, whole, in blocks and the nearest only, against torchreid and against Python's sets."""

import functools
import re
import sys

import numpy as np
import pytest
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.scenes import (
    TableTransit,
    clusters,
    cut_in_four,
    slow_distance,
    slow_rerank,
    small_and_tied,
    symmetric_transit,
    unit,
)
from torchreid_dfrst.retrieval import Parameters, Reranking, evaluate, jaccard, neighbors, rerank
from torchreid_dfrst.retrieval.transit import mirrored


@functools.cache
def far(weight):
    """Distances among 120 images of clusters, fused with a symmetric transit."""
    x, _ = clusters(120, seed=3)
    return slow_distance(x, x, symmetric_transit(120).table, weight).astype(np.float32)


def reference(distance, queries, power=2, **options):
    """torchreid's code, fed Euclidean distances to ``power``; it squares what it gets."""
    return torchreid.utils.re_ranking(*cut_in_four(distance**power, queries), **options)


GRID = [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (15, 15, 0.9), (1, 1, 0.3), (30, 6, 1.0)]


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), GRID)
@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_rerank_equals_torchreid(k1, k2, lambda_value, weight):
    x, _ = clusters(120, seed=3)
    options = dict(k1=k1, k2=k2, lambda_value=lambda_value)
    expected = reference(far(weight), 30, **options)
    assert expected.std() > 0.01, "a constant reference would prove nothing"
    found = rerank(x[:30], x[30:], transit=symmetric_transit(120), weight=weight, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (9, 1, 0.0), (2, 2, 1.0)])
def test_fast_reids_mixture_is_the_jaccard_distance_of_spcl_and_cosine(k1, k2, lambda_value, fused):
    x, _ = clusters(150, seed=4)
    table = symmetric_transit(150).table if fused else None
    distance = slow_distance(x, x, table, 0.3)
    jaccard = slow_rerank(np.round(distance, 12), None, k1, round(k1 / 2) + 1, k2, 0.0, np.exp(-(distance**2)))
    expected = ((1 - lambda_value) * jaccard + lambda_value * distance**2 / 2)[:40, 40:]
    options = dict(k1=k1, k2=k2, lambda_value=lambda_value, definition="fastreid")
    if fused:
        options |= dict(transit=symmetric_transit(150), weight=0.3)
    else:
        np.testing.assert_allclose(distance**2 / 2, 1 - x @ x.T, atol=1e-6)
    np.testing.assert_allclose(rerank(x[:40], x[40:], **options), expected, atol=1e-5)


def test_the_other_definition_squares_once():
    x, _ = clusters(120, seed=3)
    expected = reference(far(0.0), 30, power=1)
    np.testing.assert_allclose(rerank(x[:30], x[30:], definition="transreid"), expected, atol=1e-5)
    assert np.abs(rerank(x[:30], x[30:]) - expected).max() > 0.01


@pytest.mark.parametrize("queries", [1, 119])
def test_one_query_or_one_gallery_image(queries):
    x, _ = clusters(120, seed=3)
    found = rerank(x[:queries], x[queries:], k1=7)
    assert found.shape == (queries, 120 - queries) and found.std() > 0.01
    np.testing.assert_allclose(found, reference(far(0.0), queries, k1=7), atol=1e-5)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("spread", [0.02, 0.004, 0.0005])
def test_embeddings_that_have_nearly_collapsed_equal_float64(spread, fused, keep):
    x, _ = clusters(80, width=256, seed=3)
    x = unit(np.ones(256) / 16 + spread * x.astype(np.float64))
    table, weight = 1e-3 * spread * symmetric_transit(80).table, 0.2 * fused
    original = slow_distance(x, x, table, weight) ** 4
    assert original.max() ** 0.25 < 0.05
    original /= original.max(axis=1, keepdims=True)
    expected = slow_rerank(original, 20, 21, 11, 6, 0.3, np.exp(-original))
    options = dict(transit=TableTransit(table, symmetric=True), weight=weight) if fused else {}
    job = Reranking(x[:20], x[20:], **options, keep=keep)
    found = job.matrix()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    order = np.argsort(found, axis=1, kind="stable")
    steps = np.diff(np.take_along_axis(expected, order, axis=1), axis=1)
    assert steps.min() > -2e-6 and job.near.fallbacks == 80


@given(
    st.integers(0, 10**6),
    st.integers(10, 40),
    st.integers(1, 7),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from(["torchreid", "transreid"]),
    st.sampled_from([5, 16, 1024]),
)
@settings(max_examples=60, deadline=None)
def test_every_way_to_any_small_data_with_ties(seed, count, k1, k2, fused, definition, step):
    generator = np.random.default_rng(seed)
    x, k2, weight = small_and_tied(seed, count), min(k1, k2), 0.25 * fused
    table = np.triu(generator.integers(0, 3, (count, count)).astype(float))
    table += np.triu(table, 1).T
    original = np.round(slow_distance(x, x, table, weight), 12) ** (4 if definition == "torchreid" else 2)
    original /= np.maximum(original.max(axis=1, keepdims=True), 1e-30)
    expected = slow_rerank(original, 4, k1 + 1, round(k1 / 2) + 1, k2, 0.3, np.exp(-original))
    options = dict(transit=TableTransit(table, symmetric=seed % 2 == 0), weight=weight)
    limit = int(generator.choice([200_000, 1 << 30]))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(jaccard, "STEP", step)
        small.setattr(jaccard, "CANDIDATES", 20 * step)
        whole = rerank(x[:4], x[4:], **options, k1=k1, k2=k2, definition=definition)
        job = Reranking(x[:4], x[4:], Parameters(k1, k2, definition=definition), **options, memory_limit=limit)
        found = np.concatenate(list(job.blocks()))
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    wanted = int(generator.integers(1, count - 4, endpoint=True))
    top = job.top(wanted)
    np.testing.assert_array_equal(top.index, np.argsort(found, axis=1, kind="stable")[:, :wanted])
    np.testing.assert_allclose(top.distance, np.sort(expected, axis=1)[:, :wanted], atol=1e-5)
    np.testing.assert_allclose(top.farthest, expected.max(axis=1), atol=1e-5)


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


@pytest.mark.parametrize("options", [{}, dict(on="fused"), dict(on="appearance")])
def test_small_blocks_of_rows_and_columns_give_the_whole_matrix(options, monkeypatch):
    x, _ = clusters(260, seed=5)
    q, g = x[:60], x[60:]
    fused = dict(transit=symmetric_transit(260), weight=0.3) if options else {}
    whole = rerank(q, g, k1=9, k2=3, **fused, **options)
    for name, size in (
        ("CANDIDATES", 700),
        ("STEP", 16),
        ("SPAN", 64),
        ("BLOCK_BYTES", 4 * 200 * 13),
        ("MINIMA", 2000),
    ):
        monkeypatch.setattr(jaccard, name, size)
    parts = list(Reranking(q, g, Parameters(k1=9, k2=3, **options), **fused).blocks())
    assert len(parts) > 3
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6)
    np.testing.assert_allclose(rerank(q, g, k1=9, k2=3, **fused, **options), whole, atol=2e-6)


def test_on_appearance_adds_the_transit_at_the_end():
    x, _ = clusters(60, seed=4)
    transit = symmetric_transit(60)
    expected = rerank(x[:20], x[20:]) + 0.2 * transit.table[:20, 20:]
    found = rerank(x[:20], x[20:], transit=transit, weight=0.2, on="appearance")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("k1", [5, 12])
def test_a_transit_with_two_directions_is_mirrored(k1):
    x, _ = clusters(90, seed=7)
    table = np.random.default_rng(0).uniform(0, 2, (90, 90))
    both = (table + table.T) / 2
    both[:20, 20:], both[20:, :20] = table[:20, 20:], table[:20, 20:].T
    options = dict(weight=0.3, k1=k1, k2=3)
    expected = rerank(x[:20], x[20:], transit=TableTransit(both, symmetric=True), **options)
    np.testing.assert_allclose(rerank(x[:20], x[20:], transit=TableTransit(table), **options), expected, atol=1e-5)


def test_queries_may_be_in_the_gallery_too():
    gallery, _ = clusters(80, seed=5)
    found = rerank(gallery[:20], gallery, k1=8, k2=3)
    assert (found.argmin(axis=1) == np.arange(20)).all()
    assert np.abs(found[np.arange(20), np.arange(20)]).max() < 0.1


@pytest.mark.parametrize("definition", ["torchreid", "transreid"])
@pytest.mark.parametrize("on", ["fused", "appearance"])
def test_copies_and_queries_in_the_gallery_are_at_distance_0_whether_distances_are_kept_or_made_again(definition, on):
    x = unit(np.random.default_rng(8).normal(size=(300, 2048)))
    x[20:60] = x[np.random.default_rng(9).integers(0, 20, 40)]  # queries, gallery and duplicates of both
    q, g, transit = x[:40], x[20:], TableTransit(np.random.default_rng(10).uniform(0, 2, (320, 320)))
    every = np.concatenate([q, g])
    options = dict(transit=transit, weight=0.2)
    choices = Parameters(k1=8, k2=3, definition=definition, on=on)
    kept = Reranking(q, g, choices, **options, keep=True).matrix()
    job = Reranking(q, g, choices, **options)
    equal = (q[:, None] == g).all(axis=2)
    assert equal.sum() > 40
    np.testing.assert_allclose(np.concatenate(list(job.blocks())), kept, rtol=0, atol=1e-6)
    np.testing.assert_allclose(job.matrix(), kept, rtol=0, atol=1e-6)
    order = np.argsort(kept, axis=1, kind="stable")[:, :9]
    np.testing.assert_allclose(job.top(9).distance, np.take_along_axis(kept, order, axis=1), rtol=0, atol=1e-6)
    if on == "fused":  # the Jaccard distance aside, what is left is the transit's share alone
        alone = Reranking(q, g, Parameters(8, 3, 1.0, definition), **options)
        fused = slow_distance(every, every, mirrored(transit, 40).block(slice(0, 320), slice(0, 320)), 0.2)
        power = {"torchreid": 4, "transreid": 2}[definition]
        expected = (fused**power / (fused**power).max(axis=1, keepdims=True))[:40, 40:]
        np.testing.assert_allclose(np.concatenate(list(alone.blocks()))[equal], expected[equal], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("k2", "apart"), [(1, 0.7), (2, 0.0)])
def test_images_with_more_copies_than_a_list_holds_may_share_nothing(k2, apart):
    x = np.repeat(unit(np.ones((1, 16))), 30, axis=0)
    expected = slow_rerank(np.zeros((30, 30)), 10, 4, 3, k2, 0.3, np.ones((30, 30)))
    np.testing.assert_allclose(expected, apart, atol=1e-12)
    np.testing.assert_allclose(rerank(x[:10], x[10:], k1=3, k2=k2), expected, atol=1e-6)


def test_the_nearest_after_re_ranking_go_by_row_where_they_tie():
    x, _ = clusters(40, seed=6)
    gallery = np.concatenate([x[10:], x[10:], x[10:20]])
    job = Reranking(x[:10], gallery, Parameters(k1=8, k2=3))
    whole = np.concatenate(list(job.blocks()))
    assert (np.diff(np.sort(whole, axis=1)[:, :9]) == 0).any()
    for count in (1, 4, 9, len(gallery)):
        np.testing.assert_array_equal(job.top(count).index, np.argsort(whole, axis=1, kind="stable")[:, :count])


def test_cuts_are_the_near_ties_that_can_matter():
    x, _ = clusters(60, seed=6)
    gallery = np.concatenate([x, x[:5]])
    job = Reranking(x[:4], gallery, Parameters(k1=8, k2=3))
    assert len(job.near.near_ties) > len(job.cuts) > 0
    for row, left, _ in job.cuts:
        assert job.near.index[row].tolist().index(left) in {8, 4, 2}


@pytest.mark.parametrize("count", [2.5, "3", True, None, float("nan"), 0, -1, 31])
def test_a_count_of_neighbours_that_cannot_be_is_named(count):
    x, _ = clusters(40, seed=6)
    job = Reranking(x[:10], x[10:], Parameters(k1=8, k2=3))
    whole = isinstance(count, int) and not isinstance(count, bool)
    message = "between 1 and 30" if whole else f"count is {count!r}, expected a whole number"
    for ask in (lambda: job.top(count), lambda: neighbors(x[:10], x[10:], count)):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(k1=10), ValueError, "k1 is 10 with 10 images"),
        (dict(k2=6, k1=5), ValueError, "k2 is 6 with k1 5"),
        (dict(k2=0), ValueError, "k2 is 0"),
        (dict(k1=5.5), ValueError, "k1 is 5.5, expected a whole number"),
        (dict(lambda_value="a"), ValueError, "lambda_value is 'a', expected a number"),
        (dict(memory_limit=2.5), ValueError, "memory_limit is 2.5"),
        (dict(device="gpu"), KeyError, "no device 'gpu': 'auto', 'cpu' or 'cuda'"),
        (dict(lambda_value=1.5), ValueError, "lambda_value is 1.5"),
        (dict(definition="zhong"), KeyError, "'torchreid', 'transreid'"),
        (dict(definition=["torchreid"]), ValueError, r"definition is \['torchreid'\], expected text"),
        (dict(on="st"), KeyError, "'fused' or 'appearance'"),
        (dict(transit=symmetric_transit(9)), ValueError, r"transit has shape \(9, 9\)"),
        (dict(transit=np.ones((10, 10)), weight=0.2), ValueError, "a ndarray without low, high, block"),
    ],
)
def test_bad_input_is_named(change, error, message):
    x, _ = clusters(10)
    with pytest.raises(error, match=message):
        rerank(x[:3], x[3:], **(dict(k1=5, k2=2) | change))


def test_blocks_are_multiplied_on_the_device_that_was_asked_for(monkeypatch):
    x, _ = clusters(60)
    places = []

    class Watched:
        def __init__(self, columns, numbers, among, device):
            places.append(device)

    job = Reranking(x[:10], x[10:], Parameters(8, 3), device="cpu")
    job.device = "meta"
    monkeypatch.setattr(sys.modules["torchreid_dfrst.retrieval.rerank"], "Products", Watched)
    with pytest.raises(AttributeError, match="columns"):
        next(job.blocks())
    assert places == ["meta"]
