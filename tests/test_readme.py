"""README's Python runs as written, and its commands and links name what is there."""

import re
from pathlib import Path

import numpy as np
import pytest

from torchreid_dfrst.retrieval import Extraction

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = {block.split("\n")[0]: block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)}


def block_with(word):
    found = [block for block in BLOCKS.values() if word in block]
    assert len(found) == 1, f"README has {len(found)} Python blocks with {word!r}"
    return found[0]


@pytest.fixture
def yours(tmp_path, monkeypatch):
    """30 vehicles that pass four cameras in order, as another toolbox would hand them over."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, first in (("train", 100), ("gallery", 0), ("query", 0)):
        identity, camera = np.repeat(np.arange(first, first + 30), 4), np.tile(np.arange(4), 30)
        arrays[f"{part}_identity"], arrays[f"{part}_camera"] = identity, camera
        arrays[f"{part}_seconds"] = np.repeat(rng.uniform(0, 4000, 30), 4) + 40.0 * camera
        arrays[f"{part}_embedding"] = rng.normal(size=(120, 8)).astype(np.float32)
    arrays["cameras"], arrays["road_metres"] = np.arange(4), 400.0 * abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.savez(tmp_path / "yours.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_your_features_become_a_file_and_ten_lines_score_it(yours, capsys):
    exec(block_with("yours.npz"), {})
    assert len(Extraction.load(yours / "features.npz").gallery) == 120
    exec(block_with("Extraction.load"), {})
    assert "+ ST + re-ranking" in capsys.readouterr().out


def test_installation_registers_the_model(monkeypatch):
    lines = block_with("build_model").replace("pretrained=True", "pretrained=False").splitlines()
    names = {}
    exec("\n".join(line for line in lines if "ImageDataManager" not in line), names)
    assert len(names["model"].branches) == 14


def test_every_file_that_readme_names_is_there():
    named = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(re.findall(r"(?:tools|configs)/[a-z0-9_]+\.\w+", README))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_both_set_up_commands_are_targets_of_make():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
