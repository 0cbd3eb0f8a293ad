"""The limit of memory holds for everything after the search too: measured in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.retrieval.scenes import clusters
from torchreid_dfrst.retrieval import Parameters, Reranking, jaccard_blocks, jaccard_distance, neighbors, rerank

MEASURE = """
import ctypes, gc, sys
from collections import deque
import numpy as np
from tests.retrieval.scenes import TableTransit, clusters, unit
from tools.studies.benchmarks.parts import status
from torchreid_dfrst.retrieval import Parameters, Reranking, jaccard_blocks, neighbors

options = dict(memory_limit=int(sys.argv[1]))
tight = dict(memory_limit=int(sys.argv[2]))
half = dict(memory_limit=2 * int(sys.argv[2]))

def last(blocks):
    deque(blocks, maxlen=1)

def jobs(most):
    x, _ = clusters(min(most, 7000), 64, 280, seed=1, noise=0.5)
    count = min(most, 3000)
    few, copies = x[:count], x[:count].copy()
    copies[: count // 5] = x[0]
    close = unit(np.ones((1, 64)) + 0.15 * np.random.default_rng(0).normal(size=(count, 64)))
    wide, _ = clusters(min(most, 1000), 2048, 40, seed=1, noise=0.5)
    alike = unit(np.ones((1, 2048)) + 0.03 * np.random.default_rng(0).normal(size=(min(most, 1000), 2048)))
    table = TableTransit(np.broadcast_to(np.linspace(0, 2, count)[:, None], (count, count)))
    query, gallery = few[: count // 5], few[count // 5 :]
    whole = x[: len(x) // 5], x[len(x) // 5 :]
    tied = dict(device="cpu", **tight)
    return dict(
        neighbors=lambda: neighbors(x, x, 21, device="cpu", **options),
        rerank=lambda: last(Reranking(*whole, Parameters(k2=12), device="cpu", **options).blocks()),
        jaccard=lambda: last(jaccard_blocks(x, k2=12, **options)),
        copies=lambda: neighbors(copies, copies, 21, **tied),
        close=lambda: neighbors(close, close, 21, device="cpu", **half),
        fused=lambda: last(Reranking(query, gallery, Parameters(), transit=table, weight=0.2, **tied).blocks()),
        wide=lambda: neighbors(wide, wide, 21, device="cpu", **half),
        alike=lambda: neighbors(alike, alike, 21, **tied),
        top=lambda: Reranking(query, gallery, Parameters(lambda_value=0.0), **tied).top(100),
    )

for job in jobs(300).values():  # which loads all code
    job()
for name, job in jobs(7000).items():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    base = status("VmRSS")
    job()
    print(name, status("VmHWM") - base)
"""


MOST = {"copies": 1, "close": 2, "fused": 1, "wide": 2, "alike": 1, "top": 1}
"""Twelve million bytes, how many times."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux records of a process's memory")
def test_the_peak_stays_below_the_limit():
    limit, tight = 16_000_000, 12_000_000
    sleeping = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin take minutes on a busy machine
    command = [sys.executable, "-c", MEASURE, str(limit), str(tight)]
    done = subprocess.run(command, env=sleeping, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peaks = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(peaks) == {"neighbors", "rerank", "jaccard", "copies", "close", "fused", "wide", "alike", "top"}
    for name, most in MOST.items():
        assert peaks.pop(name) <= most * tight, name
    assert max(peaks.values()) <= limit and min(peaks.values()) > limit / 8, peaks


JOBS = {
    "neighbors": lambda x, **options: neighbors(x, x, 9, **options),
    "rerank": lambda x, **options: rerank(x[:40], x[40:], k1=8, k2=3, **options),
    "Reranking": lambda x, **options: Reranking(x[:40], x[40:], Parameters(8, 3), **options),
    "jaccard_distance": lambda x, **options: jaccard_distance(x, k1=8, k2=3, **options),
    "jaccard_blocks": lambda x, **options: jaccard_blocks(x, k1=8, k2=3, **options),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_limit_too_small_to_search_in_is_named_at_the_call(job):
    x, _ = clusters(300)
    with pytest.raises(ValueError, match=r"a memory limit of 1000 bytes is too small .*: \d+ are needed"):
        JOBS[job](x, memory_limit=1000)


@pytest.mark.parametrize("job", ["rerank", "Reranking", "jaccard_distance"])
def test_encodings_that_do_not_fit_are_named_with_what_they_need(job, monkeypatch):
    monkeypatch.setattr("torchreid_dfrst.retrieval.jaccard.ENTRY_BYTES", 800)
    x, _ = clusters(300)
    with pytest.raises(ValueError, match=r"too small for the encodings of these 300 images .*: \d+ are needed"):
        JOBS[job](x, memory_limit=1_500_000)
