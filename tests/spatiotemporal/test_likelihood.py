"""Our model against its definition, and what relays add, written out for one query and one image."""

import math
import tracemalloc

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.retrieval.embeddings import consecutive
from torchreid_dfrst.sightings import UNKNOWN, Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.spatiotemporal.axis import LogAxis
from torchreid_dfrst.spatiotemporal.passes import first_and_last, one_per_pass, passes

TRAIN, ROAD = traffic(0, 80), road()


def tracked(sightings):
    """The same sightings with the tracks a data set would give and no identities."""
    return Sightings(sightings.camera, sightings.time_s, track=passes(sightings, by_identity=True))


def smooth(counts, width):
    reach = int(4 * width + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(counts, kernel / kernel.sum(), "same" if len(counts) >= len(kernel) else "full")


def counted(axis, gaps):
    out = np.zeros(axis.bins)
    for gap in gaps:
        place = float(axis.position(np.array(gap)))
        low = min(int(place), axis.bins - 2)
        out[low] += 1 - (place - low)
        out[low + 1] += place - low
    return out


def test_evidence_is_the_shrunk_ratio_of_counts():
    """With a huge shrinkage only the pooled evidence is left, with a tiny one only the pair's own counts."""
    own = build("likelihood", shrinkage=1e-9).fit(TRAIN, ROAD)
    seen, axis = one_per_pass(TRAIN), LogAxis(240, 5.0, 3600.0)
    row, everyone, same = ROAD.rows(seen.camera), {}, {}
    for i in range(len(seen)):
        for j in range(len(seen)):
            pair, gap = (row[i], row[j]), seen.time_s[j] - seen.time_s[i]
            everyone.setdefault(pair, []).append(gap)
            if seen.identity[i] == seen.identity[j] and row[i] != row[j]:
                same.setdefault(pair, []).append(gap)
    total = np.log(
        sum(smooth(counted(axis, g), 6.0).sum() for p, g in everyone.items() if p[0] != p[1])
        / sum(smooth(counted(axis, g), 2.0).sum() for g in same.values())
    )
    for a, b in ((1, 2), (2, 1)):
        s, e = smooth(counted(axis, same[a, b]), 2.0), smooth(counted(axis, everyone[a, b]), 6.0)
        busy = s > 0.01
        assert busy.sum() > 10
        got = own.evidence[a * 5 + b]
        np.testing.assert_allclose(got[busy], (np.log(s[busy] / e[busy]) + total), atol=1e-3)


def test_pairs_never_seen_take_what_pairs_at_their_distance_show():
    """Cameras 3 and 5 are as far apart as 9 and 11; no training vehicle drives between 9 and 11."""
    keep = ~np.isin(TRAIN.camera, [9]) | (TRAIN.identity % 2 == 0)
    train = TRAIN[keep & ~(np.isin(TRAIN.camera, [11]) & (TRAIN.identity % 2 == 0))]
    model = build("likelihood", relays=0).fit(train, ROAD)
    a, b = ROAD.rows(np.array([9, 11]))
    assert model.seen[a, b] == 0
    here = Sightings(np.array([9]), np.array([1000.0]))
    there = Sightings(np.full(3, 11), np.array([1018.0, 1001.0, 1900.0]))
    distance = model.distance(here, there)[0]
    assert distance[0] < distance[1] and distance[0] < distance[2]


def test_axis_and_its_inverse():
    axis = LogAxis(101, 3.0, 1000.0)
    np.testing.assert_allclose(axis.position(axis.points()), np.arange(101), atol=1e-9)
    assert axis.position(np.array([0.0, 5000.0, -5000.0])).tolist() == [50, 100, 0]
    assert (np.diff(axis.position(np.linspace(-999, 999, 500))) > 0).all()


@pytest.mark.parametrize("relays", [0, 1, 4, 1000])
def test_relays_are_the_sum_over_the_likeliest_passes(relays):
    query, gallery = tracked(traffic(1, 6)), tracked(traffic(2, 10))
    model = build("likelihood", relays=relays).fit(TRAIN, ROAD)
    label = passes(gallery, by_identity=False)
    stops = [np.flatnonzero(label == k) for k in range(label.max() + 1)]
    middle = [(gallery.time_s[r].min() + gallery.time_s[r].max()) / 2 for r in stops]
    camera = [gallery.camera[r[0]] for r in stops]

    def e(camera_a, time_a, camera_b, time_b):
        a, b = ROAD.rows(np.array([camera_a, camera_b]))
        return float(model.ratio(np.array(a * 5 + b), np.array(time_b - time_a)))

    high = model.evidence.max()
    kept = min(relays, len(stops))
    top = high + math.log1p(kept * math.exp(high))
    got = model.distance(query, gallery)
    own = passes(query, by_identity=False)
    for i in range(0, len(query), 3):
        t = (query.time_s[own == own[i]].min() + query.time_s[own == own[i]].max()) / 2
        direct = [e(query.camera[i], t, c, m) for c, m in zip(camera, middle, strict=True)]
        best = sorted(range(len(stops)), key=lambda h: -direct[h])[:kept]
        for g in range(0, len(gallery), 3):
            total = 0.0
            for h in best:
                odds = model.returns / len(stops) * math.exp(direct[h])
                total += odds / (1 + odds) * math.exp(e(camera[h], middle[h], camera[label[g]], middle[label[g]]))
            assert got[i, g] == pytest.approx((top - direct[label[g]] - math.log1p(total)) / 10, abs=2e-4)


def test_identities_of_the_ranked_lists_are_never_looked_at():
    query, gallery = traffic(1, 10), traffic(2, 20)
    model = build("likelihood").fit(TRAIN, ROAD)
    blind = [Sightings(s.camera, s.time_s) for s in (query, gallery)]
    np.testing.assert_array_equal(model.distance(query, gallery), model.distance(*blind))


def test_without_pooling_and_relays_a_distance_depends_on_its_pair_only():
    query, gallery = traffic(1, 10), traffic(2, 20)
    model = build("likelihood", pooling=False, relays=0).fit(TRAIN, ROAD)
    np.testing.assert_array_equal(model.distance(query, gallery)[:, 5:9], model.distance(query, gallery[5:9]))


def test_passes_are_tracks_or_runs_of_one_vehicle():
    camera, time_s = np.array([1, 1, 1, 1, 2, 1]), np.array([0.0, 9.0, 30.0, np.nan, 3.0, 4.0])
    seen = Sightings(camera, time_s, np.array([7, 7, 7, 7, 7, UNKNOWN]))
    label = passes(seen, by_identity=True)
    assert label[0] == label[1] and len(np.unique(label)) == 5
    assert len(np.unique(passes(seen, by_identity=False))) == 6
    middle = first_and_last(time_s, label).mean(axis=0)
    assert middle[label[0]] == 4.5 and np.isnan(middle[label[3]])
    track = Sightings(camera, time_s, track=np.array([4, 4, 4, 4, 4, 4]))
    label = passes(track, by_identity=False)
    assert label[0] == label[1] == label[5] and len(np.unique(label)) == 4


@pytest.mark.parametrize("by_identity", [False, True])
def test_a_track_is_one_pass_without_times_too(by_identity):
    seen = Sightings([1, 1, 2, 1, 1], identity=[7] * 5, track=[4, 4, 4, 5, UNKNOWN])
    label = passes(seen, by_identity)
    assert label[0] == label[1] and len(np.unique(label)) == 4
    assert np.isnan(first_and_last(seen.time_s, label)).all()


def many(count, seed, step_s):
    """Images without tracks, over days: each is a pass of its own."""
    rng = np.random.default_rng(seed)
    return Sightings(rng.choice(ROAD.cameras, count), np.round(rng.uniform(0, 200_000, count) / step_s) * step_s)


@pytest.mark.parametrize("step_s", [1.0, np.pi / 100], ids=["on a grid of seconds", "on no grid"])
def test_a_limit_of_memory_holds_without_tracks_and_changes_nothing(step_s):
    model = build("likelihood").fit(TRAIN, ROAD)
    query, gallery, limit = many(60, 1, step_s), many(3000, 2, step_s), 3_000_000
    whole = model.distance(query, gallery)
    tracemalloc.start()
    try:
        transit = model.transit(query, gallery, limit)
        for rows in consecutive(0, 60, 20):
            np.testing.assert_allclose(transit.block(rows, slice(0, 3000)), whole[rows], atol=1e-6)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        model.transit(query, gallery).block(slice(0, 60), slice(0, 3000))
        free = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < limit < free


def test_a_table_ends_where_the_curve_is_constant():
    model = build("likelihood", relays=0, pooling=False).fit(TRAIN, ROAD)
    query, gallery = many(400, 1, 1.0), many(900, 2, 1.0)
    transit = model.transit(query, gallery)
    assert transit._table is not None and transit._table.shape[1] <= 2 * model.reach_s + 3
    ends = np.repeat(np.arange(400), 900), np.tile(np.arange(900), 400)
    whole = transit.block(slice(0, 400), slice(0, 900))
    np.testing.assert_array_equal(transit.pairs(*ends).reshape(400, 900), whole)
    off = Sightings(np.append(query.camera, 3), np.append(query.time_s, np.pi))
    direct = model.transit(off, gallery)
    assert direct._table is None
    np.testing.assert_array_equal(direct.block(slice(0, 400), slice(0, 900)), whole)
