import json
import multiprocessing
import sys

import numpy as np
from worlds import road, traffic

from tools.studies.benchmarks import spacetime as benchmark_spacetime
from torchreid_dfrst.spatiotemporal import MODELS
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    benchmark_spacetime.main()
    return json.loads(capsys.readouterr().out)


def test_the_formula_written_down_is_what_the_model_gives():
    train, network = traffic(0), road()
    model, query = LogNormal().fit(train, network), traffic(1, 9)
    expected = model.distance(query, train)
    assert np.ptp(expected) > 0.5, "equal distances would prove nothing"
    np.testing.assert_allclose(benchmark_spacetime.naive(model, query, train, network), expected, rtol=0, atol=1e-5)


def test_a_stream_is_as_small_as_its_blocks():
    train, network = traffic(0), road()
    with multiprocessing.get_context("spawn").Pool(1) as fresh:  # what other tests left in memory counts for nobody
        found = fresh.apply(benchmark_spacetime.stream, (LogNormal().fit(train, network), network, 4096, 16000, 0))
    assert found["matrix_mb"] == 262 and 0 < found["peak_mb"] < 150 and 0 <= found["smallest"] < 2


def test_one_json_object_with_a_ratio_for_every_model(monkeypatch, capsys, tiny_veri):
    found = run(monkeypatch, capsys, "--root", tiny_veri / "veri776", "--rounds", 1, "--clock", "cpu", "--json")
    models = {*MODELS, "likelihood, no relays"}
    assert set(found["seconds"]) == models | {"naive", "sgemm"}
    assert set(found["naive_over_ours"]) == set(found["sgemm_over_ours"]) == models
    assert found["largest_difference_to_naive"] < 1e-5 and found["clock"] == "cpu"
