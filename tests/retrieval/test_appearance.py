"""The matrix of all distances is right for images that are almost the same, and the same for the same images."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.retrieval.scenes import TableTransit, unit
from tests.retrieval.test_routines import fastest
from torchreid_dfrst.retrieval import appearance, distance
from torchreid_dfrst.retrieval.products import FLOAT32


def scene(spread, width=512, count=300):
    """Images close to others, to each other, or to none, and copies of images far away in the list."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(count, width))
    x = unit(generator.normal(size=width) + spread * noise if spread < 1 else noise)
    x[100:120] = unit(x[:20] + 1e-3 * generator.normal(size=(20, width)) / np.sqrt(width))
    x[200:230] = x[:30]
    return x


@pytest.mark.parametrize("routine", FLOAT32)
@pytest.mark.parametrize("few", [1, 256])
@pytest.mark.parametrize("spread", [1.0, 0.03, 0.001])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_distances_of_close_images_are_those_of_float64_and_of_equal_ones_0(spread, few, routine, weight, monkeypatch):
    fastest({routine: 2.0}, monkeypatch)
    monkeypatch.setattr(appearance, "FEW", few)
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
    appearance.Appearance(x[:90], x).fill(slice(0, 90), found, span)
    np.testing.assert_array_equal(found[:, 200:230], found[:, :30])
