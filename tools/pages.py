"""Pages of the site that are made and not written: a hook of MkDocs, see ``mkdocs.yml``.

README opens the site. Commands come from their parsers, configuration keys from the signatures that read them, messages
from the source, the Python reference from docstrings.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torchreid
from griffe import Docstring, DocstringSectionKind
from mkdocs.structure.files import File

from torchreid_dfrst import cli
from torchreid_dfrst.checks import in_words
from torchreid_dfrst.config import Keywords, shown
from torchreid_dfrst.evaluation import sections as scoring
from torchreid_dfrst.training import sections as training

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchreid_dfrst"
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie beside ``docs/``, and their names on the site."""
MESSAGES = "<!-- messages -->"
"""Where the page of troubleshooting takes every message."""
SAID = {"finding": 2, "files.require_file": 1, "require_file": 1, "logger.warning": 0}
"""What says something to a user beside errors, and which of its arguments the words are."""
OURS_ALONE = {"AttributeError", "TypeError", "yaml.MarkedYAMLError"}
"""Errors that a user does not see."""
HOLE = "..."
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
NOT_API = {"cli", "city"}
TORCHREIDS = {"data": torchreid.data.ImageDataManager}
"""Where torchreid says what keys mean that it named, by section."""


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages."""
    for name, text in made().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Messages where they belong; links that lead out of ``docs/`` lead to where their page is on the site."""
    if MESSAGES in markdown:
        markdown = markdown.replace(MESSAGES, messages())
    return for_site(markdown, f"docs/{page.file.src_uri}")


def made() -> dict[str, str]:
    """Every page that is made: its path on the site to its Markdown."""
    pages = {TOP[name]: for_site((ROOT / name).read_text(encoding="utf-8"), name) for name in TOP}
    pages |= {"reference/commands.md": commands(), "reference/configuration.md": configuration()}
    return pages | {f"reference/api/{name}.md": text for name, text in api().items()}


def for_site(markdown: str, source: str) -> str:
    """Links of a page of the repository, for the site.

    Args:
        markdown: the page.
        source: its path in the repository; links that stay in ``docs/`` are left as they are.
    """

    def moved(link: re.Match[str]) -> str:
        mark, text, address, place = link.groups()
        target = os.path.normpath(os.path.join(os.path.dirname(source), address))
        if source.startswith("docs/") and target.startswith("docs/"):
            return link[0]
        if target not in TOP and not target.startswith("docs/"):
            return text  # a file of the repository that the site does not have
        there = TOP.get(target, target.removeprefix("docs/"))
        here = os.path.dirname(TOP.get(source, source.removeprefix("docs/")))
        return f"{mark}[{text}]({os.path.relpath(there, here or '.')}{place or ''})"

    return LINK.sub(moved, markdown)


def commands() -> str:
    """Each subcommand: what it is for, and a table of what it takes."""
    parts = ["# Commands", "Each command also explains itself: `dfrst COMMAND --help`."]
    for name in cli.COMMANDS:
        parser = cli.parser_of(name)
        rows = [_argument(action) for action in parser._actions if action.dest != "help"]
        parts += [f"## dfrst {name}", inspect.cleandoc(parser.description or ""), _table("argument", "meaning", rows)]
    return "\n\n".join(parts)


def configuration() -> str:
    """Each section and key: what it takes, what it is otherwise, and what it means."""
    known = training()
    parts = [
        "# Configuration keys",
        "A key is written `section.key value` on the command line, and below its section in a YAML file. `dfrst train` "
        f"reads all sections, `dfrst evaluate`, `dfrst rank` and `dfrst page` read {_listed(scoring())}.",
    ]
    for section, keys in known.items():
        told = meanings([*keys.readers, *filter(None, [TORCHREIDS.get(section)])])
        rows = [
            (f"`{section}.{key}`", in_words(keys.expected[key]), _default(keys, key), told.get(key, "")) for key in keys
        ]
        parts += [f"## {section}", _table("key", "takes", "default", "meaning", rows)]
    return "\n\n".join(parts)


def meanings(readers: Iterable[Any]) -> dict[str, str]:
    """What the docstrings of the callables behind a section say of its keys; the first that says anything counts."""
    found: dict[str, str] = {}
    for reader in readers:
        for one in filter(inspect.getdoc, [reader, *getattr(reader, "__mro__", ())[1:]]):
            for section in Docstring(str(inspect.getdoc(one))).parse("google", warnings=False):
                if section.kind is DocstringSectionKind.parameters:
                    said = {item.name: " ".join(item.description.split()) for item in section.value}
                    found = {**{name: re.sub(r" ?Default is .*", "", text) for name, text in said.items()}, **found}
    return found


def messages() -> str:
    """Every message that refuses what a user gave, by the part of the package that says it."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(part, set()).update(raised(path.read_text(encoding="utf-8")))
    parts = []
    for part in filter(found.get, found):
        parts += [f"### {part}", "\n".join(f"- `{text}`" for text in sorted(found[part], key=str.lower))]
    return "\n\n".join(parts)


def raised(source: str) -> Iterator[str]:
    """The messages and warnings of a file, with ``...`` where a value comes, if words are left."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        place = 0 if name.endswith("Error") and name not in OURS_ALONE else SAID.get(name, len(node.args))
        if place < len(node.args):
            text = " ".join(_words(node.args[place]).replace("`", "'").split())
            text = re.sub(r"\[([^|\]]*)\|[^\]]*\]", r"\1", text).replace("{count}", HOLE)
            text = re.sub(r"%\.?\d*[srdfg]", HOLE, text) if "logger" in name else text
            if len(text.replace(HOLE, " ").split()) > 2:
                yield text


def api() -> dict[str, str]:
    """A page for each part of the package: its public modules, from their docstrings."""
    pages = {}
    for path in sorted(PACKAGE.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file() and path.name not in NOT_API:
            names = [f"torchreid_dfrst.{path.name}.{file.stem}" for file in sorted(path.glob("[a-z]*.py"))]
            pages[path.name] = "\n\n".join([f"# {path.name}", *(f"::: {name}" for name in names)])
    alone = [file.stem for file in sorted(PACKAGE.glob("[a-z]*.py"))]
    return {**pages, "package": "\n\n".join(["# package", *(f"::: torchreid_dfrst.{name}" for name in alone)])}


def _argument(action: argparse.Action) -> tuple[str, str]:
    """A row for an argument of a parser."""
    value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else value
    if action.choices is not None:
        value = ", ".join(map(str, action.choices))
    name = " ".join(filter(None, [", ".join(action.option_strings), value]))
    return f"`{name}`", (action.help or "") % vars(action)


def _default(keys: Keywords, key: str) -> str:
    return f"`{shown(keys.defaults[key])}`" if key in keys.defaults else ""


def _listed(names: Iterable[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}"


def _table(*head_and_rows: Any) -> str:
    *head, rows = head_and_rows
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _words(node: ast.expr) -> str:
    """Text of an expression, ``...`` in place of what only a run knows."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left) + _words(node.right)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "numbered":
        return _words(node.args[0])
    return HOLE
