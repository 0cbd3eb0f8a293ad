"""Neighbours, re-ranking, fused and Jaccard distances on a GPU equal those of the processor."""

import numpy as np
import pytest
import torch

from tests.retrieval.scenes import TableTransit, clusters, products, symmetric_transit
from torchreid_dfrst.retrieval import Parameters, Reranking, jaccard_distance, neighbors, rerank, search

X = clusters(3000, width=64, identities=100)[0]
X[[7, 900, 1510, 2020]] = X[3]
Y = clusters(500, width=64, identities=100, seed=1)[0]
TABLE = TableTransit(np.random.default_rng(2).uniform(0, 2, (500, 3000)))


def equal(found, expected):
    """Lists equal up to listed near-ties, distances to 1e-5."""
    np.testing.assert_allclose(found.distance, expected.distance, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.farthest, expected.farthest, rtol=0, atol=1e-5)
    near = {(row, *sorted(pair)) for row, *pair in expected.near_ties.tolist()}
    for row, place in zip(*np.nonzero(found.index != expected.index), strict=True):
        pair = sorted((int(found.index[row, place]), int(expected.index[row, place])))
        assert (int(row), *pair) in near, f"row {row} differs at {place} and lists no near-tie there"


@pytest.mark.parametrize(("method", "fused"), [("product", False), ("product", True), ("faiss", False)])
@pytest.mark.parametrize("same", [False, True])
def test_neighbours_are_those_of_the_processor(method, fused, same):
    if method == "faiss" and not search.faiss_gpus("cuda"):
        pytest.skip("FAISS sees no GPU")
    rows, given = (X, {}) if same else (Y, {})
    if fused:
        given = {"transit": symmetric_transit(3000) if same else TABLE, "weight": 0.3}
    expected = neighbors(rows, X, 21, device="cpu", method="product", **given)
    found = neighbors(rows, X, 21, device="cuda", method=method, **given)
    equal(found, expected)
    assert "cuda" in found.method or "GPU" in found.method


def test_products_are_float32_whatever_torch_was_told():
    place, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.fp32_precision
    place.fp32_precision = "tf32"
    try:
        tile = products(X[:1000], X, "cuda")
    finally:
        place.fp32_precision = before
    np.testing.assert_allclose(tile, X[:1000].astype(np.float64) @ X.T.astype(np.float64), rtol=0, atol=3e-6)


@pytest.mark.parametrize("definition", ["torchreid", "transreid", "fastreid"])
@pytest.mark.parametrize("fused", [False, True])
def test_re_ranking_is_that_of_the_processor(definition, fused):
    given = {"transit": symmetric_transit(3500), "weight": 0.3} if fused else {}
    expected, found = (rerank(Y, X, definition=definition, device=device, **given) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["torch", "faiss"])
def test_what_rests_on_either_search_is_that_of_the_processor(method, monkeypatch):
    if method == "faiss" and not search.faiss_gpus("cuda"):
        pytest.skip("FAISS sees no GPU")
    if method == "torch":
        monkeypatch.setattr(search, "faiss_gpus", lambda device: 0)
    found, top = jaccard_distance(X), Reranking(Y, X, Parameters())
    assert method in top.near.method
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(search, "faiss_gpus", lambda device: 0)
    np.testing.assert_allclose(found, jaccard_distance(X), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        top.top(100).distance, Reranking(Y, X, Parameters()).top(100).distance, rtol=0, atol=1e-5
    )


def test_a_memory_limit_holds_on_the_device():
    limit = 40_000_000
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = neighbors(X, X, 21, device="cuda", method="product", memory_limit=limit)
    assert torch.cuda.max_memory_allocated() - before <= limit + X.nbytes
    equal(found, neighbors(X, X, 21, device="cpu", method="product"))


def test_where_faiss_finds_no_gpu_torch_takes_its_own(monkeypatch):
    monkeypatch.setattr(search, "faiss_gpus", lambda device: 0)
    found = neighbors(Y, X, 21)
    assert found.method == "torch on cuda"
    equal(found, neighbors(Y, X, 21, device="cpu"))


def test_where_torch_finds_no_gpu_faiss_may_have_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    equal(neighbors(Y, X, 21), neighbors(Y, X, 21, device="cpu"))
