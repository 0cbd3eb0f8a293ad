"""The study of a GPU runs on a processor with tiny sizes, so that a broken script is seen before a GPU is lent."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.gpu.conftest import pytest_collection_modifyitems as collected
from tests.training.networks import TinyNet
from tools.studies import gpu


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(gpu, "build", lambda name, classes, **_: TinyNet(classes))


def run(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    gpu.main()


def rows(path):
    return json.loads(path.read_text())["rows"]


def test_a_dry_run_measures_every_row_but_the_recipe(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    run(["--out", out, "--dry-run", "--skip", "recipe"], monkeypatch)
    found = rows(out)
    assert not [row for row in found if "error" in row]
    assert [row["stage"] for row in found] == ["reranking"] * 2 + ["extraction"] * 2 + ["training"] * 7
    assert all(row["images/s"] > 0 for row in found if row["stage"] == "training" and "precision" in row)
    assert "measures nothing" in json.loads(out.read_text())["card"]


def test_what_fails_or_comes_too_late_is_a_row_and_the_rest_is_kept(tmp_path, monkeypatch):
    def broken(*_):
        raise torch.OutOfMemoryError("CUDA out of\nmemory")

    monkeypatch.setattr(gpu, "reranked", broken)
    out, skipped = tmp_path / "gpu.json", ["--skip", "extraction", "training", "recipe"]
    run(["--out", out, "--dry-run", "--fastreid", tmp_path, *skipped], monkeypatch)
    assert [row.get("error") for row in rows(out)] == ["CUDA out of memory", "No module named 'fastreid'", None]
    run(["--out", out, "--dry-run", "--minutes", "0", *skipped], monkeypatch)
    assert [row["left out"] for row in rows(out)] == ["the 0 minutes were up"] * 2


@pytest.mark.parametrize("part", ["city", "train"])
def test_the_recipe_is_made_of_commands_that_exist(part, tmp_path, monkeypatch):
    from torchreid_dfrst.cli import parse

    words = []
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: words.append(command))
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda command: words.append(command) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["--out", tmp_path / "gpu.json", "--dry-run", "--skip", "reranking", "extraction", "training"], monkeypatch)
    (command,) = (command[3:] for command in words if command[3] == part)
    assert parse(command).run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no GPU: torch finds none, and nothing was measured"):
        run(["--out", tmp_path / "gpu.json"], monkeypatch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_make_gpu_without_one_says_so_and_fails():
    config = SimpleNamespace(option=SimpleNamespace(markexpr="gpu"))
    with pytest.raises(pytest.exit.Exception, match="torch finds none, so nothing of `make gpu` was tested") as ended:
        collected(config, [])
    assert ended.value.returncode == 1
