"""Protocols against their definitions, and against torchreid where both say the same."""

from dataclasses import replace

import numpy as np
import pytest
import torchreid

from torchreid_dfrst.evaluation.protocols import PROTOCOLS, Protocol, build, of_dataset
from torchreid_dfrst.retrieval import Features, distance, normalise
from torchreid_dfrst.sightings import Sightings, draw


def features(count, seed, vehicles=8, cameras=3, prefix="g"):
    rng = np.random.default_rng(seed)
    identity, camera = rng.integers(0, vehicles, count), rng.integers(0, cameras, count)
    track = identity * cameras + camera  # one passage per vehicle and camera
    path = np.array([f"{prefix}{row:04d}" for row in rng.permutation(count)])
    embedding = rng.normal(size=(vehicles, 6))[identity] + 1.5 * rng.normal(size=(count, 6))
    return Features(embedding, Sightings(camera, rng.uniform(0, 99, count), identity, track, path))


def ranked(protocol, query, gallery):
    pairs = list(protocol.pairs(query, gallery))
    assert len(pairs) == protocol.draws
    return [
        protocol.score(distance(normalise(q.embedding), normalise(g.embedding)), q.sightings, g.sightings)
        for q, g in pairs
    ]


def naive(rows, junk=True):
    """AP and first rank of each query; a row is (query identity, query camera, [(distance, identity, camera)])."""
    found = []
    for identity, camera, entries in rows:
        ranking = sorted(entries, key=lambda entry: entry[0])
        ranking = [e for e in ranking if not (junk and e[1] == identity and e[2] == camera)]
        ranks = [r for r, e in enumerate(ranking, start=1) if e[1] == identity]
        found.append((np.mean([k / r for k, r in enumerate(ranks, start=1)]), ranks[0]) if ranks else (np.nan, 0))
    return np.array(found).T


def unit(x):
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x)


@pytest.fixture
def pair():
    return features(25, 1, prefix="q"), features(120, 2)


def test_image_to_image_equals_torchreid(pair):
    query, gallery = pair
    table = distance(normalise(query.embedding), normalise(gallery.embedding))
    q, g = query.sightings, gallery.sightings
    found = PROTOCOLS["image-to-image"].score(table, q, g)
    cmc, precision = torchreid.metrics.evaluate_rank(
        table, q.identity, g.identity, q.camera, g.camera, max_rank=50, use_cython=False
    )
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-6)
    assert found.mAP == pytest.approx(precision, abs=1e-6)
    assert 0.1 < precision < 0.9


@pytest.mark.parametrize("pooling", ["min", "mean"])
def test_image_to_track_equals_the_definition(pair, pooling):
    query, gallery = pair
    g = gallery.sightings
    rows = []
    for x, identity, camera in zip(query.embedding, query.sightings.identity, query.sightings.camera, strict=True):
        entries = []
        for track in np.unique(g.track):
            members = np.flatnonzero(g.track == track)
            if pooling == "min":
                near = min(np.linalg.norm(unit(x) - unit(gallery.embedding[m])) for m in members)
            else:
                near = np.linalg.norm(unit(x) - unit(np.mean([unit(gallery.embedding[m]) for m in members], axis=0)))
            entries.append((near, g.identity[members[0]], g.camera[members[0]]))
        rows.append((identity, camera, entries))
    (found,) = ranked(build(f"image-to-track-{pooling}"), query, gallery)
    precision, first = naive(rows)
    np.testing.assert_allclose(found.average_precision, precision, atol=1e-9)
    np.testing.assert_array_equal(found.first_match, first)
    assert 0.1 < found.mAP < 0.95
    (images,) = ranked(build("image-to-image"), query, gallery)
    assert abs(images.mAP - found.mAP) > 1e-3, "a protocol that changes nothing would prove nothing"


def test_tracks_are_taken_from_blocks_as_from_the_matrix(pair):
    query, gallery = pair
    table = distance(normalise(query.embedding), normalise(gallery.embedding))
    protocol = build("image-to-track-min")
    whole = protocol.score(table, query.sightings, gallery.sightings)
    parts = protocol.score(iter(np.array_split(table, 4)), query.sightings, gallery.sightings)
    np.testing.assert_array_equal(whole.average_precision, parts.average_precision)


def test_real_veri_has_2021_tracks_to_rank(veri_lists):
    from torchreid_dfrst.data.veri776 import read_veri

    veri = read_veri(veri_lists, images=False)
    rng = np.random.default_rng(0)
    query, gallery = (Features(rng.normal(size=(len(part), 4)), part) for part in (veri.query, veri.gallery))
    (pair,) = build("image-to-track-mean").pairs(query, gallery)
    tracks = pair[1].sightings
    assert len(tracks) == 2_021
    right = (tracks.identity == veri.query.identity[:, None]) & (tracks.camera != veri.query.camera[:, None])
    junk = (tracks.identity == veri.query.identity[:, None]) & (tracks.camera == veri.query.camera[:, None])
    assert (right.sum(axis=1).min(), right.sum(axis=1).max()) == (1, 34)
    assert right.sum(axis=1).mean() == pytest.approx(11.16, abs=0.005)
    assert (junk.sum(axis=1).min(), junk.sum(axis=1).max()) == (1, 4)
    assert junk.sum(axis=1).mean() == pytest.approx(1.21, abs=0.005)


