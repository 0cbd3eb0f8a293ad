"""STR, transition times and histograms, each against its definition, one pair at a time."""

import math

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.spatiotemporal.passes import direct_trips, one_per_pass

TRAIN, QUERY, GALLERY, ROAD = traffic(0, 60), traffic(1, 6), traffic(2, 12), road()


def each_pair():
    for i in range(len(QUERY)):
        for j in range(len(GALLERY)):
            a, b = ROAD.rows(np.array([QUERY.camera[i], GALLERY.camera[j]]))
            yield i, j, a, b, GALLERY.time_s[j] - QUERY.time_s[i]


def same_vehicle(seen):
    for i in range(len(seen)):
        for j in range(len(seen)):
            if i != j and seen.identity[i] == seen.identity[j] and seen.camera[i] != seen.camera[j]:
                yield i, j


def test_provid_is_the_product_of_two_shares():
    got = build("provid").fit(TRAIN, ROAD).distance(QUERY, GALLERY)
    longest = TRAIN.time_s.max() - TRAIN.time_s.min()
    for i, j, a, b, gap in each_pair():
        expected = min(abs(gap) / longest, 1) * ROAD.distance_m[a, b] / ROAD.distance_m.max()
        expected = 1.0 if a == b else expected
        assert got[i, j] == pytest.approx(expected, abs=1e-6)
    own = QUERY.camera[:, None] == GALLERY.camera
    assert own.any() and (got[own] == 1).all()


def slow_trips(seen):
    """Pairs of passes with no third pass by either camera in between."""
    for i, j in same_vehicle(seen):
        between = (seen.identity == seen.identity[i]) & np.isin(seen.camera, seen.camera[[i, j]])
        between &= (seen.time_s > seen.time_s[i]) & (seen.time_s < seen.time_s[j])
        if seen.time_s[i] < seen.time_s[j] and not between.any():
            yield i, j


def test_a_trip_is_no_return():
    seen = one_per_pass(returning())
    start, end = direct_trips(seen)
    found = set(zip(start.tolist(), end.tolist(), strict=True))
    assert found == set(slow_trips(seen)) and len(found) == len(start)
    every = sum(seen.time_s[i] < seen.time_s[j] for i, j in same_vehicle(seen))
    assert 50 < len(found) < 0.7 * every, "there must be returns to leave out"


def returning(vehicles=20, times=6):
    """Vehicles that turn up at cameras 3, 5 and 7 again and again."""
    rng = np.random.default_rng(4)
    time_s = rng.permutation(vehicles * times) * 20.0 + 1000
    return Sightings(rng.choice([3, 5, 7], vehicles * times), time_s, np.arange(vehicles).repeat(times))


@pytest.mark.parametrize("estimate", ["median", "likelihood"])
def test_transition_is_the_log_normal_density_of_the_trip(estimate):
    model = build("transition", min_trips=9, depth=20.0, estimate=estimate).fit(TRAIN, ROAD)
    laws, paces, seen = {}, [], one_per_pass(TRAIN)
    for i, j in slow_trips(seen):
        gap = seen.time_s[j] - seen.time_s[i]
        a, b = ROAD.rows(seen.camera[[i, j]])
        laws.setdefault((a, b), []).append(math.log(max(gap, 1.0)))
        paces.append(math.log(max(gap, 1.0)) - math.log(ROAD.distance_m[a, b]))

    def mu_sigma(x):
        if estimate == "likelihood":
            return np.mean(x), np.std(x)
        return np.median(x), 1.4826 * np.median([abs(v - np.median(x)) for v in x])

    def law(a, b):
        if len(laws.get((a, b), [])) >= 9:
            mu, sigma = mu_sigma(laws[a, b])
            return mu, max(sigma, 0.05)
        mu, sigma = mu_sigma(paces)
        return math.log(ROAD.distance_m[a, b]) + mu, sigma

    pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
    assert {len(laws.get(p, [])) >= 9 for p in pairs} == {True, False}, "both kinds of pair must occur"
    top = max(-mu + s * s / 2 - math.log(s * math.sqrt(2 * math.pi)) for mu, s in (law(*p) for p in pairs))
    got = model.distance(QUERY, GALLERY)
    for i, j, a, b, gap in each_pair():
        if a == b:
            assert got[i, j] == pytest.approx(2.0)
            continue
        mu, s = law(a, b) if gap >= 0 else law(b, a)
        tau = max(abs(gap), 1.0)
        log_p = -((math.log(tau) - mu) ** 2) / (2 * s * s) - math.log(tau * s * math.sqrt(2 * math.pi))
        assert got[i, j] == pytest.approx(min(top - log_p, 20.0) / 10, abs=1e-5)
    assert got.min() < 0.5 < got.max()


