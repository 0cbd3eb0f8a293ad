"""The matrix of all distances is right for images that are almost the same, and the same for the same images."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.retrieval.scenes import TableTransit, clusters, unit
from tests.retrieval.test_routines import ROUTINES, take
from torchreid_dfrst.retrieval import distance, distance_blocks, distances


def scene(spread, width=512, count=300):
    """Images close to others, to each other, or to none, and copies of images far away in the list."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(count, width))
    x = unit(generator.normal(size=width) + spread * noise if spread < 1 else noise)
    x[100:120] = unit(x[:20] + 1e-3 * generator.normal(size=(20, width)) / np.sqrt(width))
    x[200:230] = x[:30]
    return x


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("few", [1, 256])
@pytest.mark.parametrize("spread", [1.0, 0.03, 0.001])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_distances_of_close_images_are_those_of_float64_and_of_equal_ones_0(spread, few, routine, weight, monkeypatch):
    take(routine, monkeypatch)
    monkeypatch.setattr(distances, "FEW", few)
    x = scene(spread)
    slow = cdist(x.astype(float), x.astype(float))
    assert (np.median(slow) < 0.1) == (spread < 0.05)
    table = np.random.default_rng(1).uniform(0, 2, (260, 300)).astype(np.float32)
    found = distance(x[:260], x, transit=TableTransit(table), weight=weight)
    np.testing.assert_allclose(found, slow[:260] + weight * table, rtol=0, atol=1e-6)
    if not weight:
        assert (found[slow[:260] == 0] == 0).all() and (slow[:260] == 0).sum() > 300


@pytest.mark.parametrize("span", [7, 64])
def test_equal_columns_are_equally_far_whatever_tile_they_are_in(span):
    x = scene(1.0, 2048)
    found = np.empty((90, 300), np.float32)
    distances.Distances(x[:90], x).fill(slice(0, 90), found, span)
    np.testing.assert_array_equal(found[:, 200:230], found[:, :30])


@pytest.mark.parametrize("weight", [0.0, 0.2])
@pytest.mark.parametrize("limit", [None, 200_000])
def test_blocks_are_the_rows_of_the_matrix(weight, limit):
    x, _ = clusters(400, seed=1)
    transit = TableTransit(np.random.default_rng(2).uniform(0, 2, (90, 400)))
    blocks = list(distance_blocks(x[:90], x, transit=transit, weight=weight, memory_limit=limit))
    assert (len(blocks) > 1) == (limit is not None)
    whole = distance(x[:90], x, transit=transit, weight=weight)
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(memory_limit=9000), r"9000 bytes is too small .* single images to 3"),
        (dict(memory_limit="1GB"), "memory_limit is '1GB'"),
        (dict(weight=-1.0), "0 or more"),
    ],
)
def test_arguments_of_blocks_of_distances_are_checked_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        distance_blocks(np.eye(2, 400, dtype=np.float32), np.eye(3, 400, dtype=np.float32), **change)
