"""Inputs on which a fast path that bounds, mirrors or cuts into blocks a little wrongly gives another answer."""

import sys

import numpy as np
import pytest

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, symmetric_transit, unit
from torchreid_dfrst.retrieval import neighbors
from torchreid_dfrst.retrieval.transit import Mirrored, is_symmetric, mirrored, transits


def test_space_and_time_may_outweigh_every_candidate_of_appearance():
    x = unit(np.random.default_rng(0).normal(size=(320, 16)))
    rows, columns = x[:20], x[20:]
    rank = slow_distance(rows, columns).argsort(axis=1).argsort(axis=1)
    transit = TableTransit(np.where(rank < 200, 2.0, 0.0))  # neither the nearest nor the farthest are what they seem
    slow = slow_distance(rows, columns, transit.table, 0.5)
    assert (np.take_along_axis(rank, slow.argsort(axis=1)[:, :3], axis=1) > 150).any()
    found = neighbors(rows, columns, 3, transit=transit, weight=0.5, device="cpu")
    np.testing.assert_array_equal(found.index, np.argsort(slow, axis=1)[:, :3])
    np.testing.assert_allclose(found.farthest, slow.max(axis=1), atol=2e-5)


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
