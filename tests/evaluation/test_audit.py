"""Scores by time and camera alone, and what ties may do to them."""

import json

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.cli import main
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.spatiotemporal import build


def test_ties_are_bounded_by_the_two_extreme_orders():
    test = traffic(1, 30)
    tied = np.round(build("lognormal").fit(traffic(0), road()).distance(test, test), 1)
    worst, best = audit.tie_bounds(tied, test, test)
    scores = [audit.rank(tied, test, test, seed).mAP for seed in range(5)]
    assert worst.mAP < min(scores) < max(scores) < best.mAP


def test_without_ties_there_is_one_score():
    test, rng = traffic(1, 30), np.random.default_rng(0)
    distance = rng.permutation(len(test) ** 2).reshape(len(test), -1).astype(np.float32)
    worst, best = audit.tie_bounds(distance, test, test)
    assert worst.mAP == best.mAP == audit.rank(distance, test, test).mAP


def test_a_constant_scores_like_chance_wherever_the_identity_stands_in_the_list():
    test = traffic(1, 60)
    constant = np.zeros((len(test), len(test)), dtype=np.float32)
    random = np.random.default_rng(0).random(constant.shape, dtype=np.float32)
    chance = audit.rank(random, test, test).mAP
    assert audit.rank(constant, test, test).mAP == pytest.approx(chance, rel=0.3)


def test_the_real_lists_give_the_paper_s_model_its_expected_score(veri_lists, capsys):
    main(["spacetime", "--root", str(veri_lists), "-t", "veri776", "--json", "spacetime.model", "lognormal"])
    result = json.loads(capsys.readouterr().out)["lognormal"]
    assert (result["mAP"], result["R1"]) == pytest.approx((16, 43), abs=1)
    assert result["mAP_ties"][0] <= result["mAP"] <= result["mAP_ties"][1]
