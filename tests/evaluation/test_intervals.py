"""Intervals that cover, and a test that is fair."""

import itertools

import numpy as np
import pytest

from torchreid_dfrst.evaluation.intervals import MEASURES, bootstrap, shares, sign_flip
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


def test_the_interval_covers_about_95_percent():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        vehicle = np.repeat(np.arange(40), 5)
        value = rng.normal(0.5, 0.2, 40)[vehicle] + rng.normal(0, 0.1, 200)
        low, high = bootstrap(value, vehicle, rng, samples=300)
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_alike_queries_widen_the_interval():
    rng = np.random.default_rng(2)
    vehicle = np.repeat(np.arange(40), 25)
    value = rng.normal(0.5, 0.2, 40)[vehicle]
    by_vehicle = bootstrap(value, vehicle, rng)
    by_query = bootstrap(value, np.arange(1000), rng)
    assert by_vehicle[1] - by_vehicle[0] > 3 * (by_query[1] - by_query[0])


def test_sign_flip_equals_all_flips():
    rng = np.random.default_rng(3)
    difference = rng.normal(0.3, 1, 10)
    group = np.array([0, 0, 1, 2, 3, 3, 4, 5, 6, 7])
    total = np.array([difference[group == g].sum() for g in range(8)])
    flips = [abs(np.dot(signs, total)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(flips) >= abs(total.sum()) - 1e-12)
    assert 0.01 < exact < 0.9
    assert sign_flip(difference, group, rng, samples=20_000) == pytest.approx(exact, abs=0.02)


def test_no_difference_is_no_evidence():
    assert sign_flip(np.zeros(9), np.arange(9), np.random.default_rng(0)) == 1.0
    assert sign_flip(np.ones(40), np.arange(40), np.random.default_rng(0)) < 0.001


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="0 values"):
        bootstrap(np.array([]), np.array([], int), np.random.default_rng(0))
