"""How threads wait for each other, by what the machine has free when a command starts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

WATCHED_S = 0.1
"""How long the processors are watched."""
SPIN = 10_000
"""Turns that a thread waits for the next piece of work before it sleeps; libgomp's own choice is 300,000."""
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def chosen(given: Mapping[str, str], cores: int, free: float) -> dict[str, str]:
    """Environment variables for OpenMP; what the user has given stays.

    On an idle machine threads wait for each other actively, but not for as long as they would by themselves: a process
    that starts later would take their turns. On a busy one they sleep at once.

    Args:
        given: the environment.
        cores: processors that this process may use.
        free: how many of them nobody used.
    """
    if any(name in given for name in WAITS):
        return {}
    return {"GOMP_SPINCOUNT": str(SPIN)} if round(free) >= cores else {"OMP_WAIT_POLICY": "PASSIVE"}


def settle() -> None:
    """Choose for this process, if it has not loaded torch, which reads the variables once."""
    if "torch" not in sys.modules:
        os.environ.update(chosen(os.environ, *watched()))


def watched(seconds: float = WATCHED_S) -> tuple[int, float]:
    """Processors that this process may use, and how many of them were idle meanwhile; all, where nobody can say."""
    if not hasattr(os, "sched_getaffinity"):
        return (os.cpu_count() or 1,) * 2
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}

    def idle() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:
            rows = [line.split() for line in file if line.split()[0] in mine]
        counts = [list(map(int, row[1:9])) for row in rows]
        return sum(row[3] + row[4] for row in counts), sum(map(sum, counts))

    try:
        before = idle()
        time.sleep(seconds)
        after = idle()
    except (OSError, ValueError, IndexError):
        return len(mine), len(mine)
    passed = after[1] - before[1]
    return len(mine), len(mine) * (after[0] - before[0]) / passed if passed else len(mine)
