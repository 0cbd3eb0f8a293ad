"""Imports point down only: arrays, then torch, then torchreid."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "torchreid_dfrst"
ARRAYS = {"version", "names", "values", "durable", "sightings", "spatiotemporal", "retrieval"}
TORCH = ARRAYS | {"tensors", "models", "losses"}


def imports(path: Path) -> set[str]:
    """Top-level names a file imports; a name inside our package is given as ``.name``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names] if node.level == 0 else [f".relative.{path.name}"]
        for name in names:
            parts = name.split(".")
            found.add(f".{parts[1]}" if parts[0] == "torchreid_dfrst" and len(parts) > 1 else parts[0])
    return found


def files(layer: set[str]) -> list[Path]:
    return [p for name in sorted(layer) for p in [PACKAGE / f"{name}.py", *(PACKAGE / name).glob("*.py")] if p.exists()]


@pytest.mark.parametrize("path", files(ARRAYS), ids=str)
def test_arrays_know_nothing_above_them(path):
    found = imports(path)
    assert "torchreid" not in found
    assert {name[1:] for name in found if name.startswith(".")} <= ARRAYS


@pytest.mark.parametrize("path", files(TORCH - ARRAYS), ids=str)
def test_models_and_losses_know_torch_but_not_torchreid(path):
    found = imports(path)
    assert "torchreid" not in found
    assert {name[1:] for name in found if name.startswith(".")} <= TORCH


def test_files_are_written_with_the_standard_library_alone():
    assert imports(PACKAGE / "durable.py") <= {*sys.stdlib_module_names}


def test_the_reader_of_imports_sees_them():
    assert {"ast", "pathlib", "pytest"} <= imports(Path(__file__))
