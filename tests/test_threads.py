"""How threads of a command wait: by what is free, before torch loads, never over the user."""

import os
import sys

import pytest

from torchreid_dfrst.cli import threads
from torchreid_dfrst.cli.threads import chosen, settle, watched

SPINNING, SLEEPING = {"GOMP_SPINCOUNT": "10000"}, {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(
    ("given", "cores", "free", "expected"),
    [
        ({}, 2, 1.9, SPINNING),
        ({}, 2, 1.1, SLEEPING),
        ({}, 16, 11.8, SLEEPING),
        ({"OMP_NUM_THREADS": "2"}, 2, 0.0, SLEEPING),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 2, 0.0, {}),
        ({"GOMP_SPINCOUNT": "5"}, 2, 2.0, {}),
    ],
)
def test_what_is_free_decides_and_the_user_wins(given, cores, free, expected):
    assert chosen(given, cores, free) == expected


def test_it_is_decided_before_torch_loads_or_not_at_all(monkeypatch):
    for name in threads.WAITS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what is set below goes when the test ends
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "watched", lambda: (2, 2.0))
    monkeypatch.setitem(sys.modules, "torch", object())
    settle()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    settle()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


def test_processors_are_watched():
    cores, free = watched(0.02)
    assert cores >= 1 and 0 <= free <= cores
