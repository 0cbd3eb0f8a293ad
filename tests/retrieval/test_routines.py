"""Whatever makes the products, and whatever torch is allowed elsewhere, the lists are those of the definition."""

import threading

import faiss
import numpy as np
import pytest
import torch

from tests.retrieval.scenes import clusters, slow_distance, symmetric_transit
from tests.retrieval.test_exactness import check
from torchreid_dfrst.retrieval import (
    Parameters,
    Reranking,
    distance,
    embeddings,
    faiss_search,
    jaccard_blocks,
    jaccard_distance,
    memory,
    neighbors,
    products,
    rerank,
)
from torchreid_dfrst.retrieval.embeddings import full_precision


def fastest(name, monkeypatch):
    """Every product is large enough for a choice, and this routine wins it."""
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "SETTLING", 0)
    monkeypatch.setattr(products, "rates", lambda threads: dict.fromkeys([*products.FLOAT32, "bfloat16"], 1.0) | name)


@pytest.mark.parametrize("routine", products.FLOAT32)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_every_routine_gives_the_lists_and_distances_of_the_definition(routine, weight, monkeypatch):
    fastest({routine: 2.0}, monkeypatch)
    x, _ = clusters(420, 24, seed=1)
    transit = symmetric_transit(420)
    slow = slow_distance(x, x, transit.table, weight)
    found = neighbors(x, x, 9, transit=transit, weight=weight, memory_limit=1_000_000)
    assert found.method == f"{routine}, fp32"
    check(found, slow)
    np.testing.assert_allclose(distance(x, x[:50], weight=0.0), slow_distance(x, x[:50]), atol=1e-3)


def test_where_rounded_copies_do_not_fit_it_goes_on_in_float32(monkeypatch):
    fastest({"bfloat16": 9.0}, monkeypatch)
    x, _ = clusters(420, 64, seed=1)
    size = 420, 420, 64, 9
    limit = memory.with_gaps(memory.lists(420, 9) + memory.settling(16, 9) + memory.whole(420, 64)) + 1000
    with pytest.raises(ValueError, match="for other forms of the embeddings"):
        memory.search_plan(*size, limit, memory.rounded(420, 64, 420, 9))
    assert neighbors(x, x, 9).method == "torch, bf16"
    found = neighbors(x, x, 9, memory_limit=limit)
    assert found.method == "torch, fp32"
    check(found, slow_distance(x, x))
    for job in (lambda **options: neighbors(x, x, 9, **options), lambda **options: jaccard_blocks(x, k1=9, **options)):
        with pytest.raises(ValueError, match="too small"):
            job(memory_limit=limit, precision="bf16")


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
@pytest.mark.parametrize("fails", [False, True])
def test_products_are_full_and_what_torch_is_allowed_is_put_back(allowed, fails, monkeypatch):
    seen = []

    def look(a, b):
        seen.append((current(), reductions()))
        if fails:
            raise RuntimeError("no product")
        return torch.mm(a, b.t())

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        outside = current(), reductions()
        monkeypatch.setattr(products, "_torch", look)
        x, _ = clusters(30, seed=1)
        if fails:
            with pytest.raises(RuntimeError, match="no product"):
                neighbors(x, x, 3)
        else:
            neighbors(x, x, 3)
        assert (current(), reductions()) == outside
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen and all(not reduced for _, reduced in seen)
    assert all(set(mode) <= {"ieee", "none"} for mode, _ in seen)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("routine", products.FLOAT32)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_rounded_inside_autocast(routine, precision, kind, monkeypatch):
    fastest({routine: 2.0}, monkeypatch)
    x, _ = clusters(300, 64, seed=1)
    slow = slow_distance(x, x)
    outside = rerank(x[:40], x[40:], k1=8, k2=3, precision=precision)
    with torch.autocast("cpu", kind):
        check(neighbors(x, x, 9, precision=precision), slow)
        np.testing.assert_allclose(distance(x, x), slow, atol=1e-3)
        np.testing.assert_array_equal(rerank(x[:40], x[40:], k1=8, k2=3, precision=precision), outside)
        assert torch.is_autocast_enabled("cpu") and torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == kind


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_default_type_of_torch_is_no_obstacle(precision, monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)
    products.rates.cache_clear()
    x, _ = clusters(200, seed=1)
    expected = rerank(x[:40], x[40:], k1=8, k2=3, precision=precision), jaccard_distance(x, k1=8, k2=3)
    products.rates.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        found = rerank(x[:40], x[40:], k1=8, k2=3, precision=precision), jaccard_distance(x, k1=8, k2=3)
        assert set(products.rates(torch.get_num_threads())) >= set(products.FLOAT32)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-6)


