import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from torchreid_dfrst import evaluation, retrieval, spatiotemporal
from torchreid_dfrst.evaluation import scoring
from torchreid_dfrst.evaluation.nearest import rank
from torchreid_dfrst.evaluation.weight import choose_weight
from torchreid_dfrst.retrieval import Extraction, Features, Parameters, Reranking
from torchreid_dfrst.sightings import CameraNetwork, Sightings

NETWORK = CameraNetwork(np.arange(4), 400.0 * abs(np.subtract.outer(np.arange(4), np.arange(4))))


def drive(vehicles, rng):
    """Every vehicle passes the four cameras in order at about 10 m/s."""
    camera = np.tile(np.arange(4), len(vehicles))
    start = np.repeat(rng.uniform(0, 4000, len(vehicles)), 4)
    time = start + camera * 40 * rng.lognormal(0, 0.2, len(camera))
    names = np.array([f"{v}_{c}" for v, c in zip(np.repeat(vehicles, 4), camera, strict=True)])
    return Sightings(camera, time, np.repeat(vehicles, 4), path=names)


@pytest.fixture(scope="module")
def extraction():
    rng = np.random.default_rng(3)
    train, test = drive(np.arange(100, 140), rng), drive(np.arange(30), rng)
    looks = rng.normal(size=(30, 16))[test.identity] + 1.6 * rng.normal(size=(len(test), 16))
    gallery = Features(looks.astype(np.float32), test)
    return Extraction(gallery[np.arange(0, len(test), 3)], gallery, train, network=NETWORK, source={"data": "toy"})


def distances(extraction, model, weight, **rerank):
    """The whole distances of every row."""
    parameters = dict(memory_limit=None, device="auto", **asdict(Parameters(**rerank)))
    found = evaluation.rankings(extraction.query, extraction.gallery, model, weight, parameters)
    return {row: np.concatenate(list(blocks)) for row, blocks, _ in found}


def test_four_rows_each_of_its_own_distance(extraction):
    result = evaluation.score(extraction, {"weight": 0.3}, {"k1": 6, "k2": 3})
    assert tuple(result.metrics) == evaluation.ROWS
    found = distances(extraction, result.transit, 0.3, k1=6, k2=3)
    assert tuple(found) == evaluation.ROWS
    for row, distance in found.items():
        whole = result.protocol.score(distance, *result.pairs[0])
        np.testing.assert_array_equal(result.metrics[row].average_precision, whole.average_precision)
    query, gallery = (retrieval.normalise(p.embedding) for p in (extraction.query, extraction.gallery))
    appearance = np.sqrt(((query[:, None] - gallery) ** 2).sum(axis=2))
    model = spatiotemporal.build("lognormal").fit(extraction.train, NETWORK)
    transit = model.distance(extraction.query.sightings, extraction.gallery.sightings)
    np.testing.assert_allclose(found["appearance"], appearance, atol=1e-3)
    np.testing.assert_allclose(found["+ ST"], appearance + 0.3 * transit, atol=1e-3)
    everyone = Sightings.concatenate([extraction.query.sightings, extraction.gallery.sightings])
    both = retrieval.rerank(query, gallery, transit=model.transit(everyone, everyone), weight=0.3, k1=6, k2=3)
    np.testing.assert_array_equal(found["+ ST + re-ranking"], both)
    np.testing.assert_array_equal(found["+ re-ranking"], retrieval.rerank(query, gallery, k1=6, k2=3))
    assert result.metrics["+ ST"].mAP > result.metrics["appearance"].mAP + 0.05, "time tells these vehicles apart"


def test_weight_zero_is_appearance_alone(extraction):
    model = spatiotemporal.build("lognormal").fit(extraction.train, NETWORK)
    found = distances(extraction, model, 0.0, k1=6, k2=3)
    np.testing.assert_array_equal(found["+ ST"], found["appearance"])
    np.testing.assert_array_equal(found["+ ST + re-ranking"], found["+ re-ranking"])


