"""Every fast path gives the lists of the definition, ties and copies included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, symmetric_transit, unit
from torchreid_dfrst.retrieval import neighbors, tiles
from torchreid_dfrst.retrieval.embeddings import Stack, alike
from torchreid_dfrst.retrieval.tiles import packed, unpacked
from torchreid_dfrst.retrieval.transit import is_symmetric

SMALL = 1_000_000
"""A memory limit that makes a few hundred rows several blocks."""


def with_copies(count, width, seed):
    """Embeddings of which a third occurs more than once."""
    x, _ = clusters(count, width, seed=seed)
    generator = np.random.default_rng(seed)
    x[generator.permutation(count)[: count // 3]] = x[generator.integers(0, 5, count // 3)]
    return x


def check(found, slow):
    count = found.index.shape[1]
    np.testing.assert_array_equal(found.index, np.argsort(np.round(slow, 12), axis=1, kind="stable")[:, :count])
    np.testing.assert_allclose(found.distance, np.sort(slow, axis=1)[:, :count], atol=2e-5)
    np.testing.assert_allclose(found.farthest, slow.max(axis=1), atol=2e-5)


@pytest.mark.parametrize(("method", "weight"), [("product", 0.0), ("product", 0.3), ("faiss", 0.0)])
@pytest.mark.parametrize("same", [True, False])
def test_every_path_gives_the_lists_of_the_definition(method, weight, same):
    x = with_copies(420, 24, 0)
    y = x if same else with_copies(333, 24, 1)
    transit = symmetric_transit(420) if same else TableTransit(np.random.default_rng(0).uniform(0, 2, (420, 333)))
    found = neighbors(x, y, 9, transit=transit, weight=weight, method=method, memory_limit=SMALL, device="cpu")
    check(found, slow_distance(x, y, transit.table, weight))


def test_a_transit_that_differs_there_and_back_is_not_mirrored():
    x, _ = clusters(300, seed=2)
    transit = TableTransit(np.random.default_rng(1).uniform(0, 2, (300, 300)))
    assert not is_symmetric(transit)
    found = neighbors(x, x, 5, transit=transit, weight=0.5, memory_limit=SMALL)
    check(found, slow_distance(x, x, transit.table, 0.5))


def test_thousands_of_equal_images_fall_back_and_are_counted():
    x, _ = clusters(420, seed=3)
    x[10:410] = x[0]
    found = neighbors(x, x, 4)
    assert found.fallbacks >= 400
    check(found, slow_distance(x, x))


@pytest.mark.parametrize(("copies", "limit"), [(1500, SMALL), (4200, None)])
def test_thousands_of_equal_images_are_let_go_again_where_nearer_ones_follow(copies, limit):
    x, _ = clusters(60, seed=3)
    generator = np.random.default_rng(3)
    far = unit(generator.normal(size=(1, x.shape[1])))
    near = unit(np.repeat(x[:20], 10, axis=0) + 0.02 * generator.normal(size=(200, x.shape[1])))
    y = np.concatenate([np.repeat(far, copies, axis=0), near])
    found = neighbors(x[:20], y, 4, memory_limit=limit)
    assert found.fallbacks == 0
    check(found, slow_distance(x[:20], y))
    assert neighbors(x[:20], y[:copies], 4, memory_limit=limit).fallbacks == 20


def test_near_ties_are_listed():
    x, _ = clusters(50, 16, seed=4)
    near = x[:1] + np.float32(1e-7)
    found = neighbors(x[1:2], np.concatenate([x, near]), 3)
    assert len(found.near_ties) == 0
    found = neighbors(x[:1], np.concatenate([x, x[:1]]), 1)
    assert found.near_ties.tolist() == [[0, 0, 50]]


def test_values_between_which_float32_cannot_decide_are_judged_in_float64():
    generator = np.random.default_rng(5)
    centre = generator.normal(size=512)
    x = unit(centre + 1e-6 * generator.normal(size=(200, 512)) * np.abs(centre))
    found = neighbors(x, x, 6)
    truth = slow_distance(x, x)
    np.testing.assert_array_equal(found.index, np.argsort(truth, axis=1, kind="stable")[:, :6])


@pytest.mark.parametrize("fused", [False, True])
def test_so_many_of_them_that_rows_are_measured_whole_are_judged_by_differences_too(fused):
    generator = np.random.default_rng(5)
    centre = generator.normal(size=128)
    x = unit(centre + 1e-6 * generator.normal(size=(500, 128)) * np.abs(centre))
    table = generator.integers(0, 2, (500, 500)) * 1e-7
    options = dict(transit=TableTransit(table), weight=1.0) if fused else {}
    found = neighbors(x, x, 6, **options)
    assert found.fallbacks == 500
    truth = slow_distance(x, x, table, 1.0 if fused else 0.0)
    np.testing.assert_array_equal(found.index, np.argsort(truth, axis=1, kind="stable")[:, :6])
    listed = np.bincount(found.near_ties[:, 0], minlength=500)
    assert (listed == 6).all(), "float32 can tell none of them apart"


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_coarse_embeddings_with_ties(seed, count, k, levels, fused):
    generator = np.random.default_rng(seed)
    x = generator.integers(-levels, levels + 1, (count, 3)).astype(float)
    x[~x.any(axis=1)] = 1
    x, k = unit(x), min(k, count)
    table = generator.integers(0, 3, (count, count)).astype(float)
    table = np.triu(table) + np.triu(table, 1).T
    weight = 0.25 if fused else 0.0
    slow = slow_distance(x, x, table, weight)
    for method in ("product",) if fused else ("product", "faiss"):
        transit = TableTransit(table, symmetric=seed % 2 == 0)
        found = neighbors(x, x, k, transit=transit, weight=weight, method=method, device="cpu")
        check(found, slow)


@pytest.mark.parametrize("size", [(13, 52), (64, 640), (300, 900)])
@pytest.mark.parametrize("levels", [2, 1000], ids=["ties", "no ties"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_lists_are_the_same_for_tiles_of_any_size(size, levels, weight, monkeypatch):
    monkeypatch.setattr(tiles, "LADDER", (size,))
    x = unit(np.random.default_rng(0).integers(-levels, levels, (500, 6)) + 0.5)
    x[300:] = unit(x[300:] + np.linspace(0, 3, 200)[:, None] * x[0])  # later columns are nearer and nearer to the first
    transit = symmetric_transit(500)
    slow = cdist(x.astype(float), x.astype(float)) + weight * transit.table
    check(neighbors(x, x, 5, transit=transit, weight=weight), slow)
    transit = TableTransit(transit.table[:300, 200:])
    check(neighbors(x[:300], x[200:], 5, transit=transit, weight=weight), slow[:300, 200:])


@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**32 - 1)), min_size=1))
def test_packed_scores_order_by_score_and_column(pairs):
    score, column = np.array([p[0] for p in pairs], np.float32) + np.float32(0), np.array([p[1] for p in pairs])
    entry = np.sort(packed(score, column))[::-1]
    order = np.lexsort((column, -score))
    for one, other in zip(unpacked(entry), (score[order], column[order]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_copies_are_found_across_parts():
    x, _ = clusters(20, seed=6)
    assert alike(Stack(x[:8], x[[3, 3, 9]])).tolist() == [*range(8), 3, 3, 10]


@pytest.mark.parametrize("width", [16, 15])
def test_copies_are_found_among_embeddings_whose_bits_have_the_same_sum(width):
    x, _ = clusters(1, width, seed=6)
    mixed = x[:, np.r_[2:width, 0, 1]]
    assert alike(Stack(np.concatenate([x, mixed, x, mixed[:, ::-1], x]))).tolist() == [0, 1, 0, 3, 0]


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("method", "annoy")])
def test_unknown_names(option, value):
    x, _ = clusters(10)
    with pytest.raises(KeyError, match=value):
        neighbors(x, x, 2, **{option: value})
