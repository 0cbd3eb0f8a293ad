"""The benchmark prints what docs/performance.md and the recorded figures rest on."""

import json
import multiprocessing
import sys

import pytest

from tools.benchmark_retrieval import main
from torchreid_dfrst import benchmark_retrieval

RATIOS = (
    "rerank_speedup",
    "rerank_memory_ratio",
    "evaluate_speedup",
    "floor_ratio",
    "bf16_floor_ratio",
    "fused_over_appearance",
)


def run(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *words.split()])
    main()
    return capsys.readouterr().out


def test_one_json_object_with_the_promised_numbers(monkeypatch, capsys):
    found = json.loads(run("--scale tiny --rounds 1 --json", monkeypatch, capsys))
    for name in RATIOS:
        assert found[name] > 0, name
    assert 0 <= found["rerank_max_abs_diff"] <= 1e-5 and found["rerank_beyond_1e-5"] == 0
    assert found["evaluate_diff"] <= 1e-6
    assert set(found["memory_bytes"]) == {"fp32", "bf16", "torchreid"}
    assert {"neighbours", "encoding", "distances", "whole"} <= set(found["stages"]["fp32"])
    assert found["fp32_search"]["fallbacks"] == 0 and found["rounds"] == 1


def test_without_torchreid_nothing_is_compared_with_it(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_retrieval, "in_fresh_process", lambda scale, seed, who: 1)
    found = json.loads(run("--scale tiny --rounds 2 --without-torchreid --json", monkeypatch, capsys))
    assert found["rerank_speedup"] is None and found["evaluate_speedup"] is None
    assert found["fused_over_appearance"] > 0 and found["rounds"] == 2
    assert "rerank_max_abs_diff" not in found


def test_rounds_are_at_least_one(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("--scale tiny --rounds 0", monkeypatch, capsys)
    assert "--rounds is 0" in capsys.readouterr().err


def test_a_process_that_dies_is_an_error_and_not_a_wait_without_end(monkeypatch):
    quick = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: quick)
    with pytest.raises(RuntimeError, match="memory of fp32 at unheard-of ended with 1"):
        benchmark_retrieval.in_fresh_process("unheard-of", 0, "fp32")
