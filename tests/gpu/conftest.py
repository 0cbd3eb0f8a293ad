"""Tests of this folder need a GPU: without one they are skipped with a reason, and `pytest -m gpu` fails."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NONE = "no GPU: torch finds none"
sys.path.insert(0, str(HERE.parent / "training"))  # small networks and runs


def pytest_collection_modifyitems(config, items):
    there = torch.cuda.is_available()
    if not there and config.option.markexpr.strip() == "gpu":
        pytest.exit(f"{NONE}, so nothing of `make gpu` was tested", returncode=1)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not there:
                item.add_marker(pytest.mark.skip(reason=NONE))
