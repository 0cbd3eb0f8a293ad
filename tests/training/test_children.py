"""What becomes of the signal that a child process has ended."""

import signal
import subprocess
import sys

import pytest
from runs import manager
from torch.utils.data import DataLoader


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_a_handler_of_ones_own_stays(tiny_veri):
    seen = []
    signal.signal(signal.SIGCHLD, lambda *_: seen.append(True))
    own = signal.getsignal(signal.SIGCHLD)
    next(iter(manager(tiny_veri, workers=1).train_loader))
    assert signal.getsignal(signal.SIGCHLD) is own
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert seen


def test_pytorchs_handler_goes_also_after_a_loader_of_its_own(tiny_veri, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    next(iter(DataLoader([1, 2], num_workers=1)))
    assert callable(signal.getsignal(signal.SIGCHLD)), "it was there"
    next(iter(manager(tiny_veri, workers=1).train_loader))
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
