"""Searching a gallery over time: the lists of the definition, in whatever pieces it lies and wherever it runs."""

import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="galleries need pyarrow, an optional extra")

from tests.gallery.crops import SOURCE, WIDTH, crops
from tests.worlds import road, traffic
from torchreid_dfrst.evaluation import calibration
from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.features import network_of
from torchreid_dfrst.gallery import Gallery, searching, watch
from torchreid_dfrst.gallery.extraction import extraction
from torchreid_dfrst.retrieval import Extraction, Features, normalise
from torchreid_dfrst.spatiotemporal import build

NAMED = replace(road(), names=np.array([f"gate {c}" for c in road().cameras]))
WEIGHT = 0.3


def street(seed, vehicles, hours=5):
    """Vehicles on the road of ``worlds``, spread over some hours, with copies and some without a time."""
    rng, seen = np.random.default_rng(seed), traffic(seed, vehicles)
    centre = rng.normal(size=(vehicles, WIDTH))
    embedding = centre[seen.identity] + rng.normal(size=(len(seen), WIDTH))
    embedding[10:20] = embedding[0]
    time_s = seen.time_s + 3600 * (seen.identity % hours)
    time_s[::17] = np.nan
    path = np.array([f"{seed}-{k}.jpg" for k in range(len(seen))])
    names = np.array([f"gate {c}" for c in seen.camera])
    return Features(embedding, replace(seen, time_s=time_s, path=path, camera_name=names))


@pytest.fixture(scope="module")
def model():
    return build("lognormal").fit(traffic(0, 60), NAMED)


@pytest.fixture(scope="module")
def held(tmp_path_factory, model):
    """A gallery of three adds, one of which was compacted, and what it holds."""
    parts = [street(seed, 50) for seed in (1, 2, 3)]
    made = Gallery.create(tmp_path_factory.mktemp("street") / "g", SOURCE, WIDTH)
    for k, part in enumerate(parts):
        made.add(part, SOURCE)
        if k == 1:
            made.compact()
    made.learn(model, WEIGHT)
    rows = [x.embedding for x in parts]
    everyone = type(parts[0].sightings).concatenate([x.sightings for x in parts])
    return made, Features(np.concatenate(rows), everyone)


def asked(held, count=12):
    query = street(1, 50)[np.arange(3, 3 + 2 * count, 2)]
    return query[~np.isnan(query.sightings.time_s)]


def slow(features, query, top, model=None, low=None, high=None):
    """Names and distances by float64 of everything."""
    x, y = (normalise(part.embedding).astype(np.float64) for part in (query, features))
    distance = np.linalg.norm(x[:, None] - y, axis=2)
    if model is not None:
        distance = distance + WEIGHT * model.distance(query.sightings, features.sightings)
    names, found = features.sightings.path, []
    for row, line in enumerate(distance):
        time_s = features.sightings.time_s
        ok = np.ones(len(line), bool) if low is None else (time_s >= low[row]) & (time_s <= high[row])
        ok &= names != query.sightings.path[row]
        order = np.lexsort((names, np.nan_to_num(time_s, nan=np.inf), np.round(line, 12)))
        found.append([(names[k], line[k]) for k in order if ok[k]][:top])
    return found


def check(hits, expected):
    for row, line in enumerate(expected):
        here = [k for k, q in enumerate(hits.columns["query"]) if q == row]
        assert [hits.columns["path"][k] for k in here] == [name for name, _ in line]
        np.testing.assert_allclose([hits.columns["distance"][k] for k in here], [d for _, d in line], atol=1e-6)
        assert [hits.columns["rank"][k] for k in here] == [*range(1, len(line) + 1)]


def ask(made, query, fused, **more):
    seen = query.sightings
    times = {"camera": seen.camera_name.tolist(), "time_s": seen.time_s} if fused else {}
    return made.search(query.embedding, **times, path=seen.path.tolist(), top=9, **more)


