"""The fused distance of Eq. 6, formed inside a tile of inner products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from torchreid_dfrst.retrieval.stack import tensor
from torchreid_dfrst.spatiotemporal.transit import Transit


@dataclass(frozen=True)
class Fusion:
    """``Da + weight * transit`` (Eq. 6)."""

    transit: Transit
    weight: float

    @property
    def high(self) -> float:
        """Largest contribution."""
        return self.weight * float(self.transit.high)

    def scores(self, tile: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Turn a float32 tile of inner products into minus its fused distances, in place.

        No threads of Python's: torch's own, which made the tile, still wait for work on the other cores.
        """
        block = tensor(np.ascontiguousarray(self.transit.block(rows, columns))).to(tile.device)
        tile.mul_(-2).add_(2).clamp_(min=0).sqrt_()
        return tile.add_(block, alpha=self.weight).neg_()
