"""Small inputs with structure, ties and duplicates for the tests of retrieval, and slow definitions."""

from dataclasses import dataclass

import numpy as np


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


def slow_distance(rows, columns, table=None, weight=0.0):
    """Eq. 6, pair by pair, in float64."""
    result = np.empty((len(rows), len(columns)))
    for i, x in enumerate(rows.astype(np.float64)):
        for j, y in enumerate(columns.astype(np.float64)):
            result[i, j] = np.linalg.norm(x - y) + (weight * table[i, j] if table is not None else 0)
    return result
