"""Inputs on which a fast path that bounds, mirrors or cuts into blocks a little wrongly gives another answer."""

import re
import sys

import numpy as np
import pytest
from scipy import sparse

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, symmetric_transit, unit
from torchreid_dfrst.retrieval import (
    Parameters,
    Reranking,
    evaluate,
    expand,
    first,
    jaccard_distance,
    neighbors,
    rerank,
)
from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.retrieval.jaccard import Shared
from torchreid_dfrst.retrieval.transit import Mirrored, is_symmetric, mirrored, transits

JACCARD, MEMORY, ENCODING = (sys.modules[f"torchreid_dfrst.retrieval.{k}"] for k in ("jaccard", "memory", "encoding"))


@pytest.mark.parametrize("method", ["faiss", "product"])
def test_space_and_time_may_outweigh_every_candidate_of_appearance(method):
    x = unit(np.random.default_rng(0).normal(size=(320, 16)))
    rows, columns = x[:20], x[20:]
    rank = slow_distance(rows, columns).argsort(axis=1).argsort(axis=1)
    transit = TableTransit(np.where(rank < 200, 2.0, 0.0))  # neither the nearest nor the farthest are what they seem
    slow = slow_distance(rows, columns, transit.table, 0.5)
    assert (np.take_along_axis(rank, slow.argsort(axis=1)[:, :3], axis=1) > 150).any()
    found = neighbors(rows, columns, 3, transit=transit, weight=0.5, method=method, device="cpu")
    np.testing.assert_array_equal(found.index, np.argsort(slow, axis=1)[:, :3])
    np.testing.assert_allclose(found.farthest, slow.max(axis=1), atol=2e-5)
    assert (found.fallbacks > 0) == (method == "faiss")


def test_hundreds_of_images_may_be_the_farthest():
    x, _ = clusters(30, seed=1)
    columns = np.concatenate([x, np.repeat(-x[:1], 400, axis=0)])
    found = neighbors(x[:1], columns, 2)
    assert found.farthest == pytest.approx([2.0], abs=1e-5)
    np.testing.assert_array_equal(found.index, slow_distance(x[:1], columns).argsort(axis=1, kind="stable")[:, :2])


@pytest.mark.parametrize("part", [(slice(100, 160), slice(200, 300)), (slice(3, 4), slice(290, 291))])
def test_two_directions_count_wherever_they_differ(part):
    x, _ = clusters(300, seed=3)
    table = symmetric_transit(300).table
    table[part] = 2 - table[part]
    assert not is_symmetric(TableTransit(table)), "who does not say that it is symmetric is not believed to be"
    slow = slow_distance(x, x, table, 0.5)
    for limit in (None, 1_000_000):
        found = neighbors(x, x, 5, transit=TableTransit(table), weight=0.5, memory_limit=limit)
        np.testing.assert_array_equal(found.index, slow.argsort(axis=1)[:, :5])


def test_a_transit_that_says_so_is_symmetric_and_so_is_a_mirrored_one():
    transit = symmetric_transit(20)
    assert is_symmetric(transit) and mirrored(transit, 5) is transit
    other = mirrored(TableTransit(transit.table), 5)
    assert isinstance(other, Mirrored) and is_symmetric(other)


@pytest.mark.parametrize("queries", [0, 7, 20])
def test_a_mirrored_transit_is_the_same_there_and_back_in_every_block(queries):
    table = np.random.default_rng(3).uniform(0, 2, (20, 20))
    whole = (table + table.T) / 2
    whole[:queries, queries:], whole[queries:, :queries] = table[:queries, queries:], table[:queries, queries:].T
    transit = Mirrored(TableTransit(table), queries)
    for rows in (slice(0, 20), slice(3, 9), slice(8, 20)):
        for columns in (slice(0, 20), slice(5, 8), slice(7, 19)):
            np.testing.assert_allclose(transit.block(rows, columns), whole[rows, columns], atol=1e-6)
    row, column = np.random.default_rng(4).integers(0, 20, (2, 500))
    np.testing.assert_array_equal(transit.pairs(row, column), transit.block(slice(0, 20), slice(0, 20))[row, column])


@pytest.mark.parametrize("cells", [1, 70, 1 << 20])
def test_single_pairs_are_taken_from_blocks_of_a_bounded_size(cells, monkeypatch):
    table = np.random.default_rng(5).uniform(0, 2, (200, 30)).astype(np.float32)
    made = []

    class Watched(TableTransit):
        def block(self, rows, columns):
            made.append((rows.stop - rows.start) * (columns.stop - columns.start))
            return super().block(rows, columns)

    monkeypatch.setattr(sys.modules[transits.__module__], "CELLS", cells)
    for row in (np.arange(200), np.array([190, 3, 3, 190, 4, 120]), np.array([], dtype=int)):
        column = np.random.default_rng(6).integers(5, 25, len(row))
        np.testing.assert_array_equal(transits(Watched(table), row, column), table[row, column])
    assert max(made) <= max(cells, 20)


