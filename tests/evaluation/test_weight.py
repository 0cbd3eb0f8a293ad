"""The weight is chosen on held-out training vehicles and finds what helps them."""

import numpy as np
import pytest
from worlds import road, traffic

from tools.studies.spacetime.simulated import appearance_map, embed, extraction
from tools.studies.spacetime.table import beside, markdown
from torchreid_dfrst.evaluation.weight import (
    OMEGAS,
    _folds_of_training,
    _peak_of_scores,
    _weight_by_logistic,
    choose_weight,
    held_out,
)
from torchreid_dfrst.features import Features
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build

TRAIN, ROAD = traffic(0, 90), road()


def features(difficulty):
    return Features(embed(TRAIN, difficulty), TRAIN)


def test_folds_hold_out_vehicles_once_and_never_fit_on_them():
    held = []
    for fold in held_out(TRAIN, 3):
        out = np.unique(TRAIN.identity[fold.gallery])
        assert not np.isin(TRAIN.identity[fold.fit], out).any()
        assert np.isin(fold.query, fold.gallery).all()
        keys = np.stack([TRAIN.identity[fold.query], TRAIN.camera[fold.query]])
        assert np.unique(keys, axis=1).shape[1] == len(fold.query)
        assert len(fold.fit) + len(fold.gallery) == len(TRAIN)
        held.append(out)
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.unique(TRAIN.identity))
    with pytest.raises(ValueError, match="too few for 3 folds"):
        next(held_out(TRAIN[TRAIN.identity < 5], 3))


@pytest.mark.parametrize("method", ["map", "calibrated"])
def test_the_worse_the_appearance_the_more_transit_counts(method):
    model = build("likelihood", relays=0)
    good, bad = (choose_weight(model, TRAIN, features(d), ROAD, method=method) for d in (0.4, 2.5))
    assert 0 <= good.value < bad.value
    assert good.method == method and good.vehicles == 90
    assert choose_weight(model, TRAIN, features(0.4), ROAD, method=method) == good, "seeded"
    assert model.network is None, "the model passed in is left alone"


def test_each_part_is_asked_in_the_whole_gallery_and_only_it_is_left_out_of_the_fit():
    whole, parts = list(held_out(TRAIN, 1)), list(held_out(TRAIN, 1, parts=3))
    assert len(parts) == 3
    np.testing.assert_array_equal(np.sort(np.concatenate([p.query for p in parts])), np.sort(whole[0].query))
    for part in parts:
        np.testing.assert_array_equal(part.gallery, whole[0].gallery)
        assert set(TRAIN.identity) - set(TRAIN.identity[part.fit]) == set(TRAIN.identity[part.query])


@pytest.mark.parametrize(("vehicles", "galleries", "folds"), [(40, 1, 3), (450, 3, 3), (900, 3, 3), (250, 2, 4)])
def test_galleries_are_as_large_as_a_tests_where_there_are_vehicles(vehicles, galleries, folds):
    sightings = Sightings(np.tile([3, 5], vehicles), np.zeros(2 * vehicles), np.arange(vehicles).repeat(2))
    made = list(_folds_of_training(sightings))
    assert len(made) == folds and len({tuple(fold.gallery) for fold in made}) == galleries
    assert max(len(fold.gallery) for fold in made) <= 400


@pytest.mark.parametrize("method", ["map", "calibrated"])
def test_a_limit_of_memory_asks_fewer_queries_and_says_so(method, caplog):
    def chosen(limit=None):
        return choose_weight(build("lognormal"), TRAIN, features(1.0), ROAD, method=method, memory_limit=limit)

    whole, room = chosen(), 3 * 40 * len(TRAIN) ** 2
    assert chosen(room) == whole and not caplog.text
    fewer = chosen(room // 30)
    assert fewer != whole and "a weight is chosen on every" in caplog.text
    with pytest.raises(
        ValueError, match=r"a memory limit of 1000 bytes is too small to choose a weight: \d+ are needed"
    ):
        chosen(1000)


def test_the_chosen_omega_is_next_to_the_best_mean_score():
    chosen = choose_weight(build("lognormal"), TRAIN, features(1.0), ROAD)
    assert list(chosen.curve) == [str(omega) for omega in OMEGAS] and 0.2 in OMEGAS
    best = max(chosen.curve, key=chosen.curve.get)
    assert chosen.curve[best] > chosen.curve["0.0"]
    assert float(best) / 2 ** (1 / 6) <= chosen.value <= float(best) * 2 ** (1 / 6)


def test_the_peak_lies_between_the_omegas_that_were_tried():
    omegas = (0.0, *(0.1 * 2.0 ** np.arange(6)))
    top = np.array([-((np.log(max(w, 1e-9) / 0.5)) ** 2) for w in omegas])
    assert _peak_of_scores(omegas, top) == pytest.approx(0.5, abs=1e-4)
    for best in (0, 1, 6):  # no neighbour on one side, or omega 0, which has no logarithm
        assert _peak_of_scores(omegas, -np.abs(np.arange(7.0) - best)) == omegas[best]
    assert _peak_of_scores(omegas, np.ones(7)) == 0.0


def test_calibration_is_the_logistic_law_the_pairs_were_drawn_from():
    rng = np.random.default_rng(0)
    a, t = rng.uniform(0, 2, 200_000), rng.uniform(0, 1, 200_000)
    same = rng.random(200_000) < 1 / (1 + np.exp(-(2 - 3 * a - 1.5 * t)))
    _, slope_a, slope_t = _weight_by_logistic(a, t, same)
    assert (slope_a, slope_t) == pytest.approx((3, 1.5), rel=0.05)


def test_unknown_methods_are_named():
    with pytest.raises(KeyError, match="there are map, calibrated"):
        choose_weight(build("lognormal"), TRAIN, features(1.0), ROAD, method="best")


def test_simulated_appearance_is_seeded_and_gets_worse_with_difficulty():
    test = traffic(1, 30, first=500)
    easy, hard = (extraction(TRAIN, test[::5], test, ROAD, d) for d in (0.5, 2.0))
    assert appearance_map(easy) > appearance_map(hard) + 5
    np.testing.assert_array_equal(
        easy.gallery.embedding, extraction(TRAIN, test[::5], test, ROAD, 0.5).gallery.embedding
    )
    np.testing.assert_array_equal(easy.query.embedding, easy.gallery.embedding[::5])


def test_a_row_of_the_table_says_what_was_used():
    test = traffic(1, 30, first=500)
    run = extraction(TRAIN, test[::5], test, ROAD, 1.5)
    model = build("transition").fit(TRAIN, ROAD)
    row = beside(model, run)
    assert row["paper"]["omega"] == 0.2 and row["auto"]["method"] == "map"
    assert row["appearance"]["mAP"] <= row["best_on_test"]["mAP"] >= row["auto"]["mAP"]
    text = markdown({"transition": {"alone": row["appearance"], "parameters": {}, "lists": row}})
    assert text.splitlines()[2].startswith("| transition |")
