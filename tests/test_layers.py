"""Where things may be imported from, and how long they may be: over every file of the project's code."""

import ast
import io
import subprocess
import sys
import tokenize
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchreid_dfrst"
FILES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
STUDIES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tools").rglob("*.py"))}

BASE = {"version", "checks", "messages", "files", "config", "sightings", "names", "features"}
"""The standard library, NumPy and YAML."""
ORDER = ("retrieval", "spatiotemporal", "association", "evaluation", "gallery")
"""Arrays: each may import those before it."""
BESIDE = {"models", "losses", "processes", "city"}
"""They know nothing of features or times; of torch, the first three."""
ALLOWED = {name: BASE for name in (*BASE, *BESIDE)}
ALLOWED |= {name: BASE | {"processes"} | set(ORDER[:place]) for place, name in enumerate(ORDER)}
TOP = {
    "",
    "__main__",
    "acceleration",
    "cli",
    "data",
    "doctor",
    "inference",
    "registry",
    "report",
    "torchreid_tables",
    "training",
}
"""May import everything; '' is the package itself."""
HOST = {"torchreid"}
LONGEST_FILE, LONGEST_FUNCTION = 430, 60


def name(path):
    """A module as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name(path): path for path in [*FILES, *STUDIES]}


def imported(tree):
    """Every module that a file imports, also inside its functions, but for those that only type checkers read."""
    found = set()
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for line in node.body
        for inner in ast.walk(line)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import of {node.module}: write it out"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found


IMPORTS = {name(path): imported(tree) for path, tree in (FILES | STUDIES).items()}
OURS = {module: {other for other in names if other in MODULES} - {module} for module, names in IMPORTS.items()}


def unit(module):
    """The folder or the file just below the package that a module belongs to."""
    return [*module.split("."), ""][1]


def ring(graph):
    """Names that import each other in a ring, or nothing."""
    state, path = {}, []

    def visit(node):
        state[node] = "open"
        path.append(node)
        for other in sorted(graph.get(node, ())):
            if state.get(other) == "open":
                return [*path[path.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        state[node] = "done"
        path.pop()
        return []

    return next((found for node in sorted(graph) if node not in state and (found := visit(node))), [])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_arrow_points_up(path):
    own = unit(name(path))
    assert own in ALLOWED or own in TOP, f"say in this test which layer {own} belongs to"
    if own in TOP:
        return
    up = {module for module in OURS[name(path)] if unit(module) not in ALLOWED[own] | {own}}
    assert not up, f"{own} may import {', '.join(sorted(ALLOWED[own]))}"
    tops = {module.split(".")[0] for module in IMPORTS[name(path)]}
    assert not tops & HOST
    assert own not in BASE or not tops & {"torch", "torchvision", "faiss", "matplotlib", "cv2"}


def test_no_file_imports_itself_in_a_circle():
    assert ring(OURS) == []


def test_no_two_folders_import_each_other():
    between = {unit(module): set() for module in OURS if module in map(name, FILES)}
    for module in map(name, FILES):
        between[unit(module)] |= {unit(other) for other in OURS[module]} - {unit(module)}
    pairs = [(a, b) for a, b in combinations(between, 2) if b in between[a] and a in between[b]]
    assert pairs == []
    assert ring(between) == []


def test_what_lies_below_data_works_where_there_is_no_torchreid():
    below = [module for module in map(name, FILES) if unit(module) in ALLOWED]
    code = (
        "import importlib, sys\n"
        "sys.modules['torchreid'] = None\n"
        f"for module in {below!r}:\n    importlib.import_module(module)\n"
        "assert sys.modules['torchreid'] is None"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_imports_the_studies_and_they_import_what_anyone_may():
    for path in FILES:
        assert not any(module.split(".")[0] == "tools" for module in IMPORTS[name(path)]), path
    for path in (path for path in STUDIES if path.parent.name == "tools"):
        assert not any(module.startswith("tools") for module in IMPORTS[name(path)]), path
    for path, tree in STUDIES.items():
        private = [
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchreid_dfrst")
            for alias in node.names
            if alias.name.startswith("_") or "._" in str(node.module)
        ]
        assert private == [], path


@pytest.mark.parametrize("path", [*FILES, *STUDIES], ids=name)
def test_files_and_functions_have_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    code = lines_of_code(text)
    for node in ast.walk((FILES | STUDIES)[path]):
        if isinstance(node, ast.FunctionDef):
            length = len(code & {*range(node.lineno, node.end_lineno + 1)})
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines of code"


def lines_of_code(text):
    """Numbers of the lines that hold more than a comment or a docstring."""
    found, prose = set(), {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        starts = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.NL)
        if token.type not in prose | {tokenize.ENDMARKER} and not (token.type == tokenize.STRING and starts):
            found |= {*range(token.start[0], token.end[0] + 1)}
        before = token.type if token.type != tokenize.COMMENT else before
    return found


def test_the_reader_of_imports_sees_all_but_those_of_type_checkers():
    code = (
        "import a.b, c\nif TYPE_CHECKING:\n    import typed\nelse:\n    import other\n"
        "def f():\n    from torchreid_dfrst.data import DATASETS\n    from torchreid_dfrst import checks\n"
    )
    expected = {"a.b", "c", "other", "torchreid_dfrst.data", "torchreid_dfrst.checks"}
    assert imported(ast.parse(code)) == expected


def test_a_ring_is_seen():
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_lines_of_code_are_neither_comments_nor_docstrings_nor_empty():
    lines = [
        '"""One.',
        "",
        'Two."""',
        "# three",
        "def f():",
        '    """Four."""',
        "",
        '    x = """five',
        '    six"""',
        "    return x  # y",
    ]
    assert sorted(lines_of_code("\n".join(lines))) == [5, 8, 9, 10]