@pytest.mark.parametrize("fused", [False, True])
def test_hits_are_those_of_float64_over_everything(held, model, fused):
    made, everything = held
    query = asked(held)
    hits = ask(made, query, fused)
    check(hits, slow(everything, query, 9, model if fused else None))
    assert hits.by == ("+ ST" if fused else "appearance") and set(hits.candidates) == {len(everything)}
    assert ("ranked by appearance alone" in " ".join(hits.notes)) != fused


@pytest.mark.parametrize(("before", "after"), [(1800, None), (None, 3600), (600, 7200)])
def test_a_window_holds_only_what_was_seen_then(held, model, before, after):
    made, everything = held
    query = asked(held)
    time_s = query.sightings.time_s
    hits = ask(made, query, True, before_s=before, after_s=after)
    check(hits, slow(everything, query, 9, model, time_s - (before or 0), time_s + (after or 0)))
    low, high = time_s - (before or 0), time_s + (after or 0)
    inside = (everything.sightings.time_s >= low[:, None]) & (everything.sightings.time_s <= high[:, None])
    assert hits.candidates.tolist() == inside.sum(axis=1).tolist()


def test_any_executor_and_any_order_of_queries_give_the_same_hits(held):
    made, _ = held
    query = asked(held)
    alone = ask(made, query, True, after_s=7200)
    with ThreadPoolExecutor(2) as threads:
        assert ask(made, query, True, after_s=7200, executor=threads).columns == alone.columns
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert ask(made, query, True, after_s=7200, executor=processes).columns == alone.columns
    back = ask(made, query[::-1], True, after_s=7200)
    assert back.columns["distance"][:9] == alone.columns["distance"][-9:]


def test_half_precision_takes_half_and_finds_the_same(held, tmp_path):
    _, everything = held
    half = Gallery.create(tmp_path / "h", SOURCE, WIDTH, "float16")
    half.add(everything, SOURCE)
    query = asked(held)
    found, right = ask(half, query, False), slow(everything, query, 9)
    np.testing.assert_allclose(found.columns["distance"], [d for line in right for _, d in line], atol=2e-3)
    column = half.store.load(half.content.files[0])["embedding"]
    assert column.nbytes == 2 * WIDTH * len(column)


def test_memory_keeps_the_latest_files(held, monkeypatch):
    made, _ = held
    shards = searching.Shards()
    monkeypatch.setattr(searching, "HELD", shards)
    limited = Gallery.open(made.store.address, memory_limit=1)
    query = asked(held)
    assert ask(limited, query, False).columns == ask(made, query, False).columns
    monkeypatch.setattr(searching, "HELD", searching.Shards())
    ask(limited, query, False)
    assert len(searching.HELD._held) == 1


def test_probabilities_are_those_of_the_calibration(held):
    made, _ = held
    line = Calibration(network_of(SOURCE), (-1.0, 1.0), (-8.0, 8.0), None, None, 4.0, 9, True, "logistic")
    made.learn(calibration=line.content)
    query = asked(held)
    hits = ask(made, query, False, strangers=0.2)
    expected = line.probability(np.array(hits.columns["appearance"]), None, hits.candidates[0], 0.2)
    np.testing.assert_allclose(hits.columns["probability"], expected)
    assert (np.diff(np.array(hits.columns["probability"]).reshape(-1, 9), axis=1) <= 0).all()
    made.learn(calibration=replace(line, transit=(1.0, 1.0, 9.0)).content)
    hits = ask(made, query, True, strangers=0.2)
    here = np.array(hits.columns["camera"]) == query.sightings.camera_name[hits.columns["query"]]
    expected = line.probability(np.array(hits.columns["appearance"]), None, hits.candidates[0], 0.2)
    assert here.any() and not here.all(), "one camera and itself is no trip"
    here |= np.isnan(np.array(hits.columns["time_s"], dtype=np.float64))
    np.testing.assert_array_equal(np.isclose(hits.columns["probability"], expected), here)
    other = {**line.content, "network": {**line.network, "weights_sha256": "ef" * 32}}
    with pytest.raises(ValueError, match="cannot be compared"):
        made.learn(calibration=other)


