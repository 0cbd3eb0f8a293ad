"""Small networks and runs for the tests of training."""

import contextlib

import pytest
import torch
import torchreid
import torchvision
from networks import ThinResNet

from torchreid_dfrst.data import DATASETS


@pytest.fixture(autouse=True, scope="session")
def registered():
    for name, dataset in DATASETS.items():
        with contextlib.suppress(ValueError):
            torchreid.data.register_image_dataset(name, dataset)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks gain nothing from threads, and threads that wait for a busy machine are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def thin_resnets():
    """Networks with ``resnet18`` are small, and so are their checkpoints."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torchvision.models, "resnet18", ThinResNet)
        yield
