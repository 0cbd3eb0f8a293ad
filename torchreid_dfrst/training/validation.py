"""How the evaluation of an engine measures: torchreid's metrics, ours by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from torchreid_dfrst.checks import nearest
from torchreid_dfrst.retrieval import Parameters, Reranking, distance_blocks, normalise
from torchreid_dfrst.retrieval.distances import blocks as row_blocks

METRICS = ("euclidean", "cosine")


class Appearance(NamedTuple):
    """torchreid's choices of a distance between embeddings.

    Unlike torchreid's, embeddings are L2-normalised by default and Euclidean distances are not squared, which changes
    no ranking.
    """

    dist_metric: str = "euclidean"
    """One of ``METRICS``; ``cosine`` is 1 minus the cosine, in [0, 2]."""
    normalize_feature: bool = True
    """Measure between L2-normalised embeddings; ``cosine`` does so anyhow."""
    rerank: bool = False
    """Rank by k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3)."""

    def check(self) -> None:
        """Refuse what cannot be measured, before anything is.

        Raises:
            KeyError: an unknown metric.
            ValueError: re-ranking of anything but Euclidean distances of normalised embeddings.
        """
        if self.dist_metric not in METRICS:
            raise KeyError(f"unknown dist_metric {self.dist_metric!r}{nearest(self.dist_metric, METRICS)}")
        if self.rerank and not (self.dist_metric == "euclidean" and self.normalize_feature):
            raise ValueError(
                f"rerank with dist_metric {self.dist_metric!r} and normalize_feature {self.normalize_feature}: it "
                "takes Euclidean distances of normalised embeddings; leave both at their defaults"
            )

    def blocks(self, query: np.ndarray, gallery: np.ndarray) -> Iterator[np.ndarray]:
        """Distances of embeddings ``(Q, D)`` to ``(G, D)``, not squared, as blocks of consecutive queries."""
        if self.dist_metric == "euclidean" and self.normalize_feature:
            rows, columns = normalise(query), normalise(gallery)
            return Reranking(rows, columns, Parameters()).blocks() if self.rerank else distance_blocks(rows, columns)
        return self._others(query, gallery)

    def _others(self, query: np.ndarray, gallery: np.ndarray) -> Iterator[np.ndarray]:
        cosine = self.dist_metric == "cosine"
        rows, columns = (normalise(query), normalise(gallery)) if cosine else (query, gallery)
        for part in row_blocks(len(rows), len(columns)):
            if cosine:
                yield 1 - rows[part] @ columns.T
            else:
                yield torch.cdist(torch.from_numpy(rows[part]), torch.from_numpy(columns)).numpy()
