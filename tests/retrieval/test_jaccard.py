"""The Jaccard distance of all images to all, against its definition with Python's sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, slow_rerank, small_and_tied
from torchreid_dfrst.retrieval import jaccard, jaccard_blocks, jaccard_distance, neighbors
from torchreid_dfrst.retrieval.embeddings import consecutive


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (9, 1), (2, 2)])
def test_the_distance_equals_its_definition(k1, k2):
    x, _ = clusters(150, seed=4)
    distance = slow_distance(x, x)
    expected = slow_rerank(np.round(distance, 12), None, k1, round(k1 / 2) + 1, k2, 0.0, np.exp(-(distance**2)))
    found = jaccard_distance(x, k1=k1, k2=k2)
    assert found.min() >= 0 and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.integers(0, 10**6), st.integers(9, 40), st.integers(2, 7), st.integers(1, 7), st.sampled_from([5, 16, 1024]))
@settings(max_examples=30, deadline=None)
def test_any_small_data_with_ties(seed, count, k1, k2, step):
    x, k2 = small_and_tied(seed, count), min(k1, k2)
    original = np.round(slow_distance(x, x), 12)
    expected = slow_rerank(original, None, k1, round(k1 / 2) + 1, k2, 0.0, np.exp(-(original**2)))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(jaccard, "STEP", step)
        small.setattr(jaccard, "CANDIDATES", 20 * step)
        np.testing.assert_allclose(jaccard_distance(x, k1=k1, k2=k2), expected, atol=1e-5)


@pytest.mark.parametrize("k1", [5, 12])
def test_both_directions_of_a_transit_are_averaged(k1):
    x, _ = clusters(90, seed=7)
    table = np.random.default_rng(0).uniform(0, 2, (90, 90))
    options = dict(weight=0.3, k1=k1, k2=3)
    expected = jaccard_distance(x, transit=TableTransit((table + table.T) / 2, symmetric=True), **options)
    np.testing.assert_allclose(jaccard_distance(x, transit=TableTransit(table), **options), expected, atol=1e-5)


def test_blocks_give_the_whole_matrix_and_list_near_ties(monkeypatch):
    x, _ = clusters(200, seed=6)
    both = np.concatenate([x, x[:5]])
    whole = jaccard_distance(both, k1=8, k2=3)
    monkeypatch.setattr(jaccard, "BLOCK_BYTES", 4 * 205 * 13)
    job = jaccard_blocks(both, k1=8, k2=3)
    rows, blocks = zip(*job, strict=True)
    assert rows == tuple(consecutive(0, 205, 13))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(job.near.near_ties, neighbors(both, both, 8).near_ties)
    assert len(job.near.near_ties) > 0


def test_bad_input_is_named():
    x, _ = clusters(30)
    for words, options in (("k1 is 31 with 30 images", dict(k1=31)), ("k2 is 9", dict(k1=8, k2=9))):
        for job in (jaccard_blocks, jaccard_distance):
            with pytest.raises(ValueError, match=words):
                job(x, **options)
    with pytest.raises(ValueError, match="at least two are needed"):
        jaccard_distance(x[:1])
    with pytest.raises(ValueError, match="k1 is 8"):
        jaccard_distance(np.zeros((7, 4), np.float32) + 0.5, k1=8, k2=2)


@pytest.mark.parametrize("most", [1, 40, 500, 1 << 21])
@pytest.mark.parametrize("step", [1, 6, 64])
def test_the_distance_is_the_same_to_the_last_bit_however_little_is_held_at_once(most, step):
    generator = np.random.default_rng(4)
    dense = generator.random((30, 50)) * (generator.random((30, 50)) < 0.3)
    dense = (dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)
    shared = jaccard.Jaccard(sparse.csr_matrix(dense[:13]), sparse.csr_matrix(dense[13:]))
    whole = shared.distance(slice(0, 13))
    shared.most = most
    np.testing.assert_array_equal(np.concatenate([shared.distance(p) for p in consecutive(0, 13, step)]), whole)
    least = np.minimum(dense[:13, None], dense[None, 13:]).sum(axis=2)
    most_of_both = np.maximum(dense[:13, None], dense[None, 13:]).sum(axis=2)
    np.testing.assert_allclose(whole, 1 - least / most_of_both, atol=1e-6)
    np.testing.assert_allclose(shared.distance(slice(2, 9), 0.7), 0.7 * whole[2:9], atol=1e-6)
