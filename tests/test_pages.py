"""The pages: the site builds without a warning, notebooks run, and what is quoted or listed is what the code has."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchreid_dfrst import cli
from torchreid_dfrst.evaluation.card import Card

pages = pytest.importorskip("tools.pages", reason="the site's tools come with the extra dev")
ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert run.returncode == 0, run.stderr[-4000:]
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert all(f"dfrst {name}" in commands for name in cli.COMMANDS)
    assert "rerank.lambda_value" in (tmp_path / "reference" / "configuration" / "index.html").read_text()
    assert "k-reciprocal" in (tmp_path / "reference" / "api" / "retrieval" / "index.html").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, 4)
    assert path.stat().st_size < 200_000, "keep outputs small"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert {"trips": "IDF1", "search": "pictures"}[path.stem] in said


def test_both_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["search", "trips"]


def test_every_command_and_argument_is_in_the_reference():
    text = pages.commands()
    for name in cli.COMMANDS:
        part = text.split(f"## dfrst {name}\n")[1].split("\n## ")[0]
        for action in cli.parser_of(name)._actions:
            assert action.dest == "help" or all(option in part for option in action.option_strings), (name, action)
    assert "(runs/demo)" in text, "defaults"


def test_every_key_is_in_the_reference_with_its_default_and_a_meaning():
    text, known = pages.configuration(), pages.training()
    keys = [(section, key) for section, found in known.items() for key in found]
    assert all(f"| `{section}.{key}` |" in text for section, key in keys)
    row = next(line for line in text.splitlines() if "`rerank.k1`" in line)
    assert "| `20` |" in row and len(row.split("|")[4]) > 20
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0][3:-1] for row in rows if len(row) < 4 or not row[3].strip(" |")] == []


def quoted(page):
    """What a page of troubleshooting says that the code says: the first cells of its tables."""
    return [words for words in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if " " in words]


def test_troubleshooting_quotes_what_the_code_says():
    said = {text for path in pages.PACKAGE.rglob("*.py") for text in pages.raised(path.read_text(encoding="utf-8"))}
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(quoted(page)) > 40 and len(said) > 400
    assert [words for words in quoted(page) if words not in said] == []
    listed = pages.messages()
    assert pages.MESSAGES in page and [text for text in said if f"- `{text}`" not in listed] == []


def test_messages_are_read_with_their_holes():
    source = (
        'raise ValueError(f"{a} is bad: " + f"use {b}")\nraise ValueError(name)\n'
        'finding(ERROR, "c", f"{{count}} [image is|images are] torn", w, "")\n'
        'logger.warning("%s is %d years old", a, b)\nraise TypeError("never shown to anybody")\n'
    )
    expected = ["... is bad: use ...", "... image is torn", "... is ... years old"]
    assert list(pages.raised(source)) == expected


@pytest.mark.parametrize(
    "source, link, on_the_site",
    [
        ("README.md", "[a](docs/data.md#times)", "[a](data.md#times)"),
        ("README.md", "![a](docs/pictures/x.png)", "![a](pictures/x.png)"),
        ("README.md", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("README.md", "[the licence](LICENSE)", "the licence"),
        ("docs/data.md", "[a](evaluate.md#protocols)", "[a](evaluate.md#protocols)"),
        ("docs/data.md", "[a](../README.md#cite)", "[a](index.md#cite)"),
        ("docs/data.md", "[a](../configs/demo.yaml)", "a"),
        ("docs/data.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("docs/data.md", "[a](#times)", "[a](#times)"),
    ],
)
def test_links_lead_to_where_their_page_is_on_the_site(source, link, on_the_site):
    assert pages.for_site(link, source) == on_the_site


def test_the_page_of_cards_has_every_key(tiny_run):
    cli.invoke(["evaluate", f"{tiny_run}/features.npz", "rerank.k1", "4", "rerank.k2", "2", "--lists", "0"])
    page = (DOCS / "card.md").read_text(encoding="utf-8")
    content = Card.load(tiny_run / "card.json").content
    assert [key for key in content if f"`{key}`" not in page] == []


def test_the_glossary_has_the_words_of_the_tables():
    heads = re.findall(r"^## (.+)$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"ST", "Junk", "Omega", "Track", "Pass", "Trip", "Near-tie", "mINP", "k-reciprocal", "FPIR"} <= {*heads}
