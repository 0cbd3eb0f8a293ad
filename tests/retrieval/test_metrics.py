import numpy as np
import pytest
import torchreid

from torchreid_dfrst.retrieval import evaluate, first


def scene(seed=0, queries=40, images=150, ties=False):
    generator = np.random.default_rng(seed)
    distance = generator.random((queries, images)).astype(np.float32)
    if ties:
        distance = np.round(distance, 1)
    columns = [generator.integers(0, high, size) for high in (12, 4) for size in (queries, images)]
    return distance, columns


def naive(distance, q_identity, g_identity, q_camera, g_camera):
    """One query after the other, one image after the other."""
    cmc, precision, penalty = [], [], []
    for i in range(len(distance)):
        ranking = sorted(range(distance.shape[1]), key=lambda j: (distance[i, j], j))
        ranking = [j for j in ranking if not (g_identity[j] == q_identity[i] and g_camera[j] == q_camera[i])]
        ranks = [r for r, j in enumerate(ranking, start=1) if g_identity[j] == q_identity[i]]
        if ranks:
            cmc.append([any(r <= place for r in ranks) for place in range(1, 21)])
            precision.append(np.mean([n / r for n, r in enumerate(ranks, start=1)]))
            penalty.append(len(ranks) / ranks[-1])
    return np.mean(cmc, axis=0), np.mean(precision), np.mean(penalty)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
def test_metrics_equal_the_definition(ties, blocks):
    distance, columns = scene(ties=ties)
    cmc, precision, penalty = naive(distance, *columns)
    found = evaluate(np.array_split(distance, 7) if blocks else distance, *columns, max_rank=20)
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose([found.mAP, found.mINP], [precision, penalty], atol=1e-12)
    assert found.rank(5) == cmc[4]
    assert found.rank(500) == cmc[-1]


def test_metrics_equal_torchreid():
    distance, columns = scene(1)
    cmc, precision = torchreid.metrics.evaluate_rank(distance, *columns, max_rank=20, use_cython=False)
    found = evaluate(distance, *columns, max_rank=20)
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-6)
    assert found.mAP == pytest.approx(precision, abs=1e-6)


def test_trapezoid_equals_the_official_code():
    distance = np.arange(5.0)[None]
    found = evaluate(distance, [0], np.array([1, 0, 0, 1, 0]), [0], np.ones(5, int), average_precision="trapezoid")
    expected = ((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3
    assert found.mAP == pytest.approx(expected)


def test_queries_without_a_match_are_counted():
    found = evaluate(np.array([[1.0, 2.0]] * 3), [0, 1, 7], np.array([0, 1]), [0, 1, 0], np.array([1, 1]))
    assert (found.used, found.skipped) == (1, 2)
    assert np.isnan(found.average_precision).tolist() == [False, True, True]
    assert found.first_match.tolist() == [1, 0, 0]


ONE = np.ones(3, int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(distance=np.zeros((2, 4))), r"shape \(2, 4\)"),
        (dict(distance=np.full((2, 3), np.nan)), "query 0 is NaN"),
        (dict(distance=np.zeros(3)), r"shape \(3,\)"),
        (dict(distance=[np.zeros((1, 3))]), "of 1 queries were given, 2 are expected"),
        (dict(g_identity=np.array([], int)), "0 gallery images"),
        (dict(q_identity=np.array([], int)), "0 queries"),
        (dict(q_identity=np.array([8, 9])), "none of the 2 query identities is in the gallery"),
        (dict(q_camera=[1, 1]), "all images are from camera 1"),
        (dict(q_camera=[1, 1], g_camera=[1, 1, 2], g_identity=[1, 1, 5]), "only from the query.s own camera"),
        (dict(q_camera=[1]), r"query_camera has shape \(1,\)"),
        (dict(g_identity=np.ones(3)), "float64, expected"),
        (dict(max_rank=0), "max_rank is 0"),
    ],
)
def test_bad_input_is_named(change, message):
    given = dict(distance=np.zeros((2, 3)), q_identity=[1, 1], g_identity=ONE, q_camera=[0, 0], g_camera=ONE) | change
    rank = given.pop("max_rank", 5)
    with pytest.raises(ValueError, match=message):
        evaluate(*given.values(), max_rank=rank)


def test_first_images_without_junk():
    distance = np.array([[3.0, 1.0, 1.0, 0.5]])
    assert first(distance, 3).tolist() == [[3, 1, 2]]
    assert first(distance, 4, np.array([[False, True, False, False]])).tolist() == [[3, 2, 0, -1]]
