"""The pictures of README come from one command, and show what they say."""

import shutil
import sys

import pytest
from PIL import Image

from tools.studies import demo_pictures


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A run as `dfrst demo` leaves it."""
    for name in ("features.npz", "run/metrics.jsonl"):
        shutil.copy(tiny_run / name, tmp_path)
    return tmp_path


def test_one_command_draws_all_four_at_a_width_that_a_page_shows(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(folder), "--out", str(folder / "pictures")])
    demo_pictures.main()
    drawn = sorted(path.name for path in (folder / "pictures").iterdir())
    assert drawn == ["hero.png", "network.png", "time_space.png", "training_curve.png"]
    for name in {*drawn} - {"time_space.png"}:
        assert Image.open(folder / "pictures" / name).size[0] <= 900, name


def test_the_drawing_of_the_network_says_what_the_network_is(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        demo_pictures, "write", lambda made, path, **_: said.extend(t.get_text() for t in made.axes[0].texts)
    )
    demo_pictures.network(tmp_path / "n.png", "dfrst_resnet18")
    assert "height: 4 parts\n4 x 256 numbers" in said and "embedding\n4,096\nnumbers" in said
