"""What pip installs is whole: every module, configuration and console command; and imports are only what is used."""

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


WITHOUT_TORCHREID = """
import sys
sys.modules["torchreid"] = None  # importing it raises ImportError
import numpy as np
import torchreid_dfrst
from torchreid_dfrst import evaluation, retrieval, spatiotemporal
from torchreid_dfrst.sightings import CameraNetwork, Sightings

rng = np.random.default_rng(0)
def part(vehicles):
    identity = np.repeat(np.arange(vehicles), 3)
    camera = np.tile(np.arange(3), vehicles)
    seen = Sightings(camera, 1000 * identity + rng.lognormal(4, 0.2, len(camera)) * camera, identity)
    return retrieval.Features(np.eye(vehicles)[identity] + rng.normal(0, 0.1, (len(camera), vehicles)), seen)
network = CameraNetwork(np.arange(3), np.array([[0, 500, 900], [500, 0, 400], [900, 400, 0]]))
features = part(12)
extraction = retrieval.Extraction(features[::3], features, part(20).sightings, network=network)
result = evaluation.score(extraction, rerank={"k1": 4, "k2": 2}, spacetime={"model": "lognormal", "weight": 0.1})
assert len(result.metrics) == 4 and all(row.mAP > 0.9 for row in result.metrics.values()), result.metrics
try:
    torchreid_dfrst.register()
except ImportError:
    print("done")
"""


def test_scoring_needs_no_torchreid():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCHREID], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr[-3000:]


def test_importing_the_package_imports_nothing_heavy():
    heavy = "torch", "torchreid", "torchvision", "faiss", "matplotlib", "cv2", "scipy", "numpy"
    code = f"import sys, time, torchreid_dfrst; print(time.process_time(), [m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, imported = run.stdout.split(maxsplit=1)
    assert imported == "[]\n"
    assert float(seconds) < 0.5
