import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchreid

from torchreid_dfrst.acceleration import accelerate, accelerated, re_ranking

ROOT = Path(__file__).parent.parent

SCRIPT = """
import numpy as np, torch, torchreid
from torchreid_dfrst.acceleration import accelerate

x = torch.nn.functional.normalize(torch.randn(80, 8, generator=torch.Generator().manual_seed(0)))
far = torchreid.metrics.compute_distance_matrix
parts = [far(a, b).numpy() for a, b in ((x[:20], x[20:]), (x[:20], x[:20]), (x[20:], x[20:]))]
who = np.random.default_rng(0).integers(0, 5, 80)
where = np.arange(80) % 3
columns = who[:20], who[20:], where[:20], where[20:]
engine = next(m for n, m in __import__("sys").modules.items() if n.endswith("engine.engine"))
before = engine.re_ranking, torchreid.utils.re_ranking, torchreid.metrics.evaluate_rank
slow = torchreid.utils.re_ranking(*parts), torchreid.metrics.evaluate_rank(parts[0], *columns, max_rank=10)
undo = accelerate()
assert accelerate()() is None
assert engine.re_ranking is torchreid.utils.re_ranking is not before[1]
assert engine.metrics.evaluate_rank is not before[2]
fast = engine.re_ranking(*parts, k1=20, k2=6, lambda_value=0.3), engine.metrics.evaluate_rank(
    parts[0], *columns, max_rank=10, use_metric_cuhk03=False
)
np.testing.assert_allclose(fast[0], slow[0], atol=1e-5)
np.testing.assert_allclose(fast[1][0], slow[1][0], atol=1e-6)
assert abs(fast[1][1] - slow[1][1]) < 1e-6
undo()
assert (engine.re_ranking, torchreid.utils.re_ranking, torchreid.metrics.evaluate_rank) == before
print("both equal", torchreid.utils.re_ranking.__module__)
"""


def test_either_layout_of_torchreid_is_accelerated_and_put_back(torchreid_layout):
    path = os.pathsep.join(str(p) for p in (torchreid_layout, ROOT) if p)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    nested = "torchreid.reid." in run.stdout
    assert nested == (torchreid_layout is None), run.stdout


def test_a_with_block_ends():
    before = torchreid.utils.re_ranking
    with accelerated():
        assert torchreid.utils.re_ranking is re_ranking
    assert torchreid.utils.re_ranking is before


def test_another_protocol_runs_torchreids_own(monkeypatch):
    called = []
    monkeypatch.setattr(torchreid.metrics, "evaluate_rank", lambda *a, **k: called.append(a) or "own")
    undo = accelerate()
    try:
        assert torchreid.metrics.evaluate_rank(np.zeros((1, 1)), [0], [0], [0], [1], use_metric_cuhk03=True) == "own"
    finally:
        undo()
    assert len(called) == 1


def test_no_match_is_a_clear_error():
    with accelerated(), pytest.raises(ValueError, match="all images are from camera 3"):
        torchreid.metrics.evaluate_rank(
            np.zeros((1, 2)), np.array([1]), np.array([1, 1]), np.array([3]), np.array([3, 3])
        )


@pytest.mark.parametrize("kind", [float, str, list])
def test_labels_of_any_kind_are_compared_as_torchreid_compares_them(kind):
    generator = np.random.default_rng(0)
    distance = generator.random((6, 30)).astype(np.float32)
    columns = [generator.integers(0, 3, size) for size in (6, 30, 6, 30)]
    labels = [c.tolist() if kind is list else c.astype(kind) for c in columns]
    expected = torchreid.metrics.evaluate_rank(distance, *columns, max_rank=10, use_cython=False)
    with accelerated():
        found = torchreid.metrics.evaluate_rank(distance, *labels, max_rank=10)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert found[1] == pytest.approx(expected[1], abs=1e-6) and type(found[1]) is type(expected[1])


@pytest.mark.parametrize("max_rank", ["5", 2.5])
def test_a_length_of_the_curve_that_is_no_whole_number_is_refused(max_rank):
    with accelerated(), pytest.raises(ValueError, match=r"max_rank is .*, expected a whole number"):
        torchreid.metrics.evaluate_rank(np.zeros((1, 1)), *(np.array([i]) for i in (1, 1, 0, 1)), max_rank=max_rank)
