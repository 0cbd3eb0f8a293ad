"""Whatever makes the products, and whatever torch is allowed elsewhere, the lists are those of the definition."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

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
    jaccard,
    jaccard_blocks,
    jaccard_distance,
    neighbors,
    rerank,
    tiles,
)
from torchreid_dfrst.retrieval.search import faiss_gpus
from torchreid_dfrst.retrieval.tiles import full_precision

ROUTINES = ("onednn", "torch")


def take(routine, monkeypatch):
    """Products are made by this routine."""
    assert torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: routine == "onednn")


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_every_routine_gives_the_lists_and_distances_of_the_definition(routine, weight, monkeypatch):
    take(routine, monkeypatch)
    x, _ = clusters(420, 24, seed=1)
    transit = symmetric_transit(420)
    slow = slow_distance(x, x, transit.table, weight)
    found = neighbors(x, x, 9, transit=transit, weight=weight, memory_limit=1_000_000)
    assert found.method == "torch on cpu"
    check(found, slow)
    np.testing.assert_allclose(distance(x, x[:50], weight=0.0), slow_distance(x, x[:50]), atol=1e-3)


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
@pytest.mark.parametrize("fails", [False, True])
def test_products_are_full_and_what_torch_is_allowed_is_put_back(allowed, fails, routine, monkeypatch):
    take(routine, monkeypatch)
    seen, multiply = [], tiles._multiply

    def look(a, b):
        seen.append(current())
        if fails:
            raise RuntimeError("no product")
        return multiply(a, b)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        outside = current()
        monkeypatch.setattr(tiles, "_multiply", look)
        x, _ = clusters(300, 64, seed=1)
        if fails:
            with pytest.raises(RuntimeError, match="no product"):
                neighbors(x, x, 3)
        else:
            np.testing.assert_allclose(distance(x, x), slow_distance(x, x), atol=1e-6)
        assert current() == outside
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen and all(set(mode) <= {"ieee", "none"} for mode in seen)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("routine", ROUTINES)
def test_nothing_is_rounded_inside_autocast(routine, kind, monkeypatch):
    take(routine, monkeypatch)
    x, _ = clusters(300, 64, seed=1)
    slow = slow_distance(x, x)
    outside = rerank(x[:40], x[40:], k1=8, k2=3)
    with torch.autocast("cpu", kind):
        check(neighbors(x, x, 9), slow)
        np.testing.assert_allclose(distance(x, x), slow, atol=1e-3)
        np.testing.assert_array_equal(rerank(x[:40], x[40:], k1=8, k2=3), outside)
        assert torch.is_autocast_enabled("cpu") and torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == kind


def test_another_default_type_of_torch_is_no_obstacle():
    x, _ = clusters(200, seed=1)
    expected = rerank(x[:40], x[40:], k1=8, k2=3), jaccard_distance(x, k1=8, k2=3)
    torch.set_default_dtype(torch.float64)
    try:
        found = rerank(x[:40], x[40:], k1=8, k2=3), jaccard_distance(x, k1=8, k2=3)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-6)


def current():
    places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    return tuple(place.fp32_precision for place in places)


def test_the_last_thread_that_leaves_puts_back():
    torch.set_float32_matmul_precision("medium")
    try:
        outside = current()
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
        assert set(current()) <= {"ieee", "none"}, "the other thread is still at work"
        second.set()
        thread.join()
        assert current() == outside and not set(outside) <= {"ieee", "none"}
    finally:
        torch.set_float32_matmul_precision("highest")


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
def threads():
    """Set the number of torch's threads; it is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_number_of_threads_and_who_is_late_change_no_bit(weight, threads, monkeypatch):
    monkeypatch.setattr(tiles, "LADDER", ((64, 128),))
    x, transit = clusters(500, seed=3)[0], symmetric_transit(500)
    x[[7, 90, 251, 402]] = x[3]
    made, multiply = set(), tiles._multiply

    def late(a, b):
        made.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02 * (len(made) % 2))
        return multiply(a, b)

    monkeypatch.setattr(tiles, "_multiply", late)
    found = []
    for count in (1, 2, 3, 2 * tiles.WORKERS):
        made.clear()
        threads(count)
        job = Reranking(x[:100], x[100:], Parameters(k1=8, k2=3), transit, weight, keep=True)
        one_way = neighbors(x[:200], x[100:], 9)
        assert len({thread for thread, _ in made}) > (count > 1)
        assert {inside for _, inside in made} == {max(1, count // tiles.WORKERS)}
        assert torch.get_num_threads() == count
        lists = [
            getattr(near, name)
            for near in (job.near, one_way)
            for name in ("index", "distance", "farthest", "near_ties")
        ]
        found.append([*lists, job.near.fallbacks, job.matrix()])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(("room", "used"), [(1, 1), (2, 2), (9, 3)])
def test_a_limited_search_computes_on_the_threads_that_its_limit_has_room_for(room, used, threads, monkeypatch):
    x, seen, multiply = clusters(300)[0], set(), tiles._multiply
    monkeypatch.setattr(tiles, "_multiply", lambda *both: seen.add(torch.get_num_threads()) or multiply(*both))
    threads(3)
    neighbors(x, x, 9, memory_limit=room * tiles.THREAD_BYTES)
    assert seen == {used} and torch.get_num_threads() == 3


@pytest.mark.parametrize(("room", "used"), [(1, 1), (2, 2)])
def test_distances_in_blocks_too_keep_to_the_threads_of_their_limit(room, used, threads, monkeypatch):
    x, seen, distance = clusters(300)[0], set(), jaccard.Jaccard.distance
    note = lambda *given: seen.add(torch.get_num_threads()) or distance(*given)  # noqa: E731
    monkeypatch.setattr(jaccard.Jaccard, "distance", note)
    threads(3)
    limit = room * tiles.THREAD_BYTES
    for _ in Reranking(x[:60], x[60:], Parameters(8, 3), memory_limit=limit).blocks():
        assert torch.get_num_threads() == 3, "whoever takes the blocks has all threads"
    for _ in jaccard_blocks(x, k1=8, k2=3, memory_limit=limit):
        assert torch.get_num_threads() == 3
    assert seen == {used}


def test_two_threads_that_come_first_to_the_same_rows_take_one_lock(monkeypatch):
    taken, both, lock = set(), threading.Barrier(2, timeout=60), threading.Lock

    class Late:
        def __init__(self):
            both.wait()  # neither thread has kept its lock yet
            self.lock = lock()

        def __enter__(self):
            taken.add(self)
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    monkeypatch.setattr(tiles, "threading", SimpleNamespace(Lock=Late))
    found = tiles.Candidates(2, 1, torch.device("cpu"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda first: found.take(slice(0, 2), first, torch.full((2, 4), first / 8)), (0, 4)))
    assert len(taken) == 1
    np.testing.assert_array_equal(found.ordered(slice(0, 2))[0], [[0.5], [0.5]])


def test_an_error_in_one_thread_ends_all_and_is_raised(threads):
    threads(3)
    done = []

    def do(number):
        time.sleep(0.001)
        if number == 5:
            raise ValueError("a bad tile")
        done.append(number)

    with pytest.raises(ValueError, match="a bad tile"):
        tiles.each(range(10_000), do, 3)
    assert torch.get_num_threads() == 3 and set(range(5)) <= set(done) and len(done) < 5000


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
    assert faiss_gpus("auto") == faiss_gpus("cuda") == 2
    assert faiss_gpus("cpu") == 0
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
    assert neighbors(x[:50], x[:50], 3, transit=symmetric_transit(50), weight=0.1).method == "torch on cpu"
    assert neighbors(x[:2], x, 2040).method.startswith("faiss")
    assert neighbors(x[:2], x, 2041).method.startswith("torch")
    with pytest.raises(ValueError, match=r"these 2041 neighbours: .* gives at most 2040 on a GPU"):
        neighbors(x[:2], x, 2041, method="faiss")
    with pytest.raises(ValueError, match=r"method 'faiss' cannot .* knows no transit"):
        neighbors(x[:50], x[:50], 3, transit=symmetric_transit(50), weight=0.1, method="faiss")
