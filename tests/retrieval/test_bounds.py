"""Inputs on which exactly one bound of a search fails: whoever leaves it out gives another list."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist as float_cdist

from tests.retrieval.scenes import products, slow_distance, unit
from tests.retrieval.test_routines import ROUTINES, take
from torchreid_dfrst.retrieval import neighbors, search, tiles
from torchreid_dfrst.retrieval.tiles import LADDER, UNIT, float32_error, tile_bytes, tile_sizes


def cdist(x, y):
    return float_cdist(x.astype(float), y.astype(float))


class WorstIndex:
    """An index whose products are as wrong as float32 may make them: too small for the nearest, else too large."""

    def __init__(self, columns, nearest, error):
        self.columns, self.wrong = columns.astype(float), np.full(len(columns), error)
        self.wrong[nearest] = -error

    def search(self, rows, count):
        product = rows.astype(float) @ self.columns.T + self.wrong
        order = np.argsort(-product, axis=1)[:, :count]
        return np.take_along_axis(product, order, axis=1).astype(np.float32), order


def test_faiss_is_not_believed_where_float32_cannot_decide(monkeypatch):
    generator = np.random.default_rng(10)
    row = np.eye(1, 64, dtype=np.float32)
    cosine = 0.6 + 1e-6 * generator.normal(size=(400, 1))  # the bound on the error is 1.9e-6
    columns = unit(np.concatenate([cosine, np.sqrt(1 - cosine**2) * unit(generator.normal(size=(400, 63)))], axis=1))
    nearest = slow_distance(row, columns).argsort(axis=1, kind="stable")[:, :3]
    monkeypatch.setattr(search, "flat_index", lambda *_: WorstIndex(columns, nearest[0], 1.8e-6))
    found = neighbors(row, columns, 3, method="faiss", device="cpu")
    np.testing.assert_array_equal(found.index, nearest)


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("width", [2, 64, 2048])
def test_the_bound_on_a_product_holds_for_all_pairs(width, shared):
    x = unit(np.random.default_rng(width).normal(size=(200, width)) + shared)
    assert np.abs(products(x, x) - x.astype(float) @ x.T.astype(float)).max() <= float32_error(width)


def term_by_term(a, b):
    """Float32 products whose roundings add up as much as those of any routine may."""
    return torch.from_numpy(np.stack([np.cumsum(x * b.numpy(), axis=1, dtype=np.float32)[:, -1] for x in a.numpy()]))


def binary(width=2048, ones=1945, columns=400):
    """A feature that is mostly ones, and others that share more or fewer of them: all terms of a product are equal."""
    generator = np.random.default_rng(0)
    on, off = np.split(generator.permutation(width), [ones])
    y = np.zeros((columns, width))
    for line, many in zip(y, generator.integers(1850, width, columns), strict=True):
        both = generator.integers(max(0, many - len(off)), min(many, ones) + 1)
        line[generator.permutation(on)[:both]] = line[generator.permutation(off)[: many - both]] = 1
    x = np.zeros((16, width))
    x[:, on] = 1
    return unit(x), unit(y)


@pytest.mark.parametrize("routine", [*ROUTINES, "term by term"])
def test_features_whose_roundings_add_up_are_within_the_bound_and_in_the_right_order(routine, monkeypatch):
    if routine == "term by term":
        monkeypatch.setattr(tiles, "_multiply", term_by_term)
    else:
        take(routine, monkeypatch)
    x, y = binary()
    product, slow, error = products(x, y), x.astype(float) @ y.T.astype(float), float32_error(x.shape[1])
    assert np.abs(product - slow).max() <= error
    order = np.argsort(-slow[0], kind="stable")
    wrong = np.triu(product[0, order] - product[0, order][:, None], 1)
    nearer, farther = order[list(np.unravel_index(wrong.argmax(), wrong.shape))]
    if routine == "term by term":
        assert wrong.max() > 500 * UNIT and np.abs(product - slow).max() > 0.4 * error
    columns = np.concatenate([y[[farther]], -y, y[[nearer]]])
    assert (neighbors(x, columns, 1, device="cpu").index == 401).all()


SIZES = [(900, 900, 64, 21), (13_257, 13_257, 2048, 21), (100_000, 100_000, 512, 21), (50, 4000, 16, 100)]


@pytest.mark.parametrize("size", SIZES)
def test_a_tighter_limit_of_memory_gives_smaller_tiles_until_none_fits(size):
    rows, columns, width, count = size
    step, span = tile_sizes(*size, None)
    assert step == LADDER[0][0] and span >= LADDER[0][1] and min(step, rows) * span <= np.prod(LADDER[0])
    cells = []
    for limit in np.geomspace(1 << 40, 1 << 10, 60).astype(int):
        try:
            step, span = tile_sizes(*size, int(limit))
        except ValueError as error:
            assert f"of {limit} bytes is too small for {count} neighbours of {rows} rows" in str(error)
            cells.append(0)
            continue
        assert 12 * rows * count + tile_bytes(min(step, rows), min(span, columns), width) <= limit
        cells.append(step * span)
    assert cells == sorted(cells, reverse=True) and cells[0] == np.prod(LADDER[0]) and cells[-1] == 0


def test_an_index_of_faiss_counts():
    size, limit = (10_000, 10_000, 512, 21), 30_000_000
    tile_sizes(*size, limit)
    with pytest.raises(ValueError, match="25000000 of them for FAISS's copy of the columns"):
        tile_sizes(*size, limit, held=25_000_000)
