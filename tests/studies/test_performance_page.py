"""The page of measurements is made from what the benchmark wrote, and only between its marks."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from tools.studies.benchmarks import page, parts, retrieval
from tools.studies.benchmarks.retrieval import SCALES


@pytest.fixture
def results(tmp_path, monkeypatch, capsys):
    """What the tool prints for every job at a size that takes no time."""

    def here(size, *words, **options):
        return parts.cold(size, *words, **options) | {"memory_bytes": 10**6 * sum(size[:2])}

    monkeypatch.setattr(parts, "in_fresh_process", here)
    (tmp_path / "spcl").mkdir()
    code = "def compute_jaccard_distance(x, print_flag, search_option):\n    return (x @ x.T).numpy()\n"
    (tmp_path / "spcl" / "faiss_rerank.py").write_text(code)
    for number, images in enumerate((60, 120, 240)):
        monkeypatch.setitem(SCALES, "tiny", (images // 10, images - images // 10, 16, 8))
        for job in ("rerank", "cold", "transit", "clustering", "streamed") if images == 240 else ("streamed",):
            words = f"x --scale tiny --rounds 1 --json --job {job} --spcl {tmp_path / 'spcl'}"
            monkeypatch.setattr(sys, "argv", words.split())
            retrieval.main()
            (tmp_path / f"{job}{number}.json").write_text(capsys.readouterr().out)
    return tmp_path


def test_one_command_fills_the_page_and_draws_the_picture(results, monkeypatch, capsys):
    filled, picture = results / "page.md", results / "pictures" / "scaling.png"
    filled.write_text(f"before\n{page.BEGIN}\nLAST YEAR\n{page.END}\nafter\n")
    words = ["x", str(results), "--page", str(filled), "--picture", str(picture)]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", words)
        page.main()
    text = filled.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "LAST YEAR" not in text
    for job in ("rerank", "cold", "transit", "clustering", "streamed"):
        assert f"--job {job}" in text
    for words in (
        "SpCL",
        "cold process",
        "all x all",
        "peak memory",
        "of the floor",
        "240 x 16",
        "within the bound",
        "≥ 14x",
        "near-ties",
        "fallbacks",
        "straight line",
        "in turn: tiny ",
    ):
        assert words in text, words
    speedup = json.loads((results / "rerank2.json").read_text())["rerank_speedup"]
    assert f"{speedup:.1f}x" in text and "--spcl DIR" in text and str(results) not in text
    assert Image.open(picture).size[0] > 500 and np.asarray(Image.open(picture).convert("L")).std() > 10


def test_the_page_is_filled_though_there_is_too_little_for_a_picture(results, monkeypatch, capsys):
    filled, picture = results / "page.md", results / "scaling.png"
    filled.write_text(f"{page.BEGIN}\n{page.END}\n")
    (results / "streamed0.json").unlink()
    monkeypatch.setattr(sys, "argv", ["x", str(results), "--page", str(filled), "--picture", str(picture)])
    page.main()
    assert "240 x 16" in filled.read_text() and "straight line" not in filled.read_text() and not picture.exists()
    assert "scaling.png: left as it is: fewer than three sizes" in capsys.readouterr().out


def test_targets_say_when_they_are_missed():
    assert page.at_least(14, 14) == "≥ 14x" and page.at_least(13.9, 14) == "≥ 14x, **missed**"
    assert page.at_most(0.4, 0.4, " GB") == "≤ 0.4 GB" and "missed" in page.at_most(0.41, 0.4)
    run = {"scale": "100k", "floor_ratio": 1.36, "memory_bytes": {"fp32": 5e8}}
    assert page._streamed_targets(run) == "≤ 1.35, **missed**; ≤ 0.4 GB, **missed**"
    assert page._streamed_targets(run | {"scale": "25k"}) == ""


def test_the_slope_is_that_of_a_straight_line():
    runs = [{"images": n, "memory_bytes": {"fp32": 2000 * n + 50_000_000}} for n in (10_000, 20_000, 50_000)]
    assert page.slope(runs, "fp32")[2] == pytest.approx([2000, 50_000_000])


def test_bad_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results of tools\.studies\.benchmarks\.retrieval"):
        page.read_runs(tmp_path)
    (tmp_path / "broken.json").write_text('{"job": ')
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        page.read_runs(tmp_path)
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ValueError, match="needs one line"):
        page.fill(tmp_path / "page.md", "text")
