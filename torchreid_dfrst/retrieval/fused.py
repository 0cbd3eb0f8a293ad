"""The fused distance of Eq. 6, formed inside a tile of inner products."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from torchreid_dfrst.spatiotemporal.transit import Transit

THREADS = 2
CACHED = 1 << 16
"""Values worked on at once, so that every pass but the first finds them in the processor's cache."""


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
        """Turn a float32 tile of inner products into minus its fused distances, in place."""
        if tile.device.type != "cpu":
            block = torch.from_numpy(np.ascontiguousarray(self.transit.block(rows, columns)))
            tile.mul_(-2).add_(2).clamp_(min=0).sqrt_()
            return tile.add_(block.to(tile.device), alpha=self.weight).neg_()
        values = tile.numpy()
        step = -(-len(values) // THREADS)
        parts = [slice(start, min(start + step, len(values))) for start in range(0, len(values), step)]

        def work(part: slice) -> None:
            block = self.transit.block(slice(rows.start + part.start, rows.start + part.stop), columns)
            _combine(values[part], block, self.weight)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, parts))
        return tile


def _combine(product: np.ndarray, transit: np.ndarray, weight: float) -> None:
    """``-(sqrt(2 - 2 product) + weight * transit)``, written over the products."""
    step = max(1, CACHED // product.shape[1])
    scratch = np.empty((step, product.shape[1]), dtype=np.float32)
    for start in range(0, len(product), step):
        value = product[start : start + step]
        more = np.multiply(transit[start : start + step], np.float32(-weight), out=scratch[: len(value)])
        np.multiply(value, np.float32(-2), out=value)
        np.add(value, np.float32(2), out=value)
        np.maximum(value, np.float32(0), out=value)
        np.sqrt(value, out=value)
        np.subtract(more, value, out=value)
