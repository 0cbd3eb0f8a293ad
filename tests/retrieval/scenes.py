"""Small inputs with structure, ties and duplicates for the tests of retrieval, and slow definitions."""

from dataclasses import dataclass

import numpy as np
import torch

from torchreid_dfrst.retrieval.embeddings import Stack, alike
from torchreid_dfrst.retrieval.tiles import Products


@dataclass
class TableTransit:
    """A transit whose distances are simply given."""

    table: np.ndarray
    low: float = 0.0
    high: float = 2.0
    symmetric: bool = False

    @property
    def shape(self):
        return self.table.shape

    def block(self, rows, columns):
        return self.table[rows, columns].astype(np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(count, width=16, identities=10, noise=0.7, seed=0):
    """Embeddings of unit length around ``identities`` centres, and who they are."""
    generator = np.random.default_rng(seed)
    who = generator.integers(0, identities, count)
    centre = generator.normal(size=(identities, width))
    return unit(centre[who] + noise * generator.normal(size=(count, width))), who


def symmetric_transit(count, seed=0):
    table = np.random.default_rng(seed).uniform(0, 2, (count, count))
    return TableTransit(np.triu(table) + np.triu(table, 1).T, symmetric=True)


def products(rows, columns, device="cpu"):
    """All float32 products, as a search makes them in one tile."""
    numbers = alike(Stack(rows, columns))
    job = Products(Stack(columns), numbers[len(rows) :], numbers, torch.device(device))
    tile = job.tile(torch.from_numpy(rows).to(device), numbers[: len(rows)], slice(0, len(columns)))
    return tile.cpu().numpy()


def slow_distance(rows, columns, table=None, weight=0.0):
    """Eq. 6, pair by pair, in float64."""
    result = np.empty((len(rows), len(columns)))
    for i, x in enumerate(rows.astype(np.float64)):
        for j, y in enumerate(columns.astype(np.float64)):
            result[i, j] = np.linalg.norm(x - y) + (weight * table[i, j] if table is not None else 0)
    return result


def slow_rerank(original, queries, full, half, k2, share, weights):
    """k-reciprocal encoding with Python's sets; ``original`` orders the lists, ``weights`` weigh what they hold."""
    count = len(original)
    order = np.argsort(original, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, :k] if i in order[j, :k]}

    encoding = np.zeros((count, count))
    for i in range(count):
        own = mutual(i, full)
        members = set(own)
        for j in own:
            theirs = mutual(j, half)
            if len(theirs & own) > 2.0 / 3 * len(theirs):
                members |= theirs
        members = sorted(members)
        encoding[i, members] = weights[i, members] / weights[i, members].sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[i, :k2]].mean(axis=0) for i in range(count)])
    shared = np.array([[np.minimum(a, b).sum() for b in encoding] for a in encoding])
    return ((1 - share) * (1 - shared / (2 - shared)) + share * original)[:queries, queries or 0 :]


def small_and_tied(seed, count):
    """A few embeddings among which many are equal or equally far from each other."""
    return unit(np.random.default_rng(seed).integers(1, 3, (count, 3)).astype(float))


def cut_in_four(whole, queries=2):
    """Distances of queries to gallery, queries to queries, and gallery to gallery."""
    return whole[:queries, queries:], whole[:queries, :queries], whole[queries:, queries:]