@pytest.mark.parametrize("events", [1, 40, 500, 1 << 21])
@pytest.mark.parametrize("step", [1, 6, 64])
def test_jaccard_is_the_same_to_the_last_bit_however_little_is_held_at_once(events, step):
    generator = np.random.default_rng(4)
    dense = generator.random((30, 50)) * (generator.random((30, 50)) < 0.3)
    dense = (dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)
    shared = Shared(sparse.csr_matrix(dense[:13]), sparse.csr_matrix(dense[13:]))
    whole = shared.distance(slice(0, 13))
    shared.events = events
    np.testing.assert_array_equal(np.concatenate([shared.distance(p) for p in consecutive(0, 13, step)]), whole)
    least = np.minimum(dense[:13, None], dense[None, 13:]).sum(axis=2)
    most = np.maximum(dense[:13, None], dense[None, 13:]).sum(axis=2)
    np.testing.assert_allclose(whole, 1 - least / most, atol=1e-6)


@pytest.mark.parametrize("options", [{}, dict(on="fused"), dict(on="appearance")])
def test_small_blocks_of_rows_and_columns_give_the_whole_matrix(options, monkeypatch):
    x, _ = clusters(260, seed=5)
    q, g = x[:60], x[60:]
    fused = dict(transit=symmetric_transit(260), weight=0.3) if options else {}
    whole = rerank(q, g, k1=9, k2=3, **fused, **options)
    alone = jaccard_distance(x, k1=9, k2=3)
    monkeypatch.setattr(ENCODING, "PAIRS", 700)
    monkeypatch.setattr(MEMORY, "STEP", 16)
    monkeypatch.setattr(MEMORY, "BLOCK_BYTES", 16 * 200 * 13)
    monkeypatch.setattr(JACCARD, "EVENTS", 2_000)
    parts = list(Reranking(q, g, Parameters(k1=9, k2=3, **options), **fused).blocks())
    assert len(parts) > 3
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6)
    np.testing.assert_allclose(rerank(q, g, k1=9, k2=3, **fused, **options), whole, atol=2e-6)
    np.testing.assert_allclose(jaccard_distance(x, k1=9, k2=3), alone, atol=2e-6)


def test_the_nearest_after_re_ranking_go_by_row_where_they_tie():
    x, _ = clusters(40, seed=6)
    gallery = np.concatenate([x[10:], x[10:], x[10:20]])
    job = Reranking(x[:10], gallery, Parameters(k1=8, k2=3))
    whole = np.concatenate(list(job.blocks()))
    assert (np.diff(np.sort(whole, axis=1)[:, :9]) == 0).any()
    for count in (1, 4, 9, len(gallery)):
        np.testing.assert_array_equal(job.top(count).index, np.argsort(whole, axis=1, kind="stable")[:, :count])


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


@pytest.mark.parametrize("count", [2.5, "3", True, None, float("nan"), 0, -1, 31])
def test_a_count_of_neighbours_that_cannot_be_is_named(count):
    x, _ = clusters(40, seed=6)
    job = Reranking(x[:10], x[10:], Parameters(k1=8, k2=3))
    whole = isinstance(count, int) and not isinstance(count, bool)
    message = "between 1 and 30" if whole else f"count is {count!r}, expected a whole number"
    for ask in (lambda: job.top(count), lambda: neighbors(x[:10], x[10:], count)):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask()


def test_other_arguments_that_cannot_be_are_named():
    x, _ = clusters(40, seed=6)
    near = neighbors(x[:10], x[10:], 3)
    labels = np.arange(2), np.arange(2), np.zeros(2, int), np.ones(2, int)
    score = evaluate(np.eye(2)[::-1], *labels)
    for ask, message in (
        (lambda: first(np.ones((2, 2)), 1.5), "count is 1.5, expected a whole number"),
        (lambda: first(np.ones((2, 2)), True), "count is True"),
        (lambda: score.rank(0), "rank 0 does not exist"),
        (lambda: score.rank(1.0), "r is 1.0, expected a whole number"),
        (lambda: evaluate(None, *labels), "distance is None, expected"),
        (lambda: evaluate(np.eye(2), None, *labels[1:]), r"query_identity has shape \(\)"),
        (lambda: rerank(x[:10], x[10:], transit=np.ones((40, 40)), weight=0.2), "a ndarray without low, high, block"),
        (lambda: Parameters(definition=["torchreid"]), r"definition is \['torchreid'\], expected text"),
        (lambda: expand(x[:10], x[10:], near, True), "count is True, expected a whole number"),
        (lambda: expand(x[:10], x[10:], near, 2, float("inf")), "alpha is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