def current():
    places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    return tuple(place.fp32_precision for place in places)


def reductions():
    return torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_the_last_thread_that_leaves_puts_back():
    assert reductions()
    first, second = threading.Event(), threading.Event()

    def other():
        with full_precision():
            first.set()
            second.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    first.wait(10)
    with full_precision():
        pass
    assert not reductions(), "the other thread is still at work"
    second.set()
    thread.join()
    assert reductions()


def test_a_choice_by_torchs_newer_names_is_no_obstacle():
    place = torch.backends.cuda.matmul
    before, x = place.fp32_precision, clusters(30, seed=1)[0]
    place.fp32_precision = "tf32"
    try:
        check(neighbors(x, x, 3), slow_distance(x, x))
        assert place.fp32_precision == "tf32"
    finally:
        place.fp32_precision = before


@pytest.fixture
def two_gpus(monkeypatch):
    """FAISS that seems to have two GPUs and spreads an index over two parts as it does over them."""
    asked, kept = [], []

    class Options:
        shard = False

    def spread(index, options, count):
        asked.append((options.shard, count, index.ntotal))
        shards = faiss.IndexShards(index.d, True, True)
        whole = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, -1)
        for part in np.array_split(whole.copy(), count):
            flat = faiss.IndexFlatIP(index.d)
            flat.add(part)
            shards.add_shard(flat)
            kept.append(flat)
        return shards

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", Options, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", spread, raising=False)
    return asked


def test_faiss_spreads_its_index_over_the_gpus_it_finds(two_gpus):
    assert faiss_search.gpus("auto") == faiss_search.gpus("cuda") == 2
    assert faiss_search.gpus("cpu") == 0
    x, _ = clusters(40, seed=7)
    found = neighbors(x, x, 3)
    assert two_gpus == [(True, 2, 40)] and found.method == "faiss on 2 GPUs"
    check(found, slow_distance(x, x))


def test_queries_and_gallery_are_one_index(two_gpus):
    x, _ = clusters(130, seed=7)
    job = Reranking(x[:30], x[30:], Parameters(k1=8, k2=3))
    assert two_gpus == [(True, 2, 130)] and job.near.method == "faiss on 2 GPUs"
    check(job.near, slow_distance(x, x))
    other = Reranking(x[:30], x[30:], Parameters(k1=8, k2=3), device="cpu")
    np.testing.assert_allclose(np.concatenate(list(job.blocks())), other.matrix(), atol=2e-6)
    np.testing.assert_array_equal(job.top(5).index, other.top(5).index)


def test_products_take_what_faiss_cannot_do_on_a_gpu(two_gpus):
    x, _ = clusters(2100, 4, seed=7)
    fused = dict(transit=symmetric_transit(50), weight=0.1)
    for options in (dict(count=3, **fused), dict(count=3, precision="bf16")):
        assert neighbors(x[:50], x[:50], **options).method.startswith("torch")
    assert neighbors(x[:2], x, 2040).method.startswith("faiss")
    assert neighbors(x[:2], x, 2041).method.startswith("torch")
    with pytest.raises(ValueError, match="2041 neighbours: FAISS gives at most 2040 on a GPU"):
        neighbors(x[:2], x, 2041, method="faiss")
    with pytest.raises(ValueError, match="take method 'product' for precision 'bf16'"):
        neighbors(x[:2], x, 3, method="faiss", precision="bf16")


@pytest.mark.parametrize(
    ("rows", "columns", "width", "bfloat16", "reduced"),
    [
        (13_000, 13_000, 2048, 870.0, False),  # saves 33 microseconds a row
        (94_000, 94_000, 2048, 870.0, True),  # 235
        (94_000, 94_000, 2048, 500.0, False),
        (13_000, 13_000, 2048, 4000.0, False),  # 56
        (1_000, 47_000, 2048, 870.0, True),  # not symmetric: all of it is made
        (94_000, 94_000, 256, 870.0, False),
    ],
)
def test_bfloat16_is_used_unasked_where_it_saves_more_than_its_lists_cost(
    rows, columns, width, bfloat16, reduced, monkeypatch
):
    monkeypatch.setattr(products, "rates", lambda threads: {"torch": 200.0, "onednn": 420.0, "bfloat16": bfloat16})
    left = embeddings.Stack(np.empty((rows, width), np.float32))
    right = left if rows == columns else embeddings.Stack(np.empty((columns, width), np.float32))
    assert products.choose(left, right, "auto", torch.device("cpu"))[2] is reduced
    assert products.choose(left, right, "bf16", torch.device("cpu"))[2]
    assert products.choose(left, right, "fp32", torch.device("cpu"))[::2] == ("onednn", False)