@pytest.mark.parametrize("reverse", [False, True])
def test_vehicleid_equals_the_definition(pair, reverse):
    query, gallery = pair
    protocol = build("vehicleid-reversed" if reverse else "vehicleid", draws=4)
    pairs = list(protocol.pairs(query, gallery))
    names = set(query.sightings.path) | set(gallery.sightings.path)
    chosen = []
    for (q, g), found in zip(pairs, ranked(protocol, query, gallery), strict=True):
        one, others = (q, g) if reverse else (g, q)
        assert sorted(one.sightings.identity) == list(range(8)), "one image of every vehicle"
        assert len(others) == 145 - 8
        assert set(one.sightings.path) | set(others.sightings.path) == names
        assert set(q.sightings.camera) == {0} and set(g.sightings.camera) == {1}
        rows = [
            (
                identity,
                0,
                [
                    (np.linalg.norm(unit(x) - unit(y)), i, 1)
                    for y, i in zip(g.embedding, g.sightings.identity, strict=True)
                ],
            )
            for x, identity in zip(q.embedding, q.sightings.identity, strict=True)
        ]
        precision, first = naive(rows, junk=False)
        np.testing.assert_allclose(found.average_precision, precision, atol=1e-9)
        np.testing.assert_array_equal(found.first_match, first)
        if not reverse:
            np.testing.assert_allclose(found.average_precision, 1 / found.first_match)
        chosen.append(frozenset(one.sightings.path))
    assert len(set(chosen)) == 4, "draws differ"


def test_standard_and_reversed_differ(pair):
    assert np.mean([m.rank(1) for m in ranked(build("vehicleid-reversed"), *pair)]) > 0.1 + np.mean(
        [m.rank(1) for m in ranked(build("vehicleid"), *pair)]
    )


def test_draws_do_not_depend_on_how_the_features_were_split(pair):
    query, gallery = pair
    everything = Features(
        np.concatenate([gallery.embedding, query.embedding]),
        Sightings.concatenate([gallery.sightings, query.sightings]),
    )
    for (a, _), (b, _) in zip(
        build("vehicleid").pairs(query, gallery),
        build("vehicleid").pairs(everything[:60], everything[60:]),
        strict=True,
    ):
        np.testing.assert_array_equal(a.sightings.path, b.sightings.path)
        np.testing.assert_array_equal(a.embedding, b.embedding)


def test_draws_are_seeded_and_uniform():
    identity = np.array([3, 3, 3, 7, 9, 9])
    counts = sum(draw(identity, number).astype(int) for number in range(3000))
    assert counts[3] == 3000
    np.testing.assert_allclose(counts[[0, 1, 2, 4, 5]] / 3000, [1 / 3] * 3 + [1 / 2] * 2, atol=0.04)
    np.testing.assert_array_equal(draw(identity, 5, seed=1), draw(identity, 5, seed=1))
    assert any((draw(identity, k, seed=1) != draw(identity, k, seed=2)).any() for k in range(5))


def test_veriwild_removes_and_counts():
    """Vehicle 0 is seen again by its own camera only: with removal the query has nothing left."""
    query = Sightings(np.array([4, 5]), identity=np.array([0, 1]))
    gallery = Sightings(np.array([4, 6, 5]), identity=np.array([0, 1, 1]))
    table = np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]])
    removed = PROTOCOLS["veriwild"].score(table, query, gallery)
    assert (removed.used, removed.skipped) == (1, 1)
    kept = PROTOCOLS["veriwild-without-removal"].score(table, query, gallery)
    assert (kept.used, kept.skipped) == (2, 0)
    assert kept.mAP == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_the_trapezoid_is_named_in_the_protocol(pair):
    query, gallery = pair
    (precision,) = ranked(build("image-to-image"), query, gallery)
    (trapezoid,) = ranked(build("image-to-image", average_precision="trapezoid"), query, gallery)
    assert precision.mAP != trapezoid.mAP
    assert "AP as trapezoid area" in build("image-to-image", average_precision="trapezoid").describe()


