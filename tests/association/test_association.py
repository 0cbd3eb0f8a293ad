"""Trips: what is joined, what is never joined, and what happens where something is missing."""

import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst import association
from torchreid_dfrst.association import average_linkage, learning, windows
from torchreid_dfrst.association.evidence import at_once
from torchreid_dfrst.association.passes import find_passes
from torchreid_dfrst.association.ranking import _TreePlaces
from torchreid_dfrst.association.topology import topology
from torchreid_dfrst.retrieval import Features, normalise
from torchreid_dfrst.sightings import UNKNOWN, Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.spatiotemporal.passes import Pairs, one_per_pass, pairs_of_a_vehicle, passes

NOISE = 0.7


def world(seed=0, vehicles=40, noise=NOISE, tracks=True, width=16):
    """Features of vehicles on a road, each camera with a shift of its own."""
    seen = traffic(seed, vehicles)
    rng, looks = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(20, width))
    own, label = rng.normal(size=(vehicles, width)), passes(seen, by_identity=True)
    x = own[seen.identity] + looks[seen.camera] + noise * rng.normal(size=(label.max() + 1, width))[label]
    x += 0.1 * rng.normal(size=x.shape)
    return Features(x.astype(np.float32), replace(seen, track=label) if tracks else seen)


def nameless(features):
    return Features(features.embedding, replace(features.sightings, identity=np.full(len(features), UNKNOWN)))


def vehicles_of(trips, features):
    return features.sightings.identity[np.unique(trips.label, return_index=True)[1]]


@pytest.fixture(scope="module")
def joined():
    features = world()
    return features, association.associate(features, road())


def test_trips_are_found_without_any_label(joined):
    features, trips = joined
    score = association.MEASURES["pairwise"](trips.image_trajectory, features.sightings.identity)
    appearance = association.associate(Features(features.embedding, replace(features.sightings, time_s=None)), road())
    alone = association.MEASURES["pairwise"](appearance.image_trajectory, features.sightings.identity)
    assert score.f1 > 0.8 and score.f1 > alone.f1 > 0.3


def test_a_track_without_times_is_one_pass_and_its_queries_stand_there():
    features = world(0, noise=0.3)
    still = Features(features.embedding, replace(features.sightings, time_s=None))
    trips = association.associate(still, None, association.fit(world(7, 80, noise=0.3)))
    track = features.sightings.track
    assert len(trips.passes) == len(np.unique(track)) < len(track)
    (ranked,) = association.ranking(trips, still[:20], still.sightings)
    for row, line in enumerate(ranked):
        assert set(track[line == line.min()]) == {track[row]}


def test_labels_and_road_distances_may_come_in_or_stay_away():
    train, gallery = world(1, 80), world(0)
    for network in (road(), None):
        for evidence in (association.fit(train, network), None):
            trips = association.associate(gallery, network, evidence)
            assert association.MEASURES["pairwise"](trips.trajectory, vehicles_of(trips, gallery)).f1 > 0.75
    gaps = build("likelihood").fit(train.sightings, road())
    for network in (road(), None):
        trips = association.associate(gallery, network, gaps)
        assert trips.evidence.gaps is gaps
        assert association.MEASURES["pairwise"](trips.trajectory, vehicles_of(trips, gallery)).f1 > 0.75


def test_a_law_is_doubted_as_far_as_the_gallery_does_not_follow_it():
    evidence, features = association.fit(world(1, 80), road()), world(0)
    seen, rng = features.sightings, np.random.default_rng(0)
    fresh = rng.uniform(seen.time_s.min(), seen.time_s.max(), seen.track.max() + 1)
    doubts, f1 = [], []
    for share in (0.0, 0.25, 1.0):
        wrong = rng.random(len(fresh)) < share
        time_s = np.where(wrong[seen.track], fresh[seen.track], seen.time_s)
        trips = association.associate(Features(features.embedding, replace(seen, time_s=time_s)), road(), evidence)
        doubts.append(trips.evidence.doubt)
        f1.append(association.MEASURES["pairwise"](trips.trajectory, vehicles_of(trips, features)).f1)
    assert doubts[0] < 0.05 < doubts[1] < 0.5 and doubts[2] > 0.95
    still = association.associate(Features(features.embedding, replace(seen, time_s=None)), road(), evidence)
    alone = association.MEASURES["pairwise"](still.trajectory, vehicles_of(still, features)).f1
    # times that say nothing do no harm
    assert f1[0] > f1[1] and f1[2] > alone - 0.05


