import numpy as np
import pytest
import torchreid

from tests.retrieval.scenes import clusters, slow_distance, symmetric_transit
from torchreid_dfrst.retrieval import rerank


def reference(query, gallery, table=None, weight=0.0, power=2, **options):
    """torchreid's code, fed the Euclidean distance to ``power``; it squares what it gets."""
    both = np.concatenate([query, gallery])
    whole = slow_distance(both, both, table, weight).astype(np.float32) ** power
    n = len(query)
    return torchreid.utils.re_ranking(whole[:n, n:], whole[:n, :n], whole[n:, n:], **options)


GRID = [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (15, 15, 0.9), (1, 1, 0.3), (30, 6, 1.0)]


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), GRID)
@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_rerank_equals_torchreid(k1, k2, lambda_value, weight):
    x, _ = clusters(120, seed=3)
    transit = symmetric_transit(120)
    options = dict(k1=k1, k2=k2, lambda_value=lambda_value)
    expected = reference(x[:30], x[30:], transit.table, weight, **options)
    assert expected.std() > 0.01, "a constant reference would prove nothing"
    found = rerank(x[:30], x[30:], transit=transit, weight=weight, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_other_definition_squares_once():
    x, _ = clusters(120, seed=3)
    expected = reference(x[:30], x[30:], power=1)
    np.testing.assert_allclose(rerank(x[:30], x[30:], definition="transreid"), expected, atol=1e-5)
    assert np.abs(rerank(x[:30], x[30:]) - expected).max() > 0.01


def test_on_appearance_adds_the_transit_at_the_end():
    x, _ = clusters(60, seed=4)
    transit = symmetric_transit(60)
    expected = rerank(x[:20], x[20:]) + 0.2 * transit.table[:20, 20:]
    np.testing.assert_allclose(
        rerank(x[:20], x[20:], transit=transit, weight=0.2, on="appearance"), expected, atol=1e-6
    )


def test_queries_may_be_in_the_gallery_too():
    gallery, _ = clusters(80, seed=5)
    found = rerank(gallery[:20], gallery, k1=8, k2=3)
    assert (found.argmin(axis=1) == np.arange(20)).all()
    assert np.abs(found[np.arange(20), np.arange(20)]).max() < 0.1


def test_one_query():
    x, _ = clusters(40, seed=6)
    np.testing.assert_allclose(rerank(x[:1], x[1:], k1=7), reference(x[:1], x[1:], k1=7), atol=1e-5)


def test_one_gallery_image():
    x, _ = clusters(40, seed=6)
    found = rerank(x[1:], x[:1], k1=7)
    assert found.shape == (39, 1) and found.std() > 0.01
    np.testing.assert_allclose(found, reference(x[1:], x[:1], k1=7), atol=1e-5)


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
        (dict(on="st"), KeyError, "'fused' or 'appearance'"),
        (dict(transit=symmetric_transit(9)), ValueError, r"transit has shape \(9, 9\)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    x, _ = clusters(10)
    with pytest.raises(error, match=message):
        rerank(x[:3], x[3:], **(dict(k1=5, k2=2) | change))
