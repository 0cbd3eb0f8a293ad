"""Every entry takes arrays of any layout and gives what it gives for a plain copy; an empty side is named."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, unit
from tests.retrieval.test_rerank_paths import cut_in_four, slow_rerank
from torchreid_dfrst.retrieval import (
    Parameters,
    Reranking,
    distance,
    expand,
    jaccard_blocks,
    jaccard_distance,
    neighbors,
    rerank,
    rerank_distances,
)

LAYOUTS = {
    "Fortran": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "turned round": lambda x: x[::-1].copy()[::-1],
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "other byte order": lambda x: x.astype(">f4"),
}

JOBS = {
    "neighbors": lambda q, g: neighbors(q, g, 5).index,
    "distance": lambda q, g: distance(q, g),
    "rerank": lambda q, g: rerank(q, g, k1=7, k2=3),
    "top": lambda q, g: Reranking(q, g, Parameters(7, 3)).top(5).distance,
    "jaccard": lambda q, g: jaccard_distance(g, k1=7, k2=3),
    "expand": lambda q, g: expand(q, g, neighbors(q, g, 5), 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("job", JOBS)
def test_the_layout_of_embeddings_changes_nothing(job, layout):
    x, _ = clusters(60)
    expected = JOBS[job](x[:20], x[20:])
    query, gallery = LAYOUTS[layout](x[:20]), LAYOUTS[layout](x[20:])
    assert not query.flags.c_contiguous or not query.flags.writeable or query.dtype != np.float32
    np.testing.assert_array_equal(JOBS[job](query, gallery), expected)
    np.testing.assert_array_equal(gallery, x[20:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_matrices_changes_nothing(layout):
    x, _ = clusters(60)
    parts = cut_in_four(slow_distance(x, x).astype(np.float32) ** 2, 20)
    expected = rerank_distances(*parts, 7, 3)
    np.testing.assert_array_equal(rerank_distances(*map(LAYOUTS[layout], parts), 7, 3), expected)


@pytest.mark.parametrize("job", ["neighbors", "distance", "rerank", "top"])
def test_an_empty_side_is_named(job):
    x, _ = clusters(30)
    with pytest.raises(ValueError, match=r"(gallery|columns) has shape \(0, 16\).*: there is no image"):
        JOBS[job](x, x[:0])
    with pytest.raises(ValueError, match=r"(query|rows) has shape \(0, 16\).*: there is no image"):
        JOBS[job](x[:0], x)


@given(st.integers(0, 10**6), st.integers(9, 40), st.integers(1, 7), st.integers(1, 7), st.booleans())
@settings(max_examples=40, deadline=None)
def test_blocks_and_the_nearest_of_any_small_data_with_ties(seed, count, k1, k2, fused):
    generator = np.random.default_rng(seed)
    x, k2 = unit(generator.integers(1, 3, (count, 3)).astype(float)), min(k1, k2)
    table = np.triu(generator.integers(0, 3, (count, count)).astype(float))
    table, weight = table + np.triu(table, 1).T, 0.25 * fused
    original = np.round(slow_distance(x, x, table, weight), 12) ** 4
    original /= np.maximum(original.max(axis=1, keepdims=True), 1e-30)
    expected = slow_rerank(original, 4, k1 + 1, round(k1 / 2) + 1, k2, 0.3, np.exp(-original))
    options = dict(transit=TableTransit(table, symmetric=True), weight=weight)
    job = Reranking(x[:4], x[4:], Parameters(k1, k2), **options, memory_limit=int(generator.choice([200_000, 1 << 30])))
    found = np.concatenate(list(job.blocks()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    wanted = int(generator.integers(1, count - 4, endpoint=True))
    top = job.top(wanted)
    order = np.argsort(found, axis=1, kind="stable")[:, :wanted]
    np.testing.assert_array_equal(top.index, order)
    np.testing.assert_allclose(top.distance, np.sort(expected, axis=1)[:, :wanted], atol=1e-5)
    np.testing.assert_allclose(top.farthest, expected.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("k1", [7, 30])
def test_matrices_with_near_ties_say_so(k1, caplog):
    x, _ = clusters(60, 64, noise=2.0, seed=6)
    whole = slow_distance(x, x) ** 2
    assert rerank_distances(*cut_in_four(whole, 20), k1, 3).std() > 0 and not caplog.records
    # the places after which lists of k2, half of k1 and k1 + 1 images end
    for place in (2, round(k1 / 2), k1):
        caplog.clear()
        near = whole.copy()
        order = np.argsort(near[5])
        near[5, order[place + 1]] = near[order[place + 1], 5] = near[5, order[place]] * (1 + 2e-7)
        with caplog.at_level(logging.WARNING):
            rerank_distances(*cut_in_four(near, 20), k1, 3)
        assert "(first: 5" in caplog.text and "have a list of neighbours whose end float32 cannot tell" in caplog.text


def test_a_clustering_lists_its_near_ties():
    x, _ = clusters(40, seed=6)
    both = np.concatenate([x, x[:5]])
    job = jaccard_blocks(both, k1=8, k2=3)
    assert job.near is None
    np.testing.assert_array_equal(np.concatenate([block for _, block in job]), jaccard_distance(both, k1=8, k2=3))
    np.testing.assert_array_equal(job.near.near_ties, neighbors(both, both, 8).near_ties)
    assert len(job.near.near_ties) > 0