def test_no_identity_is_read(joined):
    features, trips = joined
    again = association.associate(nameless(features), road())
    np.testing.assert_array_equal(again.trajectory, trips.trajectory)
    query = features[::7]
    ranked = [np.concatenate(list(association.ranking(t, q, s))) for t, q, s in (
        (trips, query, features.sightings), (again, nameless(query), nameless(features).sightings)
    )]  # fmt: skip
    np.testing.assert_array_equal(*ranked)


@pytest.mark.parametrize("known", [True, False], ids=["of a pass of the gallery", "of none"])
def test_a_query_is_ranked_on_its_own(joined, known):
    features, trips = joined
    query = features[::7]
    if not known:
        query = Features(query.embedding, replace(query.sightings, track=query.sightings.track + 10_000))
    whole = np.concatenate(list(association.ranking(trips, query, features.sightings)))
    for row in (0, 3, len(query) - 1):
        (alone,) = association.ranking(trips, query[row : row + 1], features.sightings)
        np.testing.assert_array_equal(np.argsort(alone[0]), np.argsort(whole[row]))


def test_a_vehicle_is_at_one_place_at_a_time():
    features = world(3, noise=1.5)
    trips = association.associate(features, road(), association.fit(world(1, 80, noise=1.5), road()))
    meet = at_once(trips.passes, trips.passes, trips.evidence.overlapping)
    np.fill_diagonal(meet, False)
    same = trips.trajectory[:, None] == trips.trajectory
    assert meet.any() and not (meet & same).any()


def test_cameras_that_overlap_are_known_from_labels():
    seen = world(0).sightings
    twin = replace(seen[seen.camera == 3], camera=np.full((seen.camera == 3).sum(), 21), track=None)
    both = Sightings.concatenate([replace(seen, track=None), twin])
    x = np.random.default_rng(0).normal(size=(len(both), 8))
    assert association.fit(Features(x, both)).overlapping == {(3, 21)}


def test_average_linkage_is_the_definition():
    rng = np.random.default_rng(0)
    value = rng.normal(size=(9, 9))
    value = value + value.T
    clusters, heights = [[k] for k in range(9)], []
    while len(clusters) > 1:
        i, j = max(
            combinations(range(len(clusters)), 2), key=lambda p: value[np.ix_(clusters[p[0]], clusters[p[1]])].mean()
        )
        heights.append(value[np.ix_(clusters[i], clusters[j])].mean())
        clusters[i] += clusters.pop(j)
        if len(clusters) == 4:
            expected = {frozenset(c) for c in clusters}
    tree = average_linkage.grow(average_linkage.upper(value), 9)
    np.testing.assert_allclose(tree.top - tree.merges[:, 2], heights, atol=1e-12)
    label = tree.cut(heights[4] - 1e-9)
    assert {frozenset(np.flatnonzero(label == k).tolist()) for k in range(4)} == expected


def test_a_query_of_a_pass_stands_where_the_pass_stands(joined):
    _, trips = joined
    size = len(trips.passes)
    together = np.zeros((size, size), dtype=np.float32)
    together[np.triu_indices(size, 1)] = trips.tree.together()
    found = _TreePlaces(trips).of(np.zeros((size, size), dtype=np.float32), np.arange(size))
    np.fill_diagonal(found, 0)
    np.testing.assert_allclose(found, together + together.T, rtol=1e-5)


def test_probabilities_say_how_often_links_are_right():
    right, said = [], []
    for seed in range(4):
        features = world(seed, noise=1.1)
        trips = association.associate(features, road())
        vehicle, (earlier, later) = vehicles_of(trips, features), trips.links
        right.append(vehicle[earlier] == vehicle[later])
        said.append(trips.link_probability())
        member = trips.membership()
        assert ((member >= 0) & (member <= 1)).all()
    right, said = np.concatenate(right), np.concatenate(said)
    sure = said > np.median(said)
    assert right[sure].mean() > right[~sure].mean() and abs(right[sure].mean() - said[sure].mean()) < 0.15


