"""The Python of README and of all pages runs as written, and their commands and files are there."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image
from torchvision.transforms import ToTensor

from torchreid_dfrst.cli import invoke, parse
from torchreid_dfrst.inference.import_features import import_features
from torchreid_dfrst.retrieval import Extraction

SPLITS = ("train", "query", "gallery")
ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "torchreid_dfrst"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README = PAGES["README.md"]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
RUN_HERE = {
    "README.md": {"engine.run", "yours.npz"},
    "docs/start_features.md": {"yours.npz", "Extraction.load"},
    "docs/evaluate.md": {"accelerate()", "retrieval.Reranking"},
    "docs/train.md": {"build_model"},
    "docs/card.md": {"Card.load"},
    "docs/spacetime.md": {'build("likelihood")'},
    "docs/bring_your_own.md": {"FeatureExtractor", "from oml.datasets"},
}
"""Pages to words of their blocks that a test below runs."""
RUN_ELSEWHERE = {
    "docs/bring_your_own.md": {"vits16_dino": "downloads weights"},
    "docs/search.md": {"watch(": "tests/gallery/test_search.py"},
    "docs/models.md": {"from_pretrained": "tests/inference/test_hub.py"},
    "docs/results.md": {"my_network": "tests/studies/test_reproduction.py"},
}
"""The others, and where they run or why not."""


def block_with(word, page="README.md"):
    found = [block for block in PYTHON.findall(PAGES[page]) if word in block]
    assert len(found) == 1, f"{page} has {len(found)} Python blocks with {word!r}"
    return found[0]


def test_every_python_block_of_every_page_is_run_by_a_test():
    for page, text in PAGES.items():
        known = [*RUN_HERE.get(page, ()), *RUN_ELSEWHERE.get(page, ())]
        blocks = PYTHON.findall(text)
        for block in blocks:
            compile(block, page, "exec")
            assert any(word in block for word in known), f"{page}: no test runs\n{block}"
        assert len(blocks) == len(known), page


def test_readme_is_short():
    assert README.count("\n") <= 130


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


def test_your_features_are_scored_and_become_a_file(yours, capsys):
    exec(block_with("yours.npz"), {})
    assert len(Extraction.load(yours / "features.npz").gallery) == 120
    assert "+ ST + re-ranking" in capsys.readouterr().out


def test_the_tutorial_of_your_own_features(yours, capsys):
    exec(block_with("yours.npz", "docs/start_features.md"), {})
    exec(block_with("Extraction.load", "docs/start_features.md"), {})
    assert "+ ST + re-ranking" in capsys.readouterr().out


def test_torchreid_in_thirty_seconds(tiny_veri, monkeypatch):
    """On a tiny data set and for one epoch; all else is as it stands."""
    monkeypatch.chdir(tiny_veri.parent)
    text = block_with("engine.run").replace('"city"', '"veri776"').replace("max_epoch=16", "max_epoch=1")
    text = text.replace(
        "height=96, width=96, batch_size_train=32", "height=64, width=64, batch_size_train=8, workers=0"
    )
    exec(text, {})
    assert (tiny_veri.parent / "log" / "weights.safetensors").is_file()


def test_a_space_time_model_tells_a_trip_from_an_impossible_one(capsys):
    names = {}
    exec(block_with('build("likelihood")', "docs/spacetime.md"), names)
    likely, impossible, late = names["model"].distance(names["query"], names["gallery"])[0]
    assert likely < impossible and late < impossible


def test_a_card_is_read(tiny_run, monkeypatch, capsys):
    invoke(["evaluate", f"{tiny_run}/features.npz", "rerank.k1", "4", "rerank.k2", "2", "--lists", "0"])
    monkeypatch.chdir(tiny_run)
    exec(block_with("Card.load", "docs/card.md"), {})
    percent, share = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert percent == pytest.approx(100 * share, abs=1e-3)


def test_re_ranking_alone(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    arrays = {"query": rng.normal(size=(20, 8)), "gallery": rng.normal(size=(120, 8))}
    for part, size in (("query", 20), ("gallery", 120)):
        arrays[f"{part}_identity"], arrays[f"{part}_camera"] = np.arange(size) % 10, rng.integers(0, 4, size)
    np.savez(tmp_path / "embeddings.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    exec(block_with("retrieval.Reranking", "docs/evaluate.md"), {})
    assert 0 < float(capsys.readouterr().out) < 1


def test_the_one_line_for_torchreid():
    before, names = torchreid.utils.re_ranking, {}
    exec(block_with("accelerate()", "docs/evaluate.md"), names)
    try:
        assert torchreid.utils.re_ranking is not before
    finally:
        names["undo"]()
    assert torchreid.utils.re_ranking is before


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of three images, in the current folder."""
    names = [f"{k}.jpg" for k in range(3)]
    for k, name in enumerate(names):
        Image.new("RGB", (30, 20), (80 * k, 0, 0)).save(tmp_path / name)
    rows = [f"{name},1,{k},{k},{split}" for k, (name, split) in enumerate(zip(names, SPLITS, strict=True))]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    monkeypatch.chdir(tmp_path)
    return names


