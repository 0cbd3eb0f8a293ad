"""The best scores of each row so far, with their columns, gathered tile by tile."""

from __future__ import annotations

import numpy as np
import torch

GROUP = 8
"""Most columns of a tile that are compared by their maximum first."""


class Candidates:
    """The ``kept`` best scores of some rows, and the lowest one of each.

    Attributes:
        best: ``(N, kept)`` int64 scores with their columns, ``packed``, in no order.
        lowest: ``(N,)`` float32 lowest scores.
    """

    def __init__(self, rows: int, kept: int, device: torch.device):
        self.kept, self.device = kept, device
        self.best = np.full((rows, kept), packed(np.full(1, -np.inf, np.float32), np.zeros(1, int)))
        self.worst = torch.full((rows,), -torch.inf, dtype=torch.float32, device=device)
        self.lowest = -self.worst

    def take(self, rows: slice, first: int, tile: torch.Tensor) -> None:
        """Find the scores ``(R, C)`` of some rows and the columns from ``first`` on that are among the best so far.

        Only groups of columns are searched whose maximum beats the worst score that the row keeps. The tile may be
        transposed.
        """
        width = max(1, min(GROUP, tile.shape[1] // (4 * self.kept)))
        groups = tile.shape[1] // width
        if groups * width < tile.shape[1]:
            self.take(rows, first + groups * width, tile[:, groups * width :])
        whole = tile[:, : groups * width]  # group g holds the columns g, g + groups, g + 2 groups ...
        if whole.stride(1) == 1:
            highest, lowest = whole.unflatten(1, (width, groups)).amax(1), whole.amin(1)
        else:  # the same, read as it lies in memory
            grouped = whole.t().unflatten(0, (width, groups))
            highest, lowest = grouped.amax(0).t().contiguous(), grouped.amin(0).amin(0)
        self.lowest[rows] = torch.minimum(self.lowest[rows], lowest)
        worst = self.worst[rows]
        better = highest > worst[:, None]
        many = better.sum(1) > self.kept
        if many.any():  # as many groups as scores are kept hold them all
            top, which = highest[many].topk(self.kept, 1, sorted=False)
            better[many] = torch.zeros_like(better[many]).scatter_(1, which, True)
            worst[many] = torch.nextafter(top.amin(1), torch.full_like(worst[many], -torch.inf))
        row, group = better.nonzero(as_tuple=True)
        column = group[:, None] + groups * torch.arange(width, device=tile.device)
        score = tile[row[:, None], column]
        keep = score > worst[row, None]
        found = row[:, None].expand_as(column)[keep], column[keep] + first, score[keep]
        self._merge(rows, *(part.cpu().numpy() for part in found))

    def _merge(self, rows: slice, row: np.ndarray, column: np.ndarray, score: np.ndarray) -> None:
        """Merge scores, sorted by row (counted from the first of ``rows``), into the best of the rows."""
        size = np.bincount(row, minlength=rows.stop - rows.start)
        room = int(size.max())
        wide = np.pad(self.best[rows], ((0, 0), (room, 0)), constant_values=np.iinfo(np.int64).min)
        wide[row, np.arange(len(row)) - (np.cumsum(size) - size)[row]] = packed(score, column)
        wide.partition(room, axis=1)
        self.best[rows] = wide[:, room:]
        self.worst[rows] = torch.from_numpy(unpacked(wide[:, room])[0]).to(self.device)

    def join(self, rows: slice, best: np.ndarray, lowest: np.ndarray) -> None:
        """Add what was found for the rows among other columns."""
        both = np.concatenate([self.best[rows], best], axis=1)
        both.partition(both.shape[1] - self.kept, axis=1)
        self.best[rows] = both[:, -self.kept :]
        self.lowest[rows] = torch.minimum(self.lowest[rows], torch.from_numpy(lowest).to(self.device))

    def ordered(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the rows and their columns, ``(R, kept)``, best first."""
        return unpacked(np.sort(self.best[rows], axis=1)[:, ::-1])


def packed(score: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Float32 scores and their columns as int64 that order by score and, where scores are equal, by falling column."""
    bits = score.view(np.int32)
    rank = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (rank.astype(np.int64) << 32) | (0xFFFFFFFF - column)


def unpacked(entry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was ``packed``."""
    rank = (entry >> 32).astype(np.int32)
    return (rank ^ ((rank >> 31) & np.int32(0x7FFFFFFF))).view(np.float32), 0xFFFFFFFF - (entry & 0xFFFFFFFF)


def candidates(count: int, columns: int) -> int:
    """Candidates that a search keeps for each row: float32 may have mixed up the last ones."""
    return min(2 * count + 16, columns)