def slow_measures(trajectory, vehicle):
    pairs = list(combinations(range(len(vehicle)), 2))
    joined = {p for p in pairs if trajectory[p[0]] == trajectory[p[1]]}
    same = {p for p in pairs if vehicle[p[0]] == vehicle[p[1]]}
    yield "pairwise", len(joined & same) / len(joined), len(joined & same) / len(same)
    there, own = defaultdict(set), defaultdict(set)
    for k, (a, b) in enumerate(zip(trajectory, vehicle, strict=True)):
        there[a].add(k)
        own[b].add(k)
    both = [there[a] & own[b] for a, b in zip(trajectory, vehicle, strict=True)]
    precision = [len(x) / len(there[a]) for x, a in zip(both, trajectory, strict=True)]
    yield "B-cubed", np.mean(precision), np.mean([len(x) / len(own[b]) for x, b in zip(both, vehicle, strict=True)])


def test_measures_are_the_definitions():
    rng = np.random.default_rng(0)
    trajectory, vehicle = rng.integers(4, size=12), rng.integers(3, size=12)
    for name, precision, recall in slow_measures(trajectory, vehicle):
        score = association.MEASURES[name](trajectory, vehicle)
        assert (score.precision, score.recall) == pytest.approx((precision, recall)) and 0 < precision < 1
        low, high = score.interval(vehicle, np.random.default_rng(0))
        assert 0 <= low < high <= 1
    # vehicle 0 is given trajectory 5 (2 right), vehicle 1 trajectory 6 (3 right); 7 is nobody's
    found = association.MEASURES["IDF1"](np.array([5, 5, 6, 6, 6, 6, 7]), np.array([0, 0, 0, 1, 1, 1, 1]))
    assert found.f1 == pytest.approx(5 / 7)


def days(count=3):
    parts = []
    for day in range(count):
        one = world(day, 30)
        seen = replace(one.sightings, time_s=one.sightings.time_s + 20_000 * day)
        seen = replace(seen, identity=seen.identity + 1000 * day, track=seen.track + 10_000 * day)
        parts.append(Features(one.embedding, seen))
    embedding = np.concatenate([part.embedding for part in parts])
    return Features(embedding, Sightings.concatenate([part.sightings for part in parts]))


def test_parts_give_the_same_trips_here_and_on_other_processes(monkeypatch):
    features, evidence = days(), association.fit(world(7, 80), road())
    monkeypatch.setattr(windows, "MOST", 200)
    here = association.associate(features, road(), evidence, window_s=3600)
    assert (
        here.tree is None and association.MEASURES["pairwise"](here.trajectory, vehicles_of(here, features)).f1 > 0.75
    )
    with ProcessPoolExecutor(2) as two:
        there = association.associate(features, road(), evidence, window_s=3600, executor=two)
    np.testing.assert_array_equal(here.trajectory, there.trajectory)
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            dask = association.associate(features, road(), evidence, window_s=3600, executor=client.get_executor())
    np.testing.assert_array_equal(here.trajectory, dask.trajectory)


def test_stretches_hold_every_pair_within_a_window_and_stitch(monkeypatch):
    features, evidence = world(0), association.fit(world(7, 80), road())
    whole = association.associate(features, road(), evidence)
    monkeypatch.setattr(windows, "MOST", 60)
    parts = list(windows.stretches(whole.passes, 200.0))
    time = whole.passes.first_s
    near = (np.abs(time[:, None] - time) <= 200) & ~np.eye(len(time), dtype=bool)
    for part in parts:
        near[np.ix_(part, part)] = False
    assert len(parts) > 3 and not near.any()
    monkeypatch.setattr(windows, "join_part", _always_dense)
    cut = association.associate(features, road(), evidence, window_s=200.0)
    assert association.MEASURES["pairwise"](cut.trajectory, whole.trajectory).f1 > 0.85


def _always_dense(passes, evidence, odds, most=windows.MOST):
    tree = average_linkage.grow(average_linkage.upper(evidence.block(passes, passes)), len(passes))
    return windows._apart(tree.cut(-odds), passes, evidence, odds), windows._first_join(tree), tree


def test_a_large_part_falls_into_groups_that_nothing_joins(monkeypatch):
    features, evidence = world(0, noise=0.3), association.fit(world(7, 80, noise=0.3))
    still = Features(features.embedding, replace(features.sightings, time_s=None))
    whole = association.associate(still, None, evidence)
    monkeypatch.setattr(windows, "MOST", 70)
    cut = association.associate(still, None, evidence)
    assert association.MEASURES["pairwise"](cut.trajectory, whole.trajectory).f1 > 0.9


def test_passes_are_found_without_tracks():
    features = world(0, 200, tracks=False, width=64)
    true = passes(features.sightings, by_identity=True)
    label, _ = find_passes(normalise(features.embedding), replace(features.sightings, identity=None))
    pairs = association.MEASURES["pairwise"](label, true)
    assert pairs.precision > 0.95 and pairs.recall > 0.9


