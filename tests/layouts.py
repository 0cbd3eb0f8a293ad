"""torchreid as its GitHub repository lays it out, made from the installed package."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def installed_torchreid() -> Path:
    """Folder of the installed package, found without importing it."""
    return Path(str(importlib.metadata.distribution("torchreid").locate_file("torchreid")))


def write_upstream_layout(folder: Path) -> Path:
    """Write ``folder/torchreid`` as version 1.4.0 has it: the same modules, not under ``torchreid.reid``.

    Returns:
        ``folder``, to be put on ``PYTHONPATH``.
    """
    shutil.copytree(installed_torchreid() / "reid", folder / "torchreid", ignore=shutil.ignore_patterns("__pycache__"))
    for path in sorted((folder / "torchreid").rglob("*.py")):
        path.write_text(path.read_text(encoding="utf-8").replace("torchreid.reid", "torchreid"), encoding="utf-8")
    return folder


def run_with(layout: Path | None, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python from the project's root, with the torchreid in ``layout`` before the installed one."""
    paths = ([str(layout)] if layout else []) + [str(ROOT)]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**env, "PYTHONPATH": ":".join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