@pytest.mark.parametrize(("given", "error", "words"), [
    ({"camera": ["gaet 3"], "time_s": [5.0]}, KeyError, "the gallery has no camera 'gaet 3' .did you mean 'gate 3'"),
    ({"after_s": 60}, ValueError, "not every query has a time"),
    ({"top": 0}, ValueError, "top is 0"),
    ({"strangers": 1.0}, ValueError, "strangers is 1.0"),
])  # fmt: skip
def test_what_cannot_be_searched_for_is_said(held, given, error, words):
    with pytest.raises(error, match=words):
        held[0].search(np.ones(WIDTH), **given)
    with pytest.raises(ValueError, match="have 3 numbers"):
        held[0].search(np.ones(3))


def test_windows_without_sightings(held):
    made, _ = held
    found = made.search(np.ones((2, WIDTH)), time_s=[1e6, 10.0], before_s=60, top=5)
    assert found.candidates[0] == 0 and 0 not in found.columns["query"]
    notes = " ".join(found.notes)
    assert "1 query has no sighting in its window" in notes or "2 queries have no sighting" in notes
    assert "the window of 1 query begins after the last sighting" in notes


def test_an_empty_gallery_finds_nothing(tmp_path):
    made = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    assert made.add(crops(0), SOURCE) == 0 and made.info()["images"] == 0
    assert len(made.search(np.ones(WIDTH))) == 0 and made.compact()["files"] == 0 and made.expire(0) == (0, 0)


def test_a_camera_without_distances_is_refused(held, model):
    made, _ = held
    with pytest.raises(KeyError, match="knows no camera 'gate 0'"):
        made.add(crops(5), SOURCE)


def check_against_pairs(held, tmp_path, query):
    """A gallery that is taught a model with relays ranks as the same model without them does."""
    _, everything = held
    made = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    made.add(everything, SOURCE)
    made.learn(build("likelihood").fit(traffic(0, 60), NAMED), WEIGHT)
    alone = build("likelihood", relays=0, pooling=False).fit(traffic(0, 60), NAMED)
    check(ask(made, query, True), slow(everything, query, 9, alone))


def test_relays_are_left_out_so_that_a_distance_is_that_of_its_pair(held, tmp_path):
    check_against_pairs(held, tmp_path, asked(held))


def test_a_partition_out_of_reach_of_the_law_is_searched(held, tmp_path):
    """A table of gaps has no column where all lie beyond the last that differs."""
    late = asked(held)
    late = Features(late.embedding, replace(late.sightings, time_s=late.sightings.time_s + 1e6))
    check_against_pairs(held, tmp_path, late)


def test_memory_forgets_what_was_compacted_or_expired(held, tmp_path, monkeypatch):
    shards = searching.Shards()
    monkeypatch.setattr(searching, "HELD", shards)
    monkeypatch.setattr("torchreid_dfrst.gallery.gallery.HELD", shards)
    made = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    for seed in (1, 2):
        made.add(street(seed, 20), SOURCE)
    reader = Gallery.open(tmp_path / "g")
    reader.search(np.ones(WIDTH))
    assert {key[1] for key in shards._held} == {file.path for file in made.content.files}
    for change in (made.compact, lambda: made.expire(7200)):
        change()
        reader.search(np.ones(WIDTH))
        assert {key[1] for key in shards._held} == {file.path for file in made.content.files}


def test_a_search_holds_no_more_files_than_its_limit(held, monkeypatch):
    made, _ = held
    query, most = asked(held), []
    expected = ask(made, query, True).columns
    whole = searching.search_partition

    def noted(task):
        most.append(sum(file.rows for file, _ in task.files) * (4 * WIDTH + searching.BESIDE))
        return whole(task)

    monkeypatch.setattr(searching, "search_partition", noted)
    monkeypatch.setattr(searching, "HELD", searching.Shards())
    size = max(file.rows for file in made.content.files) * (4 * WIDTH + searching.BESIDE)
    assert ask(Gallery.open(made.store.address, memory_limit=size), query, True).columns == expected
    assert max(most) <= size < sum(most)


