"""Intervals that cover, and a test that is fair."""

import numpy as np
import pytest

from torchreid_dfrst.evaluation import intervals
from torchreid_dfrst.evaluation.intervals import MEASURES, bootstrap, interval, p_value, shares
from torchreid_dfrst.retrieval import evaluate


def test_shares_are_what_the_metrics_are_the_mean_of():
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(3):
        q, g = rng.integers(0, 12, 30), rng.integers(0, 9, 80)  # some queries have no match
        draws.append(evaluate(rng.random((30, 80)), q, g, np.zeros(30, int), np.ones(80, int)))
    assert draws[0].skipped > 0
    found, last = shares(draws), slice(draws[0].used + draws[1].used, None)
    assert list(found) == list(MEASURES) == ["mAP", "R1", "R5", "R10", "mINP"]
    for name, of in (("mAP", lambda m: m.mAP), ("mINP", lambda m: m.mINP), ("R5", lambda m: m.rank(5))):
        assert len(found[name]) == sum(m.used for m in draws) and 0 < found[name].mean() < 1
        assert found[name][last].mean() == pytest.approx(of(draws[2]))


def vehicles_with_queries(rng, count):
    """One to eight queries a vehicle."""
    return np.repeat(np.arange(count), rng.integers(1, 9, count))


@pytest.mark.parametrize(("mean", "vehicles"), [(0.5, 10), (0.5, 50), (0.9, 10), (0.9, 50), (0.99, 10), (0.99, 50)])
def test_the_interval_of_a_share_covers(mean, vehicles):
    rng, repeats, hits = np.random.default_rng(1), 300, 0
    for seed in range(repeats):
        vehicle = vehicles_with_queries(rng, vehicles)
        value = rng.random(len(vehicle)) < rng.beta(2.3 * mean, 2.3 * (1 - mean), vehicles)[vehicle]
        low, high = interval(bootstrap(value, vehicle, 300, seed=seed), value.mean())
        assert 0 <= low < high <= 1 and low <= value.mean() <= high
        hits += low <= mean <= high
    assert 0.91 <= hits / repeats <= 0.99


@pytest.mark.parametrize("value", [np.zeros(40), np.ones(40), np.full(40, 0.5)])
def test_no_share_is_certain(value):
    low, high = interval(bootstrap(value, np.arange(40) // 2, 1000), value.mean())
    assert 0.02 < high - low < 0.3


def test_alike_queries_widen_the_interval():
    rng = np.random.default_rng(2)
    vehicle = np.repeat(np.arange(40), 25)
    value = rng.normal(0.5, 0.2, 40)[vehicle]
    by_vehicle, by_query = (np.std(bootstrap(value, of, 1000)) for of in (vehicle, np.arange(1000)))
    assert by_vehicle > 3 * by_query


@pytest.mark.parametrize("law", ["symmetric", "skewed"])
def test_p_of_no_difference_is_below_5_percent_as_often(law):
    rng, repeats, rejected = np.random.default_rng(3), 400, 0
    for seed in range(repeats):
        vehicle = vehicles_with_queries(rng, 30)
        effect = rng.normal(0, 0.1, 30) if law == "symmetric" else 0.1 * (rng.exponential(size=30) - 1)
        value = effect[vehicle] + rng.normal(0, 0.1, len(vehicle))
        means = bootstrap(value, vehicle, 400, ends=None, seed=seed)
        low, high = interval(means, value.mean())
        if abs(p_value(means) - 0.05) > 0.01:
            assert (p_value(means) < 0.05) == (not low <= 0 <= high)
        rejected += p_value(means) < 0.05
    assert 0.02 <= rejected / repeats <= 0.08


def test_no_difference_is_no_evidence():
    assert p_value(bootstrap(np.zeros(90), np.arange(90) // 3, 1000, ends=None)) == 1.0
    assert p_value(bootstrap(np.ones(90), np.arange(90) // 3, 10_000, ends=None)) < 0.001


def test_many_vehicles_take_the_weights_in_parts(monkeypatch):
    value, vehicle = np.random.default_rng(0).random(200), np.arange(200) // 2
    whole = bootstrap(value, vehicle, 500)
    monkeypatch.setattr(intervals, "CELLS", 1000)
    parts = bootstrap(value, vehicle, 500)
    assert parts.shape == whole.shape == (500,)
    assert np.std(parts) == pytest.approx(np.std(whole), rel=0.2)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_resample(count):
    with pytest.raises(ValueError, match=f"{count} values of {count} queries of {count} vehicles"):
        bootstrap(np.zeros(count), np.zeros(count, int), 10)
