"""How the evaluation of an engine measures: torchreid's metrics, ours by default."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from torchreid_dfrst.names import nearest
from torchreid_dfrst.retrieval import distance, normalise, rerank

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

    def __call__(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Distances ``(Q, G)`` of embeddings ``(Q, D)`` and ``(G, D)``, not squared."""
        if self.dist_metric == "euclidean" and not self.normalize_feature:
            return torch.cdist(torch.from_numpy(query), torch.from_numpy(gallery)).numpy()
        rows, columns = normalise(query), normalise(gallery)
        if self.dist_metric == "cosine":
            return 1 - rows @ columns.T
        return rerank(rows, columns) if self.rerank else distance(rows, columns)
