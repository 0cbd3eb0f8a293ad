import json
import sys
from functools import partial

import pytest
import torch

from tools.studies.benchmarks.training import OurStep, main, take_turns


def test_contestants_take_turns_and_the_first_round_does_not_count():
    order = []
    seconds = take_turns({name: partial(order.append, name) for name in "ab"}, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_one_json_object_with_the_promised_numbers(monkeypatch, capsys):
    words = "x --model dfrst_resnet18 --size 64 --batch 8 --rounds 1 --images 8 --shares --json"
    monkeypatch.setattr(sys, "argv", words.split())
    main()
    found = json.loads(capsys.readouterr().out)
    for name in ("fp32_speedup", "bf16_speedup", "extraction_efficiency"):
        assert found[name] > 0
    assert set(found["images_per_s"]) == {"torchreid", "fp32", "bf16"}
    assert set(found["split"]["fp32"]) == {"data_s", "forward_s", "loss_and_backward_s", "optimiser_s"}
    assert (
        all(0.2 < share < 1 for share in found["convolution_share"].values()) and len(found["convolution_share"]) == 3
    )


def test_an_unknown_way_to_compute_is_named():
    with pytest.raises(KeyError, match="did you mean 'compile'"):
        OurStep("dfrst_resnet18", torch.zeros(1), torch.zeros(1), "fp32-compil")
