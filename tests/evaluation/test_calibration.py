"""Probabilities and refusals: right on vehicles that nobody has seen, and refused where they would say nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst import evaluation
from torchreid_dfrst.evaluation import calibration, openset
from torchreid_dfrst.evaluation.calibration import Calibration
from torchreid_dfrst.retrieval import Extraction, Features, normalise
from torchreid_dfrst.retrieval.logistic import logistic, sigmoid
from torchreid_dfrst.spatiotemporal import build

SOURCE = {"network": "drawn", "weights_sha256": "12" * 32, "input": [64, 64], "train_features": "held out"}


def street(seed, vehicles=60, noise=1.3, first=0):
    seen = traffic(seed, vehicles, first=first)
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(first + vehicles, 24))
    embedding = centre[seen.identity] + noise * rng.normal(size=(len(seen), 24))
    path = np.array([f"{seed}-{k}.jpg" for k in range(len(seen))])
    return Features(embedding, replace(seen, path=path))


@pytest.fixture(scope="module")
def world():
    train, test = street(0, 90), street(1, 80, first=500)
    query = test[::4]
    return Extraction(query, test, train.sightings, train, road(), SOURCE)


@pytest.fixture(scope="module")
def fitted(world):
    return evaluation.calibrate(world, build("likelihood").fit(world.train, road()))


def test_probabilities_hold_for_new_vehicles(world, fitted):
    model = build("likelihood").fit(world.train, road())
    assert fitted.transit is not None and fitted.held_out and fitted.vehicles == 90
    assert fitted.spacetime["options"]["relays"] == 0, "they depend on the rest of the gallery"
    for chosen, trips in ((fitted, model), (evaluation.calibrate(world, None), None)):
        found = openset.measure(chosen, world.query, world.gallery, trips)
        assert found["pairs_ece"]["value"] <= 0.05
        low, high = found["pairs_ece"]["interval"]
        assert low < high and found["vehicles"] == len(np.unique(world.query.sightings.identity))
        shares = [(row["probability"], row["share"]) for row in found["reliability"]]
        assert len(shares) > 6 and shares == sorted(shares)
    wrong = replace(fitted, nats=tuple(4 * np.array(fitted.nats)))
    assert openset.measure(wrong, world.query, world.gallery)["pairs_ece"]["value"] > 0.05, "too sure is seen"


def slow(chosen, query, gallery, strangers, seed):
    """The definitions, pair by pair, by appearance alone."""
    vehicles = np.unique(query.sightings.identity)
    drawn = np.random.default_rng(seed).permutation(vehicles[np.isin(vehicles, gallery.sightings.identity)])
    absent = set(drawn[: round(strangers * len(drawn))].tolist())
    x, y = (normalise(part.embedding).astype(np.float64) for part in (query, gallery))
    top, right, gone, one, two, candidates = [], [], [], [], [], []
    for i, (who, camera) in enumerate(zip(query.sightings.identity, query.sightings.camera, strict=True)):
        best, count = (-np.inf, False), 0
        for j, (other, place) in enumerate(zip(gallery.sightings.identity, gallery.sightings.camera, strict=True)):
            if who == other and camera == place:
                continue
            nats = float(chosen.evidence(np.linalg.norm(x[i] - y[j]))[0])
            (one if who == other else two).append(nats)
            if other not in absent:
                best, count = max(best, (nats, bool(who == other))), count + 1
        top.append(best[0])
        right.append(best[1])
        gone.append(who in absent)
        candidates.append(count)
    return (np.array(v) for v in (top, right, gone, one, two, candidates))


def test_measures_are_those_of_the_definition(world):
    chosen = evaluation.calibrate(world, None)
    query, gallery = world.query[:60], world.gallery[:200]
    query = query[np.isin(query.sightings.identity, gallery.sightings.identity[:150])]
    found = openset.measure(chosen, query, gallery, strangers=0.4, seed=3)
    top, right, gone, one, two, candidates = slow(chosen, query, gallery, 0.4, 3)
    assert found["strangers"]["queries"] == gone.sum() > 5
    threshold = np.sort(top[gone])[::-1][int(0.1 * gone.sum())]
    expected = (right & (top > threshold))[~gone].mean()
    assert found["TPIR"]["at FPIR 0.1"]["value"] == pytest.approx(expected, abs=1e-4) and 0 < expected < 1
    assert found["TPIR"]["at FPIR 0.01"] is None, "so few strangers say nothing about one in a hundred"
    limit = found["FNMR"]["at FMR 0.01"]["threshold"]
    assert (two >= limit - 0.011).mean() >= 0.01 - 1e-9 >= (two >= limit + 0.011).mean() - 2 / len(two)
    assert found["FNMR"]["at FMR 0.01"]["value"] == pytest.approx((one < limit).mean(), abs=0.02)
    sure = sigmoid(top + chosen.prior(candidates, gone.mean()))
    answered, good = sure >= 0.5, (sure >= 0.5) & right & ~gone
    expected = 2 * good.sum() / (2 * good.sum() + (answered & ~good).sum() + (~answered & ~gone).sum())
    assert found["F1"]["value"] == pytest.approx(expected, abs=1e-4)
    assert found["TNR"]["value"] == pytest.approx((~answered)[gone].mean(), abs=1e-4)


def test_a_fifth_without_a_match_is_measured_on_the_card_case_18(world, tmp_path):
    other = world.query.sightings.identity.copy()
    other[other % 5 == 0] += 10_000
    query = Features(world.query.embedding, replace(world.query.sightings, identity=other))
    asked = replace(world, query=query)
    result = evaluation.score(asked, {"model": None}, evaluate={"rerank": False})
    chosen = evaluation.calibrate(asked, None)
    card = evaluation.card(result, asked, "x", evaluation.open_set(chosen, result))
    card.save(tmp_path / "card.json")
    held = type(card).load(tmp_path / "card.json")
    assert held.content["calibration"]["strangers"]["queries"] > (other >= 10_000).sum()
    assert "TNR" in held.table() and "calibration error" in held.table()


def test_a_calibration_is_kept_and_refused_for_another_network(fitted, tmp_path):
    fitted.save(tmp_path / "c.json")
    held = Calibration.load(tmp_path / "c.json")
    distance = np.linspace(0, 2, 9)
    np.testing.assert_array_equal(held.evidence(distance)[0], fitted.evidence(distance)[0])
    held.require(SOURCE)
    for change in ({"weights_sha256": "34" * 32}, {"input": [96, 96]}):
        with pytest.raises(ValueError, match=r"of the network drawn .*: make one with that network"):
            held.require({**SOURCE, **change})
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match="no calibration of this version"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match="dfrst evaluate"):
        Calibration.load(tmp_path / "none.json")
    content = {name: value for name, value in fitted.content.items() if name != "false_matches"}
    assert Calibration.of(content).false_matches == (), "what has a default may be left out"
    with pytest.raises(ValueError, match=r"what the gallery keeps is no calibration of this version.*gallery fit"):
        Calibration.of({**content, "version": 1})


def test_the_better_shape_is_taken():
    rng = np.random.default_rng(0)
    same = rng.random(20_000) < 0.5
    fold = rng.integers(0, 4, 20_000)
    straight = np.where(same, rng.normal(0.3, 0.2, 20_000), rng.normal(-0.1, 0.2, 20_000)).clip(-1, 1)
    # twins: above a cosine the evidence no longer rises
    bent = np.where(
        same, rng.uniform(0, 1, 20_000), np.where(rng.random(20_000) < 0.7, -0.5, rng.uniform(0, 1, 20_000))
    )
    assert calibration._curve_of_appearance(straight, same, fold)[0] == "logistic"
    shape, knots, nats = calibration._curve_of_appearance(bent, same, fold)
    assert shape == "isotonic" and (np.diff(nats) >= 0).all() and (np.diff(knots) > 0).all()


def test_what_both_evidences_say_is_not_counted_twice(world, monkeypatch):
    """Space and time that repeat what appearance says, with noise, add little to it."""
    rng = np.random.default_rng(2)
    same = np.arange(40_000) % 2 == 0
    cosine = rng.normal(np.where(same, 0.3, -0.1), 0.2).clip(-1, 1)
    transit = rng.normal(-cosine, 0.02)
    drawn = [(cosine, transit, same, np.arange(len(same)) % 3)]
    monkeypatch.setattr(calibration, "_pairs_to_calibrate_on", lambda *_: (drawn, 1.0))
    made = calibration.fit(world, build("likelihood"))
    look, more = made.evidence(np.sqrt(2 - 2 * cosine), transit)
    assert np.abs(more).mean() < 0.1 * np.abs(look).mean()
    assert made.evidence(np.array([1.0]), np.array([np.nan]))[1] == 0, "an unknown trip adds nothing"


def test_logistic_finds_the_ratio_of_two_normal_laws():
    rng = np.random.default_rng(1)
    same = np.arange(200_000) < 40_000
    value = rng.normal(np.where(same, 1.0, 0.0), 1.0)
    bias, slope = logistic(value[:, None], same.astype(float))
    assert (bias, slope) == pytest.approx((-0.5, 1.0), abs=0.02), (
        "ln N(x; 1) - ln N(x; 0) = x - 1/2, whatever the shares"
    )


def test_prior_odds_fall_with_candidates_and_strangers(fitted):
    alone = replace(fitted, matches=4.0)
    assert sigmoid(alone.prior(1, 0.5)) == pytest.approx(0.5)
    assert sigmoid(alone.prior(400, 0.5)) == pytest.approx(0.005)
    assert alone.prior(400, 0.9) < alone.prior(400, 0.1) < alone.prior(40, 0.1)
    with pytest.raises(ValueError, match="strangers is 1"):
        alone.prior(3, 1)


def test_few_vehicles_are_no_calibration(world):
    few = street(5, 5)
    assert evaluation.calibrate(replace(world, train_features=few, train=few.sightings), None) is None
    assert evaluation.calibrate(replace(world, train_features=None), None) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: "[" * 100_000, "recursion"),
        (lambda content: "[1]", "holds list where names and values are"),
        (lambda content: json.dumps({**content, "cosine": "abc"}), "cosine is 'abc', expected a list"),
        (lambda content: json.dumps({**content, "matches": None}), "matches is None, expected a number"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(change, said, fitted, tmp_path):
    (tmp_path / "c.json").write_text(change(fitted.content))
    with pytest.raises(ValueError, match=rf"c\.json.*{said}"):
        Calibration.load(tmp_path / "c.json")