@pytest.fixture
def calibrated(held, tmp_path, model):
    """A gallery of labelled vehicles whose probabilities are those of a real calibration."""
    train, test = street(11, 60), street(12, 40, hours=1)
    train = Features(train.embedding, replace(train.sightings, time_s=np.nan_to_num(train.sightings.time_s, nan=5.0)))
    fitted = calibration.fit(Extraction(train, train, traffic(0, 60), train, NAMED, SOURCE), model)
    made = Gallery.create(tmp_path / "c", SOURCE, WIDTH)
    made.learn(model, WEIGHT, fitted.content)
    return made, test[~np.isnan(test.sightings.time_s)], fitted


def test_a_false_match_rate_says_who_passes(calibrated):
    made, test, fitted = calibrated
    made.add(test, SOURCE)
    query = test[::9]
    hits = ask(made, query, True, false_match_rate=0.003)
    passes = np.array(hits.columns["passes"])
    assert 0 < passes.mean() < 1
    strict = ask(made, query, True, false_match_rate=0.001).columns["passes"]
    assert sum(strict) <= passes.sum() and set(ask(made, query, True).columns["passes"]) == {None}
    two = query.sightings.identity[:, None] != test.sightings.identity
    x, y = (normalise(part.embedding) for part in (query, test))
    appearance = np.linalg.norm(x[:, None].astype(float) - y, axis=2)
    rate = (fitted.evidence(appearance)[0] >= fitted.threshold(0.03, False))[two].mean()
    assert 0.015 < rate < 0.06, "on vehicles that it was not fitted on"
    with pytest.raises(ValueError, match=r"a false-match rate of 1e-09: this calibration knows .* to 0\.1"):
        ask(made, query, True, false_match_rate=1e-9)
    with pytest.raises(ValueError, match="needs a calibration"):
        Gallery.create("memory://rates/g", SOURCE, WIDTH).search(np.ones(WIDTH), false_match_rate=0.1)


def test_hits_are_joined_into_trips(calibrated):
    made, test, _ = calibrated
    made.add(test, SOURCE)
    query = test[::5]
    hits = made.search(
        query.embedding, query.sightings.camera_name.tolist(), query.sightings.time_s,
        path=query.sightings.path.tolist(), top=20,
    ).columns  # fmt: skip
    who = dict(zip(test.sightings.path.tolist(), test.sightings.identity.tolist(), strict=True))
    own = [query.sightings.identity[q] == who[path] for q, path in zip(hits["query"], hits["path"], strict=True)]
    own, first = np.array(own), np.array(hits["trip"]) == 0
    assert own[first].mean() > 0.7 > 3 * own[~first].mean(), "trip 0 is the query's vehicle"
    for row in range(len(query)):
        numbers = [trip for q, trip in zip(hits["query"], hits["trip"], strict=True) if q == row and trip > 0]
        assert list(dict.fromkeys(numbers)) == [*range(1, len(set(numbers)) + 1)], "numbered by their first hits"


def test_new_matches_come_as_crops_arrive(calibrated, monkeypatch):
    made, test, _ = calibrated
    seen = test.sightings
    one = int(np.flatnonzero(np.bincount(seen.identity)[seen.identity] > 4)[0])
    order = np.argsort(seen.time_s)
    parts = iter([order[k::4] for k in range(4)])
    made.add(test[next(parts)], SOURCE)
    given, number, sleep = [], made.content.number, time.sleep

    def arrive(seconds):
        if (part := next(parts, None)) is not None:
            Gallery.open(made.store.address).add(test[part], SOURCE)
        sleep(seconds)

    monkeypatch.setattr("torchreid_dfrst.gallery.watching.time.sleep", arrive)
    options = {"path": [seen.path[one]], "top": 500, "every_s": 0.01, "patience_s": 0.05}
    for hits in watch(made, test.embedding[[one]], [seen.camera_name[one]], [seen.time_s[one]], least=0.2, **options):
        held = {path for file in made.content.files for path in made.store.load(file, ("path",))["path"].to_pylist()}
        assert set(hits.columns["path"]) <= held and min(hits.columns["probability"]) >= 0.2
        given.append(hits.columns["path"])
    every = [path for some in given for path in some]
    assert len(every) == len(set(every)) > 0 and len(given) > 1 and made.content.number == number + 3
    with pytest.raises(ValueError, match="least probability needs a calibration"):
        next(watch(Gallery.create("memory://watch/g", SOURCE, WIDTH), np.ones(WIDTH), least=0.5))


