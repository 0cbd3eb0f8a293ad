"""What the tests share."""

import os
from pathlib import Path

import pytest
from layouts import write_upstream_layout
from tiny import write_tiny_veri

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data that lies beside the project but is not part of it."""
    path = Path(os.environ.get("TORCHREID_DFRST_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set TORCHREID_DFRST_SHARED to its folder")
    return path


@pytest.fixture(scope="session")
def veri_lists(shared: Path) -> Path:
    """The real VeRi-776 lists, without the images."""
    return shared / "data" / "veri776-metadata"


@pytest.fixture(scope="session")
def city_a(shared: Path) -> Path:
    """A data set in VeRi-776's format, rendered from real car models."""
    return shared / "data" / "city-a"


@pytest.fixture
def tiny_veri(tmp_path: Path) -> Path:
    """A root whose folder ``veri776`` is a complete tiny data set; a test may spoil it."""
    write_tiny_veri(tmp_path / "data" / "veri776")
    return tmp_path / "data"


@pytest.fixture(scope="session", params=["0.2.5", "1.4.0"])
def torchreid_layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """What goes before the installed torchreid on PYTHONPATH: nothing, or upstream's layout of the same code."""
    return None if request.param == "0.2.5" else write_upstream_layout(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny data set, a network trained on it for one epoch (``run``) and its ``features.npz``."""
    from torchreid_dfrst.cli import invoke

    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_veri(folder / "data" / "veri776")
    words = f"train --root {folder}/data -s veri776 model.name dfrst_resnet18 model.pretrained false data.height 64 "
    words += "data.width 64 data.workers 0 data.batch_size_train 8 scheduler.warmup_epoch 0 scheduler.stepsize [1] "
    assert invoke(f"{words} train.max_epoch 1 train.save_dir {folder}/run".split()) == 0
    words = f"extract --weights {folder}/run/weights.safetensors --root {folder}/data -t veri776 --workers 0 --train"
    assert invoke(f"{words} --out {folder}/features.npz".split()) == 0
    return folder
