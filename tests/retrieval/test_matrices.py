"""Re-ranking of three given matrices, as torchreid's engines ask for it."""

import logging
import sys
import warnings

import numpy as np
import pytest
import torch
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.scenes import clusters, cut_in_four, slow_distance, slow_rerank, small_and_tied
from tests.retrieval.test_layouts import LAYOUTS
from torchreid_dfrst.retrieval import jaccard, rerank, rerank_distances


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (7, 1, 0.0), (15, 4, 1.0)])
def test_matrices_in_matrices_out_as_torchreid(k1, k2, lambda_value):
    x, _ = clusters(900, 32, 40, seed=2)
    q, g = x[:100], x[100:]

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


@given(st.integers(0, 10**6), st.integers(9, 40), st.integers(1, 7), st.integers(1, 7), st.sampled_from([5, 16, 1024]))
@settings(max_examples=30, deadline=None)
def test_any_small_data_with_ties(seed, count, k1, k2, step):
    x, k2 = small_and_tied(seed, count), min(k1, k2)
    distance = np.round(slow_distance(x, x), 12)
    original = distance**4 / np.maximum((distance**4).max(axis=1, keepdims=True), 1e-30)
    expected = slow_rerank(original, 2, k1 + 1, round(k1 / 2) + 1, k2, 0.3, np.exp(-original))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(sys.modules["torchreid_dfrst.retrieval.rerank"], "ROWS", step)
        small.setattr(jaccard, "STEP", step)
        small.setattr(jaccard, "CANDIDATES", 20 * step)
        found = rerank_distances(*cut_in_four(distance**2), k1, k2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_matrices_that_differ_there_and_back_are_read_as_the_reference_reads_them():
    parts = cut_in_four(np.random.default_rng(3).random((60, 60)), 20)
    expected = torchreid.utils.re_ranking(*parts, 6, 3, 0.3)
    np.testing.assert_allclose(rerank_distances(*parts, 6, 3, 0.3), expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_matrices_changes_nothing(layout):
    x, _ = clusters(60)
    parts = cut_in_four(slow_distance(x, x).astype(np.float32) ** 2, 20)
    expected = rerank_distances(*parts, 7, 3)
    # NumPy 2.2 rounds functions of contiguous arrays otherwise than of others, 2.4 does not
    rtol = 0 if np.lib.NumpyVersion(np.__version__) >= "2.4.0" else 1e-6
    np.testing.assert_allclose(rerank_distances(*map(LAYOUTS[layout], parts), 7, 3), expected, rtol=rtol)


@pytest.mark.parametrize("k1", [7, 30, 59])
def test_near_ties_at_the_end_of_a_list_are_warned_of(k1, caplog):
    x, _ = clusters(60, 64, noise=2.0, seed=6)
    whole = slow_distance(x, x) ** 2
    assert rerank_distances(*cut_in_four(whole, 20), k1, 3).std() > 0 and not caplog.records
    # the places after which lists of k2, half of k1 and k1 + 1 images end
    for place in (2, round(k1 / 2), k1):
        caplog.clear()
        near = whole.copy()
        order = np.argsort(near[5])
        if place + 1 < 60:
            near[5, order[place + 1]] = near[order[place + 1], 5] = near[5, order[place]] * (1 + 2e-7)
        with caplog.at_level(logging.WARNING):
            rerank_distances(*cut_in_four(near, 20), k1, 3)
        said = "(first: 5" in caplog.text and "have a list of neighbours whose end float32 cannot tell" in caplog.text
        assert said == (place + 1 < 60), "a list of all images has no end"


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
