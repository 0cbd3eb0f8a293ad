"""Neighbours that float32 code may order differently are listed, however large or small their distance is."""

import logging

import numpy as np
import pytest
import torch
import torchreid

from tests.retrieval.scenes import TableTransit, clusters, unit
from torchreid_dfrst.retrieval import Parameters, Reranking, neighbors
from torchreid_dfrst.retrieval.distances import RESOLUTION, resolution
from torchreid_dfrst.retrieval.tiles import random_error


def around(distances, width=64):
    """A unit vector and others at these distances from it, each in a direction of its own."""
    angle = 2 * np.arcsin(np.asarray(distances) / 2)
    columns = np.zeros((len(angle), width))
    columns[:, 0] = np.cos(angle)
    columns[np.arange(len(angle)), 1 + np.arange(len(angle))] = np.sin(angle)
    return np.eye(1, width, dtype=np.float32), columns.astype(np.float32)


@pytest.mark.parametrize(("method", "weight"), [("product", 0.0), ("product", 0.5), ("faiss", 0.0)])
@pytest.mark.parametrize("nearest", [0.1, 0.3, 1.2])
@pytest.mark.parametrize("width", [8, 64])
def test_gaps_below_the_resolution_are_listed_and_no_others(method, weight, nearest, width):
    unsure = np.sqrt(nearest**2 + 4 * random_error(width)) - nearest
    row, columns = around(nearest + unsure * np.array([0, 0.85, 3.3, 4.15, 7.6, 8.4]), width)
    transit = TableTransit(np.ones((1, 6)), low=1.0, high=1.0) if weight else None
    found = neighbors(row, columns, 5, transit=transit, weight=weight, device="cpu", method=method)
    assert found.index.tolist() == [[0, 1, 2, 3, 4]]
    assert found.near_ties.tolist() == [[0, 0, 1], [0, 2, 3], [0, 4, 5]]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_rows_that_are_compared_with_every_column_list_theirs_too(weight):
    unsure = np.sqrt(0.1**2 + 4 * random_error(128)) - 0.1
    row, columns = around(0.1 + unsure * np.append([0.0, 0.3], 3 + 0.01 * np.arange(120)), 128)
    transit = TableTransit(np.ones((1, 122)), low=1.0, high=1.0) if weight else None
    found = neighbors(row, columns, 4, transit=transit, weight=weight, device="cpu")
    assert found.fallbacks == 1
    assert found.near_ties.tolist() == [[0, 0, 1], [0, 2, 3], [0, 3, 4]]


def test_the_resolution_is_that_of_squared_distances():
    distance = np.array([0.0, 0.01, 0.1, 1.0, 2.0])
    gap = resolution(distance, 1e-6)
    np.testing.assert_allclose((distance + gap) ** 2 - distance**2, 4e-6, rtol=1e-6)
    assert resolution(np.array([2.0]), 1e-9) == RESOLUTION


@pytest.mark.parametrize(("width", "noise"), [(512, 0.05), (256, 0.3)])
def test_whatever_torchreid_orders_otherwise_is_listed(width, noise):
    generator = np.random.default_rng(0)
    centre, who = generator.normal(size=(20, width)), generator.integers(0, 20, 700)
    x = unit(centre[who] + noise * generator.normal(size=(700, width)))
    theirs = torchreid.metrics.compute_distance_matrix(torch.from_numpy(x), torch.from_numpy(x)).numpy()
    order = np.argsort(theirs**2, axis=1, kind="stable")
    job = Reranking(x[:100], x[100:], Parameters())
    listed, near = {tuple(tie) for tie in job.near.near_ties.tolist()}, job.near.index
    other = np.flatnonzero((order[:, :21] != near).any(axis=1))
    assert len(other) or noise > 0.1, "no neighbour was swapped: nothing is proven"
    for i in other:
        place = {j: p for p, j in enumerate(order[i])}
        swapped = [(i, a, b) for a, b in zip(near[i], near[i, 1:], strict=False) if place[a] > place[b]]
        assert listed.issuperset(swapped)
        if any(set(order[i, :k]) != set(near[i, :k]) for k in (21, 11, 6)):
            assert i in job.cuts[:, 0]


def test_a_search_says_how_many_it_found(caplog):
    x, _ = clusters(60, seed=1)
    with caplog.at_level(logging.INFO, "torchreid_dfrst.retrieval.search"):
        found = neighbors(x, np.concatenate([x, x[:5]]), 1)
    assert len(found.near_ties) == 5
    assert "1 neighbours of 60 rows" in caplog.text and "5 near-ties, 0 rows compared with every column" in caplog.text
