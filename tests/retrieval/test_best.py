"""The lists that are noted while distances go by."""

from dataclasses import replace

import numpy as np
import pytest

from torchreid_dfrst.retrieval.metrics import Best, best_matches
from torchreid_dfrst.sightings import Sightings


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
    index, near = best_matches(distance, query, gallery, count, junk)
    np.testing.assert_array_equal(best.index, index)
    np.testing.assert_array_equal(best.distance, near)
    whole, _ = best_matches(distance, query, gallery, 20, junk)
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