def plain(count, camera=3, time_s=None, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return Features(x, Sightings(np.broadcast_to(camera, count).copy(), time_s))


@pytest.mark.parametrize(
    ("features", "note"),
    [
        (plain(30, time_s=np.arange(30.0)), "at 1 camera"),
        (plain(1, time_s=np.zeros(1)), "1 pass at 1 camera"),
        (plain(30), "no image has a time"),
        (plain(30, camera=np.arange(30) % 3, time_s=np.zeros(30)), "all images have the same time"),
        (plain(10_000, time_s=np.zeros(10_000)), "at 1 camera"),
    ],
    ids=["one camera", "one pass", "no times", "one time", "10,000 of one time"],
)
def test_what_cannot_be_learnt_is_said(features, note):
    trips = association.associate(features)
    assert any(note in one for one in trips.notes)
    assert len(trips.image_trajectory) == len(features)
    if trips.evidence is None:
        with pytest.raises(ValueError, match="without anything to calibrate on"):
            trips.membership()
        with pytest.raises(ValueError, match="calibrate"):
            next(association.ranking(trips, features[:1], features.sightings))


def test_images_without_a_time_are_joined_by_appearance_and_counted():
    features = world(0, noise=0.3)
    time = features.sightings.time_s.copy()
    time[::5] = np.nan
    trips = association.associate(Features(features.embedding, replace(features.sightings, time_s=time)), road())
    assert any(f"{len(time[::5])} images have no time" in note for note in trips.notes)
    assert association.MEASURES["pairwise"](trips.trajectory, vehicles_of(trips, features)).f1 > 0.7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: association.associate(plain(0)), "no images to join"),
        (lambda: association.associate(plain(5), window_s=0), "window_s is 0"),
        (lambda: association.fit(plain(5)), "with an identity: 0"),
        (lambda: next(association.ranking(association.associate(world(0)), plain(2), plain(3).sightings)), "3 gallery"),
    ],
)
def test_what_is_wrong_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_unknown_camera_is_named():
    with pytest.raises(KeyError, match="camera 4 has no row"):
        association.associate(plain(5, camera=4), road())


def test_links_of_a_road_are_found_and_shuffled_times_have_none():
    features = world(0, 300)
    seen = one_per_pass(features.sightings)
    trips = association.associate(features, road())
    links = topology(trips.passes, vehicles_of(trips, features))
    neighbours = {(a, b) for a in range(3, 13, 2) for b in (a - 2, a + 2) if 3 <= b <= 11}
    assert {link[:2] for link in links} >= neighbours and len(seen) == len(trips.passes)
    assert all(5 < link.median_s < 40 for link in links if link[:2] in neighbours)
    deal = np.random.default_rng(0).permutation(len(trips.passes))
    shuffled = replace(trips.passes, first_s=trips.passes.first_s[deal], last_s=trips.passes.last_s[deal])
    assert topology(shuffled, vehicles_of(trips, features)) == []
    # a vehicle's passes still lie close in time, but no roads are behind that
    elsewhere = replace(trips.passes, camera=trips.passes.camera[deal])
    assert topology(elsewhere, vehicles_of(trips, features)) == []


def test_pairs_of_certainty_teach_what_identities_teach():
    seen, network = one_per_pass(traffic(0)), road()
    model = build("likelihood", relays=0)
    pairs = pairs_of_a_vehicle(seen)
    twin = build("likelihood", relays=0).fit_pairs(
        seen, Pairs(*pairs), np.ones(len(pairs.first)), model.background_of(seen, network), network
    )
    assert twin.fitted == model.fit(traffic(0), network).fitted


def test_a_logistic_regression_finds_the_law_it_was_drawn_from():
    rng = np.random.default_rng(0)
    same = np.repeat([1.0, 0.0], 50_000)
    cosine = np.where(same > 0, 0.5, 0.0) + 0.15 * rng.normal(size=100_000)
    bias, slope = learning.calibrate(cosine.clip(-1, 1), same)
    # two normal laws of one spread: ln ratio = (m x - m^2 / 2) / s^2
    assert slope == pytest.approx(0.5 / 0.15**2, rel=0.03) and bias == pytest.approx(-(0.5**2) / 2 / 0.15**2, rel=0.05)
    assert math.isfinite(learning.calibrate(np.zeros(4), np.zeros(4))[1])