def test_embeddings_of_torchreid(table, monkeypatch):
    # it fetches ImageNet weights even where it is given others
    monkeypatch.setattr(torchreid.models.osnet, "init_pretrained_weights", lambda model, key: None)
    model = torchreid.models.build_model("osnet_x0_25", 5, pretrained=False)
    torch.save({"state_dict": model.state_dict()}, "model.pth.tar")
    exec(block_with("FeatureExtractor", "docs/bring_your_own.md").replace("osnet_x1_0", "osnet_x0_25"), {})
    extraction = import_features("embeddings.pt", "table.csv")
    assert [part.embedding.shape for part in (extraction.query, extraction.gallery)] == [(1, 512)] * 2


def test_embeddings_of_open_metric_learning(table, monkeypatch):
    """With stand-ins of its two functions, which take what the real ones take."""

    def dataset(paths, transform=None):
        return [transform(Image.open(path)) for path in paths]

    def inference(model, dataset, batch_size):
        return torch.cat([model(image[None]) for image in dataset])

    for name, held in (("oml", {}), ("oml.datasets", {"ImageBaseDataset": dataset}), ("oml.inference", locals())):
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    exec(
        block_with("from oml.datasets", "docs/bring_your_own.md"),
        {"extractor": torch.nn.Flatten(), "transform": ToTensor()},
    )
    query = import_features("embeddings.pt", "table.csv").query
    assert query.embedding.shape == (1, 30 * 20 * 3) and query.embedding.max() > 0.3


def test_importing_us_registers_the_model(capsys):
    exec(block_with("build_model", "docs/train.md"), {})
    assert capsys.readouterr().out.startswith("14 parts of ")


def test_every_command_of_the_pages_is_one_that_dfrst_takes():
    lines = re.findall(r"^ *dfrst (.+?)(?<!\\)$", "\n".join(PAGES.values()).replace("\\\n", " "), re.MULTILINE)
    assert {line.split()[0] for line in lines} >= {"train", "extract", "evaluate", "check", "spacetime", "audit"}
    for line in lines:
        words = shlex.split(re.sub(r"[\[\]]| \.\.\.", "", line))
        assert parse(words).command.startswith("dfrst ")


def test_every_study_that_the_pages_call_is_there():
    named = set(re.findall(r"python -m (tools\.studies\.[a-z_.]+)", "\n".join(PAGES.values())))
    assert len(named) >= 5
    for name in named:
        place = ROOT / name.replace(".", "/")
        assert (place / "__main__.py").is_file() or place.with_suffix(".py").is_file(), name


def test_every_file_that_a_page_names_is_there():
    for page, text in PAGES.items():
        folder = (ROOT / page).parent
        named = set(re.findall(r"\]\((?!https?:)([^)#\s]+)", text))
        assert [name for name in sorted(named) if not (folder / name).is_file()] == [], page
        named = set(re.findall(r"(?:tools|configs|tests|torchreid_dfrst)/[a-z0-9_/]+\.(?:py|yaml)", text))
        assert [name for name in sorted(named) if not (ROOT / name).is_file()] == [], page
        inside = set(re.findall(r"`([a-z_]+/[a-z0-9_/]+\.py)`", text))
        assert [x for x in sorted(inside) if not any((at / x).is_file() for at in (ROOT, PACKAGE))] == [], page
    assert set(re.findall(r"\]\(([^)#:\s]+)", README)) > {"docs/data.md", "docs/pictures/hero.png"}


def test_both_set_up_commands_are_targets_of_make():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
