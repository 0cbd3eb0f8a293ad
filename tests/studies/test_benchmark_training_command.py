"""What the benchmark of training refuses, and what it counts."""

import sys
from unittest.mock import Mock

import pytest

from tools.studies.benchmarks import training


@pytest.mark.parametrize(("variant", "meant"), [("fp32-compil", "compile"), ("fp23-compile", "fp32")])
def test_an_unknown_variant_is_one_line_before_anything_is_started(variant, meant, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(training, "Contestant", lambda *_: started.append(_))
    monkeypatch.setattr(sys, "argv", f"x --images 4 --batch 4 --size 32 --variants fp32 {variant}".split())
    with pytest.raises(SystemExit) as ended:
        training.main()
    assert ended.value.code == 2 and not started
    said = capsys.readouterr().err
    assert f"did you mean '{meant}'" in said and said.count("\n") == 1


def test_loading_is_the_median_of_its_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Contestant", lambda *_: Mock(ask=lambda what: {} if what == "split" else 1.0))
    seconds = iter([9.0, 1.0, 5.0, 2.0])
    monkeypatch.setattr(training, "timed", lambda call, clock: lambda: (call(), next(seconds))[1])
    found = training.measure_steps("tiny", training.write_images(tmp_path, 4, 16), 16, 4, rounds=3, variants=["fp32"])
    assert found["split"]["fp32"]["data_s"] == 2.0, "without the first, which reads from the disk"