def test_a_dask_cluster_of_two_gives_the_same_hits(held):
    distributed = pytest.importorskip("distributed", reason="Dask is an optional package")
    made, _ = held
    query = asked(held)
    alone = ask(made, query, True, after_s=7200)
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        far = ask(made, query, True, after_s=7200, executor=client.get_executor())
        workers = client.run(lambda: len(searching.HELD._held))
    assert far.columns == alone.columns, "to the last place"
    assert len(workers) == 2 and sum(workers.values()) > 0, "the files were read over there"


def test_tracks_of_two_additions_are_not_one(tmp_path):
    gallery = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    for seed in (0, 1):
        more = crops(4, seed, time_s=np.arange(4.0) + 60 * seed, names=f"{seed}-")
        gallery.add(replace(more, sightings=replace(more.sightings, track=np.array([7, 7, 7, -1]))), SOURCE)
    track = extraction(gallery).gallery.sightings.track
    assert track[0] == track[1] == track[2] != track[4] == track[5] == track[6] and track[3] == track[7] == -1


def test_queries_come_one_by_one_and_dates_are_dates(tmp_path):
    gallery = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    gallery.add(crops(3, time_s=np.array([0.0, 10.0, 5000.0])), SOURCE)
    query = crops(2).embedding
    for given in ({"camera": "south"}, {"camera": ["gate 0"]}, {"time_s": [1.0, 2.0, 3.0]}):
        with pytest.raises(ValueError, match="one for each of the 2 queries is needed"):
            gallery.search(query, **given)
    dates = np.array([0, 5_000_000], dtype="datetime64[ms]")
    found = gallery.search(query, time_s=dates, before_s=60, after_s=60)
    assert np.asarray(found.candidates).tolist() == [2, 1]


def test_a_time_that_is_none_is_refused_before_anything_is_written(tmp_path):
    gallery = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    with pytest.raises(ValueError, match=r"crop-1\.jpg: the time 1.8e\+12 s is no time .* not milliseconds"):
        gallery.add(crops(2, time_s=np.array([0.0, 1.8e12])), SOURCE)
    assert len(gallery) == 0


def test_a_query_does_not_find_its_own_copy_in_another_folder(tmp_path):
    gallery, held = Gallery.create(tmp_path / "g", SOURCE, WIDTH), crops(6, time_s=np.arange(6.0), names="image_test/")
    gallery.add(held, SOURCE)
    camera = held.sightings.camera_name.tolist()
    asked = {"camera": camera, "time_s": held.sightings.time_s, "top": 1}
    hits = gallery.search(held.embedding, path=[f"/abs/image_query/{k}.jpg" for k in range(6)], **asked)
    assert all(hits.columns["path"][k] != f"image_test/{k}.jpg" for k in range(6))
    hits = gallery.search(held.embedding, path=[f"other/{k + 9}.jpg" for k in range(6)], **asked)
    assert [hits.columns["path"][k] for k in range(6)] == [f"image_test/{k}.jpg" for k in range(6)]


def test_a_vehicle_is_deleted_by_its_name_as_written(tmp_path):
    gallery, held = (
        Gallery.create(tmp_path / "g", SOURCE, WIDTH),
        crops(4, time_s=np.arange(4.0), identity=[2, 2, 3, 3]),
    )
    named = np.array([f"{vehicle:04d}" for vehicle in held.sightings.identity])
    gallery.add(replace(held, sightings=replace(held.sightings, vehicle_name=named)), SOURCE)
    assert gallery.delete(identity="0002") == 2 and gallery.info()["images"] == 2