def test_transition_knows_the_direction():
    """From camera 3 to 5 it takes 15 s, back 40."""
    camera, vehicle = np.array([[3, 5], [5, 3]] * 20).ravel(), np.arange(40).repeat(2)
    trip = np.array([[0, 15], [0, 40]] * 20).ravel() + np.random.default_rng(0).normal(0, 1, 80)
    model = build("transition").fit(Sightings(camera, vehicle * 100 + trip, vehicle), road(3))
    here, after, before = (Sightings(np.array([c]), np.array([t])) for c, t in ((3, 0.0), (5, 15.0), (5, -15.0)))
    assert model.distance(here, after) + 0.1 < model.distance(here, before)


@pytest.mark.parametrize(("bin_s", "smoothing"), [(1.0, 10.0), (4.0, 0.0), (0.5, 3.0)])
def test_histogram_is_a_smoothed_count_of_passes(bin_s, smoothing):
    model = build("histogram", bin_s=bin_s, smoothing=smoothing, reach_s=400.0, depth=15.0).fit(TRAIN, ROAD)
    seen, bins = one_per_pass(TRAIN), int(2 * 400 / bin_s)
    counts = np.zeros((5, 5, bins))
    for i, j in same_vehicle(seen):
        a, b = ROAD.rows(seen.camera[[i, j]])
        counts[a, b, math.floor((seen.time_s[j] - seen.time_s[i]) / bin_s + 1e-6) + bins // 2] += 1
    counts[counts.sum(axis=2) == 0] = counts.sum(axis=(0, 1))
    if smoothing:
        reach = int(3 * smoothing + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / smoothing) ** 2)
        counts = np.apply_along_axis(lambda c: np.convolve(c, kernel / kernel.sum(), "same"), 2, counts)
    density = counts / counts.sum(axis=2, keepdims=True)
    got, top = model.distance(QUERY, GALLERY), math.log(density.max())
    for i, j, a, b, gap in each_pair():
        place = min(max(math.floor(gap / bin_s + 1e-6), -bins // 2), bins // 2 - 1) + bins // 2
        drop = top - math.log(max(density[a, b, place], 1e-300))
        assert got[i, j] == pytest.approx(1.5 if a == b else min(drop, 15.0) / 10, abs=2e-5)
    assert len(np.unique(got)) > 10


def test_passes_and_not_mean_times_are_counted():
    """A vehicle that comes back to camera 3 was never there at the mean of its two times."""
    camera, time_s = np.tile([3, 3, 5], 30), np.tile([0.0, 200.0, 215.0], 30) + np.arange(30).repeat(3) * 5
    seen = Sightings(camera, time_s, np.arange(30).repeat(3))
    model = build("histogram", smoothing=0.0, depth=20.0).fit(seen, road(2))
    here, gaps = Sightings(np.array([3]), np.array([0.0])), np.array([15.0, 115.0, 215.0])
    distance = model.distance(here, Sightings(np.full(3, 5), gaps))[0]
    assert distance[0] == distance[2] < distance[1] == 2.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("transition", {"min_trips": 0}),
        ("transition", {"estimate": "mean"}),
        ("transition", {"depth": -1.0}),
        ("histogram", {"bin_s": 0.0}),
        ("histogram", {"smoothing": -1.0}),
        ("likelihood", {"shrinkage": 0.0}),
        ("likelihood", {"bins": 1}),
        ("likelihood", {"relays": -1}),
        ("likelihood", {"pooling": False}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises((ValueError, KeyError), match=next(iter(options)).split("_")[0]):
        build(name, **options)
