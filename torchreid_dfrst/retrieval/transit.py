"""What a pair costs beside appearance: the seam at which retrieval takes the distances of space and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from torchreid_dfrst.checks import check
from torchreid_dfrst.retrieval.tiles import tensor

CELLS = 1 << 18  # transit distances of one block that is made for some pairs in it


class Transit(Protocol):
    """Transit distances between two lists of sightings, made block by block and never held whole.

    A search asks for blocks from several threads at once. ``low`` and ``high`` bound every value.

    A transit may also have ``pairs(rows, columns)``, the distances of single pairs of two equally long integer arrays,
    the same to the last bit as in their blocks; retrieval is faster with it. And it may have ``symmetric``, true where
    the distances of a list to itself are the same there and back to the last bit: a search then makes half of them.
    """

    shape: tuple[int, int]
    low: float
    high: float

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows (queries) and columns (gallery); 0 means entirely plausible."""
        ...


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
        block = tensor(np.ascontiguousarray(self.transit.block(rows, columns))).to(tile.device)
        tile.mul_(-2).add_(2).clamp_(min=0).sqrt_()
        return tile.add_(block, alpha=self.weight).neg_()

    def pairs(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Contribution to the distance of each pair."""
        return self.weight * transits(self.transit, row, column)


def check_fusion(transit: Transit | None, weight: float, shape: tuple[int, int]) -> Fusion | None:
    """The transit term, once its shape and weight are right; None where it takes no part."""
    check("weight (omega)", weight, float)
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight (omega) is {weight}: a finite number, 0 or more, is needed")
    if transit is None:
        if weight:
            raise ValueError(f"weight (omega) is {weight} but there is no transit: pass model.transit(rows, columns)")
        return None
    missing = [name for name in ("shape", "low", "high", "block") if not hasattr(transit, name)]
    if missing:
        raise ValueError(
            f"transit is a {type(transit).__name__} without {', '.join(missing)}: pass model.transit(rows, columns)"
        )
    if tuple(transit.shape) != shape:
        raise ValueError(
            f"transit has shape {tuple(transit.shape)}, the embeddings make {shape}: same images, same order"
        )
    return Fusion(transit, weight) if weight > 0 else None


def transits(transit: Transit, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Transit distance of each pair; by ``transit.pairs`` where there is one, else taken from its blocks."""
    if hasattr(transit, "pairs"):
        return np.asarray(transit.pairs(row, column), dtype=np.float32)
    result = np.empty(len(row), dtype=np.float32)
    if not len(row):
        return result
    order, done = np.argsort(row, kind="stable"), 0
    rising, first, last = row[order], int(column.min()), int(column.max()) + 1
    while done < len(order):
        # as many rows as a block may have: those without a pair in between are made for nothing, and there are few
        top = int(rising[done])
        end = int(np.searchsorted(rising, top + max(1, CELLS // (last - first))))
        block = transit.block(slice(top, int(rising[end - 1]) + 1), slice(first, last))
        part = order[done:end]
        result[part] = block[row[part] - top, column[part] - first]
        done = end
    return result


class Mirrored:
    """The ``(N, N)`` transit of one list, queries and then gallery, made the same there and back.

    k-reciprocal sets know one distance between two images; models with directed camera pairs have two. Between a query
    and a gallery image that of the query counts, as in the ranking without re-ranking; between two queries or two
    gallery images it is the mean of both directions. (Our reading.)
    """

    symmetric = True

    def __init__(self, transit: Transit, queries: int):
        self.transit, self.queries = transit, queries
        self.shape, self.low, self.high = transit.shape, transit.low, transit.high

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows and columns."""
        return np.concatenate(
            [np.concatenate([self._part(i, j) for j in self._sides(columns)], axis=1) for i in self._sides(rows)]
        )

    def _part(self, rows: slice, columns: slice) -> np.ndarray:
        """Distances of rows that are all queries or all gallery, and of columns likewise."""
        row, column = rows.start < self.queries, columns.start < self.queries
        there = self.transit.block(rows, columns) if row >= column else np.float32(0)
        back = self.transit.block(columns, rows).T if row <= column else np.float32(0)
        return np.asarray(there + back if row != column else (there + back) / 2, dtype=np.float32)

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Float32 distances of single pairs, as in their blocks."""
        row, column = rows < self.queries, columns < self.queries
        back = ~row & column
        # what goes against the query's direction is turned round, both directions only where they are averaged
        value = transits(self.transit, np.where(back, columns, rows), np.where(back, rows, columns))
        both = np.flatnonzero(row == column)
        value[both] = (value[both] + transits(self.transit, columns[both], rows[both])) / 2
        return value

    def _sides(self, part: slice) -> list[slice]:
        """The pieces of a slice that are queries and gallery."""
        middle = min(max(self.queries, part.start), part.stop)
        return [s for s in (slice(part.start, middle), slice(middle, part.stop)) if s.start < s.stop]


def mirrored(transit: Transit, queries: int) -> Transit:
    """The transit itself if it says that it is the same there and back, else ``Mirrored``."""
    return transit if is_symmetric(transit) else Mirrored(transit, queries)


def is_symmetric(transit: Transit) -> bool:
    """Whether the distance there is the distance back, to the last bit; no if the transit says nothing."""
    return bool(getattr(transit, "symmetric", False))


def check_finite(rows: np.ndarray) -> None:
    """Refuse rows of distances (``(N,)`` bool, whether each is all right) that a transit made NaN or infinite."""
    if not rows.all():
        raise ValueError(
            f"distances of {(~rows).sum()} rows are NaN or infinite: the transit has to give a number for every pair"
        )