@pytest.mark.parametrize(
    ("spacetime", "rerank", "message"),
    [
        ({"weight": -1}, {}, r"^spacetime\.weight is -1"),
        ({}, {"k1": 0}, r"^rerank\.k1 is 0: 1 or more"),
        ({}, {"k1": 10_000}, r"^rerank\.k1 is 10000 with"),
        ({}, {"lambda_value": 2}, r"^rerank\.lambda_value is 2"),
        ({"model": "transition", "options": {"floor_s": -1}}, {}, r"^spacetime\.options\.floor_s is -1"),
        ({}, {"memory_limit": 0}, r"limit of 0 bytes is too small"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_its_section(extraction, spacetime, rerank, message):
    with pytest.raises(ValueError, match=message):
        evaluation.score(extraction, spacetime, {"k1": 6, "k2": 3, **rerank})


@pytest.mark.parametrize(
    ("section", "wrong", "message"),
    [
        ("evaluate", {"at": "10"}, "evaluate.at is '10', expected a whole number or null"),
        ("evaluate", {"draws": 2.5}, "evaluate.draws is 2.5"),
        ("evaluate", {"average_precision": None}, "evaluate.average_precision is None, expected text"),
        ("evaluate", {"rerank": "no"}, "evaluate.rerank is 'no', expected true or false"),
        ("evaluate", {"protocol": ["no-junk"]}, "evaluate.protocol is "),
        ("evaluate", {"att": 10}, "unknown key 'att' in section 'evaluate'"),
        ("evaluate", ["at"], "section 'evaluate' is "),
        ("rerank", {"k1": "20"}, "rerank.k1 is '20', expected a whole number"),
        ("rerank", {"memory_limit": "1 GB"}, "rerank.memory_limit is '1 GB'"),
        ("spacetime", {"weight": [0.2]}, "spacetime.weight is "),
        ("spacetime", {"options": "relays"}, "spacetime.options is 'relays', expected names and values"),
        ("spacetime", {"memory_limit": 10**9}, "unknown key 'memory_limit' in section 'spacetime'"),
    ],
)
@pytest.mark.parametrize("use", [evaluation.score, rank])
def test_a_value_of_another_type_is_refused_in_one_line(extraction, use, section, wrong, message):
    with pytest.raises((ValueError, KeyError), match=re.escape(message)):
        use(extraction, **{section: wrong})


def test_other_times_than_those_of_training_are_told_of_with_the_file(extraction, tmp_path, caplog):
    late = replace(extraction.gallery.sightings, time_s=extraction.gallery.sightings.time_s * 3)
    wrong = replace(extraction, gallery=Features(extraction.gallery.embedding, late), query=Features(
        extraction.query.embedding, late[np.arange(0, len(late), 3)]
    ))  # fmt: skip
    wrong.save(tmp_path / "f.npz")
    evaluation.score(Extraction.load(tmp_path / "f.npz"), None, None, {"rerank": False})
    assert f"the times of query and gallery of toy in {tmp_path}/f.npz do not fit" in caplog.text
    assert re.search(r"cameras are (2\.9|3\.?\d?) times those of training", caplog.text)


def test_a_card_of_numpys_numbers_can_be_written(extraction, tmp_path):
    result = evaluation.score(extraction, {"weight": np.float32(0.5)}, {"k1": np.int64(6), "k2": 3}, {"at": np.int8(5)})
    evaluation.card(result, extraction, "x").save(tmp_path / "card.json")
    assert json.loads((tmp_path / "card.json").read_text())["choices"]["spacetime"]["weight"] == 0.5


def test_without_a_model_there_are_two_rows(extraction):
    bare = Extraction(extraction.query, extraction.gallery)
    result = evaluation.score(bare, {"model": None}, {"k1": 6, "k2": 3})
    assert list(result.metrics) == ["appearance", "+ re-ranking"] and result.choices["spacetime"] is None


def test_re_ranking_can_be_left_out(extraction):
    result = evaluation.score(extraction, {"weight": 0.3}, {"k1": 6, "k2": 3}, {"rerank": False})
    assert list(result.metrics) == ["appearance", "+ ST"] and result.choices["rerank"] is None
    alone = evaluation.score(extraction, {"model": None}, None, {"rerank": False})
    card = evaluation.card(alone, extraction, "x")
    assert list(card.content["rows"]) == ["appearance"] and "no ST; no re-ranking" in card.table()


def without_times(part):
    return Features(part.embedding, Sightings(part.sightings.camera, identity=part.sightings.identity))


@pytest.mark.parametrize("lost", ["train", "network", "times"])
def test_space_and_time_without_what_they_need_is_an_error(extraction, lost):
    given = dict(query=extraction.query, gallery=extraction.gallery, train=extraction.train, network=NETWORK)
    if lost == "times":
        given["query"] = without_times(extraction.query)
    else:
        given[lost] = None
    with pytest.raises(ValueError, match=r"space and time were asked for.*spacetime\.model null"):
        evaluation.score(Extraction(**given, source={"data": "toy"}))


def test_a_model_that_was_fitted_before_needs_no_training_sightings(extraction, tmp_path):
    file = str(tmp_path / "provid.json")
    spatiotemporal.build("provid").fit(extraction.train, NETWORK).save(file)
    alone = replace(extraction, train=None)
    there = evaluation.score(alone, {"fitted": Path(file)})
    again = evaluation.score(extraction, {"model": "provid"})
    assert there.transit.name == "provid" and there.choices["spacetime"]["fitted"] == file
    assert np.array_equal(there.best["+ ST"].distance, again.best["+ ST"].distance)
    assert evaluation.score(alone, {"model": None, "fitted": file}).transit is None
    for wrong, message in (
        ({"model": "likelihood", "fitted": file}, "'likelihood', but .*provid.json holds a fitted provid"),
        ({"options": {"scale": 2}, "fitted": file}, r"options go with .*provid\.json has its own"),
        ({"weight": "auto", "fitted": file}, "no features of training images"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.score(alone, wrong)
    with pytest.raises(FileNotFoundError, match="no space-time model at"):
        evaluation.score(alone, {"fitted": file + "x"})
    with pytest.raises(ValueError, match="without road distances"):
        evaluation.score(replace(alone, network=None), {"fitted": file})


def test_the_card_has_every_choice_and_is_json(extraction):
    result = evaluation.score(extraction, {"weight": 0.3}, {"k1": 6, "k2": 3}, {"average_precision": "trapezoid"})
    made = evaluation.card(result, extraction, "evaluate.py x.npz")
    card = json.loads(json.dumps(made.content))
    assert list(card["rows"]) == list(evaluation.ROWS)
    assert card["rows"]["appearance"]["mAP"] == pytest.approx(100 * result.metrics["appearance"].mAP, abs=1e-4)
    assert card["choices"]["spacetime"]["weight"] == 0.3 and card["choices"]["spacetime"]["model"] == "lognormal"
    assert card["choices"]["spacetime"]["weight_from"] == "given"
    assert card["choices"]["rerank"]["k1"] == 6 and card["choices"]["rerank"]["lambda_value"] == 0.3
    assert card["protocol"]["average_precision"] == "trapezoid"
    assert card["queries"]["used"] == len(extraction.query) and card["gallery"] == len(extraction.gallery)
    assert "+ ST + re-ranking" in made.table()
    model = result.transit.transit(*[Sightings.concatenate([*result.pairs[0]])] * 2)
    looks = [retrieval.normalise(part.embedding) for part in (extraction.query, extraction.gallery)]
    for row, fused in (("+ re-ranking", ()), ("+ ST + re-ranking", (model, 0.3))):
        job = Reranking(*looks, Parameters(6, 3), *fused)
        assert len(job.near.near_ties) > len(job.cuts) > 0, "queries are gallery images, and tie with themselves"
        assert card["neighbours"][row] == {
            "method": job.near.method,
            "near_ties": len(job.near.near_ties),
            "near_ties_at_the_end": len(job.cuts),
            "measured_whole": job.near.fallbacks,
        }
    used = made.table().splitlines()[-1]
    assert used == "network: not named; ST: lognormal, omega 0.3 (given); re-ranking: k1 6, k2 3, lambda 0.3"


@pytest.mark.parametrize(
    ("network", "named_as"),
    [
        ("osnet", "osnet"),
        ({"name": "osnet", "pretrained": False}, "osnet"),
        ({"name": "dfrst", "backbone": "resnet18"}, "dfrst on resnet18"),
    ],
)
def test_the_table_names_the_network(extraction, network, named_as):
    named = replace(extraction, source={"data": "toy", "network": network})
    result = evaluation.score(named, None, {"k1": 6, "k2": 3})
    assert (
        evaluation.card(result, named, "x")
        .table()
        .splitlines()[-1]
        .startswith(f"network: {named_as}; ST: lognormal, omega 0.2 (the paper); ")
    )


MEASURE = """
import ctypes, gc, sys
import numpy as np
from torchreid_dfrst import evaluation
from tests.evaluation.test_scoring import NETWORK, drive
from tools.studies.benchmarks.parts import status
from torchreid_dfrst.retrieval import Extraction, Features

rng = np.random.default_rng(0)
test = drive(np.arange(2000), rng)
looks = rng.normal(size=(2000, 16))[test.identity] + rng.normal(size=(8000, 16))
gallery, train = Features(looks.astype(np.float32), test), drive(np.arange(2000, 2100), rng)
given = Extraction(gallery[np.arange(0, 8000, 3)], gallery, train, network=NETWORK)
options = {"memory_limit": int(sys.argv[1]), "device": "cpu"}
for rows in (False, True):
    for _ in range(2):  # the second time, all code is loaded
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        base = status("VmRSS")
        evaluation.score(given, None, options, {"rerank": rows})
    print(rows, status("VmHWM") - base)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux records of a process's memory")
def test_the_limit_of_memory_bounds_every_row():
    limit = 40_000_000
    assert 4 * 2667 * 8000 > 2 * limit, "one row's distances would not fit"
    # two threads that wait for each other after each small tile take minutes where other processes work
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MEASURE, str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=alone)
    assert done.returncode == 0, done.stderr
    peaks = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    # what is not counted: the normalised features, and the lists in the result
    beside = 4 * 16 * (2667 + 8000) + len(evaluation.ROWS) * 2667 * evaluation.TOP * 16
    assert set(peaks) == {"False", "True"} and max(peaks.values()) <= limit + beside, peaks


def test_a_limit_of_memory_changes_no_score(extraction, monkeypatch):
    whole = evaluation.score(extraction, {"weight": 0.3}, {"k1": 6, "k2": 3})
    monkeypatch.setattr(scoring, "HELD", 0)
    for limit in (None, 1_000_000):
        blocks = evaluation.score(extraction, {"weight": 0.3}, {"k1": 6, "k2": 3, "memory_limit": limit})
        for row, metrics in whole.metrics.items():
            np.testing.assert_array_equal(blocks.metrics[row].average_precision, metrics.average_precision)
            np.testing.assert_array_equal(blocks.best[row].index, whole.best[row].index)
    with pytest.raises(ValueError, match="a memory limit of 1000 bytes is too small for the distances of single"):
        evaluation.score(extraction, None, {"k1": 6, "k2": 3, "memory_limit": 1000}, {"rerank": False})


def test_the_log_says_which_definition_was_used_and_what_can_change_it(extraction, caplog):
    caplog.set_level(logging.INFO)
    result = evaluation.score(extraction, None, {"k1": 6, "k2": 3, "definition": "transreid"})
    for row in result.neighbours.values():
        ties = f"{row[0]['near_ties_at_the_end']} near-ties lie at the end of a list"
        assert f"re-ranking by the definition of transreid, {row[0]['method']}: {ties}" in caplog.text


def test_best_matches_leave_junk_out(extraction):
    result = evaluation.score(extraction, None, {"k1": 6, "k2": 3})
    index, distance = result.best["appearance"].index, result.best["appearance"].distance
    query, gallery = extraction.query.sightings, extraction.gallery.sightings
    junk = (gallery.identity[index] == query.identity[:, None]) & (gallery.camera[index] == query.camera[:, None])
    assert not junk.any() and (np.diff(distance, axis=1) >= 0).all()
    for row, metrics in result.metrics.items():
        np.testing.assert_array_equal(result.best[row].rank, metrics.first_match)


def test_a_protocol_that_draws_is_scored_draw_by_draw(extraction):
    result = evaluation.score(extraction, {"model": None}, {"k1": 6, "k2": 3}, {"protocol": "vehicleid", "draws": 3})
    assert [len(draws) for draws in result.draws.values()] == [3, 3]
    assert len(result.ranked.gallery) == 30 and result.best["appearance"].index.shape == (130, 10)
    for (query, gallery), metrics in zip(result.pairs, result.draws["appearance"], strict=True):
        assert (metrics.used, len(gallery)) == (len(query), 30)
    card = evaluation.card(result, extraction, "x").content
    met, draws = card["neighbours"]["+ re-ranking"], result.neighbours["+ re-ranking"]
    assert len(draws) == 3 and met["near_ties"] == sum(each["near_ties"] for each in draws)
    assert card["protocol"]["draws"] == 3 and card["rows"]["appearance"]["deviation"]["mAP"] > 0


def test_the_protocol_of_the_data_set_is_the_default(extraction):
    named = Extraction(extraction.query, extraction.gallery, source={"data": "vehicleid"})
    assert evaluation.score(named, {"model": None}, {"k1": 6, "k2": 3}).protocol.name == "vehicleid"
    assert evaluation.score(extraction, {"model": None}, {"k1": 6, "k2": 3}).protocol.name == "image-to-image"
    own = replace(named, source={"data": "mine", "protocol": "veriwild-without-removal"})
    without = {"rerank": False}
    assert evaluation.score(own, {"model": None}, None, without).protocol.name == "veriwild-without-removal"
    asked = {**without, "protocol": "image-to-image"}
    assert evaluation.score(own, {"model": None}, None, asked).protocol.name == "image-to-image"


def test_tracks_are_ranked_in_all_rows(extraction):
    result = evaluation.score(tracked(extraction), None, {"k1": 6, "k2": 3}, {"protocol": "image-to-track-mean"})
    assert list(result.draws) == list(evaluation.ROWS)
    assert len(result.pairs[0][1]) == 60 and result.best["+ ST"].index.max() < 60


def tracked(extraction):
    """Two gallery images to a track would need two by one camera: here each is given a near copy."""
    one = extraction.gallery[np.arange(60)]
    rng = np.random.default_rng(0)
    copy = Features(one.embedding + 0.1 * rng.normal(size=one.embedding.shape).astype(np.float32), one.sightings)
    track = replace(one.sightings, track=np.arange(60))
    gallery = Features(np.concatenate([one.embedding, copy.embedding]), Sightings.concatenate([track, track]))
    return replace(extraction, gallery=gallery)


def test_the_weight_can_be_chosen_on_training_vehicles(extraction):
    rng = np.random.default_rng(5)
    looks = rng.normal(size=(40, 16))[extraction.train.identity - 100] + 1.6 * rng.normal(size=(160, 16))
    known = Features(looks.astype(np.float32), extraction.train)
    with_train = replace(extraction, train_features=known)
    result = evaluation.score(with_train, {"weight": "auto"}, {"k1": 6, "k2": 3})
    model = spatiotemporal.build("lognormal")
    expected = choose_weight(model, extraction.train, known, NETWORK)
    assert result.choices["spacetime"]["weight"] == expected.value > 0
    assert f"omega {expected.value:.4g} (chosen by map)" in evaluation.card(result, with_train, "x").table()
    assert result.choices["spacetime"]["weight_from"] == {**asdict(expected), "network": None}
    assert evaluation.transit_weight(with_train, model, "calibrated")[1]["method"] == "calibrated"


@pytest.mark.parametrize(("known", "warned"), [("held out", False), ("trained on", True), (None, True)])
def test_a_weight_chosen_on_vehicles_the_network_knows_comes_with_a_warning(extraction, caplog, known, warned):
    looks = np.random.default_rng(5).normal(size=(40, 16))[extraction.train.identity - 100]
    seen = Features(looks.astype(np.float32), extraction.train)
    made = replace(extraction, train_features=seen, source={**extraction.source, "train_features": known})
    _, reason = evaluation.transit_weight(made, spatiotemporal.build("provid"), "auto")
    assert reason["network"] == known and ("validation_identities" in caplog.text) == warned


@pytest.mark.parametrize("weight, message", [("auto", "extract with --train"), ("best", "'best': a number, or auto")])
def test_a_weight_that_cannot_be_had_is_an_error(extraction, weight, message):
    with pytest.raises(ValueError, match=message):
        evaluation.score(extraction, {"weight": weight})


@pytest.mark.parametrize("name", spatiotemporal.MODELS)
def test_every_model_goes_through_all_four_rows(extraction, name):
    result = evaluation.score(extraction, {"model": name}, {"k1": 6, "k2": 3})
    assert list(result.metrics) == list(evaluation.ROWS)
