"""What pip installs is whole: every module, every configuration, every console command."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that a build folder left in the tree cannot hide a missing package."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)],
        check=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def tracked(*patterns):
    found = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return found.splitlines()


def test_every_module_configuration_and_tool_is_in_the_wheel(names):
    wanted = tracked("torchreid_dfrst/*.py", "torchreid_dfrst/py.typed")
    wanted += [f"torchreid_dfrst/{name}" for name in tracked("configs/*", "tools/*.py")]
    assert len(wanted) > 20
    assert sorted(set(wanted) - names) == []


def test_every_tool_is_a_console_command(wheel, names):
    with zipfile.ZipFile(wheel) as file:
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        commands = dict(line.split(" = ") for line in file.read(entry).decode().splitlines() if " = " in line)
    tools = {Path(name).stem for name in tracked("tools/*.py")} - {"__init__"}
    assert commands == {f"dfrst-{t.replace('_', '-')}": f"torchreid_dfrst.tools.{t}:main" for t in tools}


def test_the_wheel_carries_its_licence_and_what_it_needs(wheel, names):
    with zipfile.ZipFile(wheel) as file:
        metadata = Parser().parsestr(file.read(next(n for n in names if n.endswith("METADATA"))).decode())
    assert any(name.endswith("LICENSE") for name in names)
    needed = " ".join(metadata.get_all("Requires-Dist"))
    assert all(name in needed for name in ("torch", "torchvision", "torchreid", "numpy", "scipy", "faiss-gpu", "gdown"))


def test_no_file_of_the_project_names_a_machine():
    secret = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/"]
    for name in tracked():
        content = (ROOT / name).read_bytes()
        assert not any(word.encode() in content for word in secret), f"{name} names a folder of one machine"
