"""What pip installs is whole: every module, every configuration, every console command."""

import os
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


def test_every_module_and_configuration_is_in_the_wheel_and_no_study(names):
    wanted = tracked("torchreid_dfrst/*.py", "torchreid_dfrst/py.typed")
    wanted += [f"torchreid_dfrst/{name}" for name in tracked("configs/*.yaml", ":!configs/reproduce")]
    assert len(wanted) > 20
    assert sorted(set(wanted) - names) == []
    assert not any("tools" in name or "studies" in name or "reproduce" in name for name in names)


def test_there_is_one_console_command(wheel, names):
    with zipfile.ZipFile(wheel) as file:
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        commands = dict(line.split(" = ") for line in file.read(entry).decode().splitlines() if " = " in line)
    assert commands == {"dfrst": "torchreid_dfrst.cli:main"}


def test_an_installed_package_finds_its_configurations_by_name(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = "from torchreid_dfrst import config; print(*config.shipped()); print(len(config.read_yaml('demo')))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    shipped, sections = done.stdout.splitlines()
    assert shipped.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert int(sections) > 3


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