def test_every_protocol_describes_itself():
    texts = {protocol.describe() for protocol in PROTOCOLS.values()}
    assert len(texts) == len(PROTOCOLS)
    assert "10 draws" in PROTOCOLS["vehicleid"].describe()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: build("vehicelid"), KeyError, "did you mean 'vehicleid'"),
        (lambda: build("image-to-image", draws=3), ValueError, "3 draws"),
        (lambda: build("vehicleid", draws=0), ValueError, "0 draws"),
        (lambda: build("vehicleid", seed=-1), ValueError, "seed"),
        (lambda: build("image-to-image", average_precision="auc"), KeyError, "'auc'"),
        (lambda: Protocol("x", tracks="max"), KeyError, "'max'"),
    ],
)
def test_a_protocol_that_is_none(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("pooling", ["min", "mean"])
def test_images_without_a_track_are_an_error(pair, pooling):
    query, gallery = pair
    track = gallery.sightings.track.copy()
    track[[3, 5]] = -1
    broken = Features(gallery.embedding, replace(gallery.sightings, track=track))
    with pytest.raises(ValueError, match="2 of 120 gallery images have no track"):
        ranked(build(f"image-to-track-{pooling}"), query, broken)


def test_a_track_of_two_vehicles_or_cameras_is_an_error_that_names_them(pair):
    query, gallery = pair
    one = replace(gallery.sightings, track=np.zeros(120, int))
    cars, gates = (
        np.array([f"{word} {k}" for k in column]) for word, column in (("car", one.identity), ("c", one.camera))
    )
    for given, column, names in (
        (one, "identity", "0 and 7"),
        (replace(one, vehicle_name=cars), "identity", "car 0 and car 7"),
        (replace(one, identity=one.identity * 0, camera_name=gates), "camera", "c 0 and c 2"),
    ):
        with pytest.raises(ValueError, match=f"track 0 of the gallery has more than one {column}, {names}:"):
            ranked(build("image-to-track-min"), query, Features(gallery.embedding, given))


def test_lists_of_one_camera_are_an_error_that_names_it(pair):
    query, gallery = (
        Features(
            part.embedding,
            replace(part.sightings, camera=np.full(len(part), 4), camera_name=["north gate"] * len(part)),
        )
        for part in pair
    )
    with pytest.raises(ValueError, match="all images are from camera north gate, so every match is junk"):
        ranked(build(), query, gallery)
    ranked(build("veriwild-without-removal"), query, gallery)


def test_a_data_set_that_says_its_protocol_is_scored_by_it():
    assert (
        of_dataset("vehicleid800") == "vehicleid" and of_dataset("vehicleid", {"reverse": True}) == "vehicleid-reversed"
    )
    assert of_dataset("veriwild3000") == "veriwild" and of_dataset("veri776") == of_dataset(None) == "image-to-image"


def test_all_images_of_the_querys_camera_out_equals_the_definition(pair):
    query, gallery = pair
    table = distance(normalise(query.embedding), normalise(gallery.embedding))
    q, g = query.sightings, gallery.sightings
    rows = []
    for line, identity, camera in zip(table, q.identity, q.camera, strict=True):
        kept = np.flatnonzero(g.camera != camera)
        rows.append((identity, camera, [(line[k], g.identity[k], g.camera[k]) for k in kept]))
    precision, rank = naive(rows)
    protocol = PROTOCOLS["other-cameras"]
    found = protocol.score(protocol.ranked(iter([table[:7], table[7:]]), q, g), q, g)
    np.testing.assert_allclose(found.average_precision, precision)
    np.testing.assert_array_equal(found.first_match, rank)
    usual = PROTOCOLS["image-to-image"].score(table, q, g)
    assert not np.allclose(usual.average_precision, precision), "other images of that camera count elsewhere"
    assert "no image of the query's camera is ranked" in protocol.describe()


@pytest.mark.parametrize("at", [1, 3, 10, 1000])
def test_map_at_k_equals_the_definition(pair, at):
    query, gallery = pair
    table = distance(normalise(query.embedding), normalise(gallery.embedding))
    q, g = query.sightings, gallery.sightings
    labels, expected = list(zip(g.identity, g.camera, strict=True)), []
    for line, own in zip(table, zip(q.identity, q.camera, strict=True), strict=True):
        right = [labels[k][0] == own[0] for k in np.argsort(line) if labels[k] != own]
        hits = [sum(right[: r + 1]) / (r + 1) for r in range(min(at, len(right))) if right[r]]
        expected.append(sum(hits) / min(sum(right), at) if sum(right) else np.nan)
    found = build("map-at-k", at=at).score(table, q, g)
    np.testing.assert_allclose(found.average_precision, expected)
    whole = PROTOCOLS["image-to-image"].score(table, q, g)
    assert (found.mAP == whole.mAP) == (at == 1000) and (found.cmc == whole.cmc).all()
    assert build("map-at-k").at == 100 and build("image-to-image", at=at).at == at
    assert f"among the first {at}, over at most {at} matches" in build("map-at-k", at=at).describe()


def test_at_and_own_camera_are_checked():
    with pytest.raises(ValueError, match="at is 0: 1 or more"):
        build("map-at-k", at=0)
    with pytest.raises(KeyError, match="own_camera 'in'"):
        Protocol("x", own_camera="in")


def test_one_camera_is_named_with_the_way_to_score_without(pair):
    query, gallery = pair
    table = distance(normalise(query.embedding), normalise(gallery.embedding))
    q, g = (replace(p.sightings, camera=np.full(len(p), 4), camera_name=np.full(len(p), "yard")) for p in pair)
    with pytest.raises(ValueError, match=r"from camera yard.*evaluate\.protocol no-junk.*cameras none"):
        PROTOCOLS["image-to-image"].score(table, q, g)
    assert PROTOCOLS["no-junk"].score(table, q, g).used == PROTOCOLS["veriwild-without-removal"].score(table, q, g).used
    assert of_dataset("table", {"cameras": "none"}) == "no-junk" and of_dataset("table", {}) == "image-to-image"
