"""The benchmark prints what docs/performance.md and the recorded figures rest on."""

import json
import multiprocessing
import sys

import numpy as np
import pytest
import torchreid

from tools.studies.benchmarks import parts
from tools.studies.benchmarks.retrieval import HELD, SCALES, main
from tools.studies.benchmarks.synthetic import features

RATIOS = (
    "rerank_speedup",
    "rerank_memory_ratio",
    "evaluate_speedup",
    "floor_ratio",
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
    assert set(found["memory_bytes"]) == {"fp32", "torchreid"}
    assert {"neighbours", "encoding", "distances", "whole"} <= set(found["stages"])
    assert 0.4 < found["baseline_mAP"] < 0.8
    assert found["search"]["fallbacks"] == 0 and found["rounds"] == 1


def test_without_torchreid_nothing_is_compared_with_it(monkeypatch, capsys):
    monkeypatch.setattr(parts, "in_fresh_process", lambda *_, **__: {"memory_bytes": 1})
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
    with pytest.raises(RuntimeError, match=r"measured unheard-of at \(9, 9, 4, 2\) ended with 1"):
        parts.in_fresh_process((9, 9, 4, 2), 0, "unheard-of", keep=True)


def here(monkeypatch):
    monkeypatch.setattr(parts, "in_fresh_process", parts.cold)


def test_distances_in_blocks_with_their_floor(monkeypatch, capsys):
    here(monkeypatch)
    monkeypatch.setattr("tools.studies.benchmarks.retrieval.HELD", 100)
    monkeypatch.setattr("tools.studies.benchmarks.retrieval.FLOOR_ROWS", 70)
    found = json.loads(run("--scale tiny --rounds 1 --json --job streamed", monkeypatch, capsys))
    assert found["images"] == 300 and found["floor_is_extrapolated"] and found["floor_rows"] == 70
    assert {"fp32", "fused"} == set(found["streamed"]) == set(found["memory_bytes"])
    assert min(found[name] for name in ("floor_ratio", "fused_over_appearance")) > 0
    for name in ("rerank_speedup", "rerank_max_abs_diff", "rerank_memory_ratio", "evaluate_speedup"):
        assert found[name] is None, name
    assert "torchreid" in found["note"] and found["streamed"]["fp32"]["stages"]["distances"] > 0


def test_the_whole_job_in_fresh_processes_gives_the_same_scores(monkeypatch, capsys):
    here(monkeypatch)
    found = json.loads(run("--scale tiny --rounds 1 --json --job cold", monkeypatch, capsys))
    assert found["cold_mAP"]["fp32"] == pytest.approx(found["cold_mAP"]["torchreid"], abs=1e-5)
    assert found["cold_speedup"] > 0


def test_fused_distances_are_those_that_numpy_gives(monkeypatch, capsys):
    found = json.loads(run("--scale tiny --rounds 1 --json --job transit", monkeypatch, capsys))
    for name in ("qg", "nn"):
        assert found[f"transit_{name}_max_abs_diff"] < 1e-5 and found[f"transit_{name}_speedup"] > 0
        assert found[f"transit_{name}_speedup_float64"] > 0
    # the bound that knows the fused thresholds, farthest included, against that of the nearest alone
    assert 0 < found["bound_share_of_pairs"] < 1 and 0 < found["bound_share_of_pairs_da_k"] < 1
    assert found["bound_over_block"] > 0


def test_spcl_runs_beside_ours(tmp_path, monkeypatch, capsys):
    code = "def compute_jaccard_distance(x, print_flag, search_option):\n    return (x @ x.T).numpy()\n"
    (tmp_path / "faiss_rerank.py").write_text(code)
    words = f"--scale tiny --rounds 1 --json --job clustering --spcl {tmp_path}"
    found = json.loads(run(words, monkeypatch, capsys))
    assert found["clustering_speedup"] > 0 and found["clustering_max_abs_diff"] > 0.1
    with pytest.raises(SystemExit):
        run(words + "/elsewhere", monkeypatch, capsys)
    assert "no faiss_rerank.py in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--scale 100k --job cold", monkeypatch, capsys)
    assert "all 100000 images" in capsys.readouterr().err


def test_memory_and_exchange_of_several_processes(monkeypatch, capsys):
    queries = SCALES["tiny"][0]
    monkeypatch.setitem(SCALES, "veri", SCALES["tiny"])
    whole = json.loads(run("--job shards --images 300 --json", monkeypatch, capsys))
    assert [whole[name] for name in ("queries", "gallery", "dimensions", "images")] == [
        queries,
        300,
        512,
        300 + queries,
    ]
    found = whole["shards"]
    assert [list(ranks) for ranks in found.values()] == [["0"], ["0", "1"], ["0", "1", "2"]]
    assert found["1"]["0"]["exchanged_bytes"] == 0
    # half of the columns, all rows there, and back the candidates and the lowest score of each
    assert found["2"]["1"]["exchanged_bytes"] == 4 * 512 * (150 + queries) + queries * (8 * (2 * 21 + 16) + 4)
    assert found["3"]["0"]["exchanged_bytes"] == sum(found["3"][rank]["exchanged_bytes"] for rank in "12")


def test_torchreid_is_beside_ours_wherever_it_fits():
    fits = {name for name, size in SCALES.items() if sum(size[:2]) <= HELD}
    assert {"veri", "vehicleid"} <= fits and not fits & {"25k", "100k", "msmt17", "veriwild"}


def test_evaluation_is_compared_with_the_python_path_even_where_cython_is_built(monkeypatch):
    asked = []

    def watched(*arguments, use_cython=True):
        asked.append(use_cython)
        return np.ones(3), 0.5

    monkeypatch.setattr(torchreid.metrics, "evaluate_rank", watched)
    assert parts.their_scores(np.zeros((2, 2)))[1] == 0.5 and asked == [False]


@pytest.mark.parametrize("scale", SCALES)
def test_features_are_as_hard_as_real_ones(scale):
    queries, gallery, width, vehicles = SCALES[scale]
    part = min(1.0, 3000 / (queries + gallery))  # the same images of a vehicle, fewer vehicles
    size = (round(part * queries), round(part * gallery), min(width, 512), max(8, round(part * vehicles)))
    mean = parts.baseline(*features(*size, np.random.default_rng(776)))
    assert 0.4 < mean < 0.8, mean


def test_a_larger_city_is_not_a_harder_one():
    query, gallery = features(*SCALES["25k"], np.random.default_rng(776))
    assert 0.4 < parts.baseline(query[:300], gallery) < 0.8
