"""Exact nearest neighbours from FAISS: on GPUs, sharded over all of them, or on the processor."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from torchreid_dfrst.retrieval.embeddings import Stack
from torchreid_dfrst.retrieval.memory import STEP
from torchreid_dfrst.retrieval.tiles import Progress, Search, no_progress
from torchreid_dfrst.retrieval.transit import Fusion, transits

MOST = 2048
"""Neighbours that FAISS gives at most on a GPU."""
SPARE = 8
"""Neighbours more than asked for, among which float32 may have mixed up the last ones."""


def gpus(device: str) -> int:
    """Number of GPUs that FAISS may use: all it sees, none if the processor is asked for."""
    return 0 if device == "cpu" or not hasattr(faiss, "get_num_gpus") else int(faiss.get_num_gpus())


def has_room(count: int, columns: int, gpus: int) -> bool:
    """Whether FAISS can give so many neighbours and the spare ones."""
    return not gpus or min(count + SPARE, columns) <= MOST


def flat_index(columns: Stack, gpus: int) -> Any:
    """An index of inner products that holds the columns as they are, spread over the GPUs if there are any."""
    index: Any = faiss.IndexFlatIP(columns.shape[1])
    for part in columns.parts:
        index.add(part)
    if gpus:
        # filled before it is spread: an index in shards numbers what it is given in one call only
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(index, options, gpus)
    return index


class FaissSearch(Search):
    """A search whose candidates come from a flat FAISS index.

    FAISS knows appearance only. It gives some neighbours more than asked for, in float32 and with ties in any order;
    they are settled as ``tiles.Search`` settles its own. A row is certain if the last candidate is so far away that
    nothing beyond it can belong, which for the fused distance means farther in appearance alone than the k-th in all
    (``transit >= low``). Rows that are not certain are measured whole.

    Args:
        rows: see ``tiles.Search``.
        columns: see ``tiles.Search``.
        count: see ``tiles.Search``.
        fusion: see ``tiles.Search``.
        step: rows of a block.
        gpus: how many GPUs hold the index; 0 for the processor.
        spare: see ``tiles.Search``.
    """

    def __init__(
        self,
        rows: Stack,
        columns: Stack,
        count: int,
        *,
        fusion: Fusion | None = None,
        step: int = STEP,
        gpus: int = 0,
        spare: int | None = None,
    ):
        place = torch.device("cpu")
        super().__init__(rows, columns, count, fusion=fusion, precision="fp32", step=step, spare=spare, device=place)
        self.name = f"faiss on {gpus} GPUs" if gpus else "faiss on cpu"
        self.flat = flat_index(columns, gpus)
        most = min(len(columns), MOST) if gpus else len(columns)
        self.wide = min(most, max(count, 8 * count + 64 if fusion else count + SPARE))
        self.deep = min(most, 64 if fusion else 1)

    def run(self, progress: Progress = no_progress) -> None:
        """Search block after block."""
        for block in self.rows.blocks(self.step):
            x = self.rows.rows(block)
            product, column = self.flat.search(x, self.wide)
            row = np.repeat(np.arange(len(x)), self.wide)
            distance, beyond = self._distances(block, row, column.ravel().astype(np.int64), product.ravel())
            kth = np.sort(distance.reshape(len(x), -1), axis=1)[:, self.count - 1]
            error = self._error(kth) if self.fusion is None else 2 * self._error(beyond)
            low = 0.0 if self.fusion is None else self.fusion.weight * float(self.fusion.transit.low)
            certain = (beyond + low > kth + 2 * error) | (self.wide == len(self.columns))

            opposite, far = self.flat.search(-x, self.deep)
            row_far = np.repeat(np.arange(len(x)), self.deep)
            reach, last = self._distances(block, row_far, far.ravel().astype(np.int64), -opposite.ravel())
            self.farthest[block] = reach.reshape(len(x), -1).max(axis=1)
            if self.fusion is not None:
                certain &= (self.farthest[block] >= last + self.fusion.high) | (self.deep == len(self.columns))
            order = np.lexsort((column.ravel(), distance, row))
            self._conclude(block, row[order], column.ravel().astype(np.int64)[order], distance[order], ~certain)
            progress(len(x))

    def _distances(
        self, block: slice, row: np.ndarray, column: np.ndarray, product: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances of candidates, and the appearance distance of the last one of each row."""
        distance = np.sqrt(np.maximum(2 - 2 * product.astype(np.float64), 0))
        offset = 0 if self.columns is self.rows else len(self.rows)
        distance[self.copies[row + block.start] == self.copies[column + offset]] = 0
        last = distance.reshape(block.stop - block.start, -1)[:, -1].copy()
        if self.fusion is not None:
            distance += self.fusion.weight * transits(self.fusion.transit, row + block.start, column)
        return distance, last
