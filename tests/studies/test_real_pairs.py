"""Networks on pairs of photographs: a frozen backbone, both directions, differences over vehicles."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from PIL import Image

from tools.studies import real_pairs
from tools.studies.reproduction import Preset


@pytest.fixture
def pairs(tmp_path):
    """Six vehicles in two cameras, four of them to train on."""
    random, lines = np.random.default_rng(0), ["path,identity,camera,time,split"]
    for vehicle in range(6):
        colours = random.integers(0, 255, (3, 3, 3), dtype=np.uint8)
        for camera in (1, 2):
            split = "train" if vehicle < 4 else ("query", "gallery")[camera - 1]
            name = f"v{vehicle}_{camera}.png"
            Image.fromarray(colours).resize((64, 64 + camera)).save(tmp_path / name)
            lines.append(f"{name},v{vehicle},{camera},,{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def preset(folder):
    text = (
        "name: toy\ntitle: toy\npeers: [bot, dfrst]\n"
        "training:\n  model: {backbone: resnet18, pretrained: false}\n"
        "  data: {sources: [table], targets: [table], height: 64, width: 64, batch_size_train: 4, num_instances: 2, "
        "workers: 0}\n  scheduler: {warmup_epoch: 0, lr_scheduler: cosine}\n"
        "  train: {max_epoch: 1, threads: 1, pictures: false}\n"
    )
    (folder / "toy.yaml").write_text(text)
    return folder / "toy.yaml"


def test_frozen_and_trained_rows(pairs, monkeypatch, capsys):
    words = ["real_pairs", "--config-file", str(preset(pairs)), "--root", str(pairs), "--out", str(pairs / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--seeds", "1"])
    real_pairs.main()
    found = json.loads((pairs / "out" / "real_pairs.json").read_text())
    assert list(found["rows"]) == ["frozen", "bot", "dfrst"]
    for name, entry in found["rows"].items():
        assert 50 <= entry["mAP"] <= 100, "two vehicles: the right one is first or second"
        assert ("minus bot" in entry) == (name != "bot")
        assert len(found["vehicles"][name][0]["ap"]) == 2


def test_a_difference_is_tested_over_vehicles():
    seeds = {"bot": [{"ap": [0.2] * 20, "first": [0] * 20}], "dfrst": [{"ap": [0.5] * 20, "first": [1] * 20}] * 2}
    table = real_pairs.summary(seeds, "bot")
    assert table["dfrst"]["minus bot"] == 30 and table["dfrst"]["rank-1"] == 100
    assert table["dfrst"]["p over vehicles"] < 0.001
    assert table["dfrst"]["of_seeds"] == [50, 50]
    seeds["dfrst"][1] = {"ap": [0.9] * 20, "first": [1] * 20}
    assert real_pairs.summary(seeds, "bot")["dfrst"]["minus bot"] == 30, "over the seeds that both have"
    seeds["frozen"] = seeds.pop("bot")
    assert real_pairs.summary(seeds, "frozen")["dfrst"]["minus frozen"] == 50
    assert real_pairs.summary(seeds, "dfrst")["frozen"]["minus dfrst"] == -50


def test_the_preset_of_the_page_can_be_read():
    found = Preset.load("configs/reproduce/real_pairs.yaml")
    assert found.training["data"]["num_instances"] == 2 and "dfrst" in found.peers


def test_an_unknown_network_is_named(pairs, monkeypatch, capsys):
    words = ["real_pairs", "--config-file", str(preset(pairs)), "--root", str(pairs), "--only", "forzen"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        real_pairs.main()
    assert "did you mean 'frozen'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*words[:-1], "frozen", "--seeds", "0"])
    with pytest.raises(SystemExit):
        real_pairs.main()
    assert "--seeds is 0: 1 or more" in capsys.readouterr().err
    for name, said in (("bto", "did you mean 'bot'"), ("bot", "--against bot is not among --only frozen")):
        monkeypatch.setattr(sys, "argv", [*words[:-1], "frozen", "--against", name])
        with pytest.raises(SystemExit):
            real_pairs.main()
        assert said in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
def test_a_run_takes_and_keeps_the_input_of_its_backbone():
    from torchreid_dfrst.training.configuration import with_own_input

    config = {"model": {"name": "bot", "backbone": "tf_efficientnet_lite0"}, "data": {"height": 128, "width": 96}}
    half = [0.5, 0.5, 0.5]
    assert with_own_input(config)["data"] == {"height": 128, "width": 96, "norm_mean": half, "norm_std": half}
    assert with_own_input({**config, "data": {}})["data"]["width"] == 224
    assert config["data"] == {"height": 128, "width": 96}
    plain = {"model": {"name": "bot"}, "data": {}}
    assert with_own_input(plain) == plain
