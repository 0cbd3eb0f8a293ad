"""The largest values of each row of a matrix that is only ever seen tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.retrieval.embeddings import consecutive

ENTRY = np.dtype([("row", np.int32), ("column", np.int32), ("value", np.float32)])

LOOKED = 16
"""Values of a tile to one that is looked into at once: what that takes (some 40 bytes each) then stays below a tile."""


class Selection:
    """Keeps, for each row, every value that may belong to the ``count`` largest.

    Values are known up to an error: what may belong is everything above the ``count``-th largest value seen minus a
    window. Tiles are first reduced to maxima of groups; only groups whose maximum is high enough are looked into.
    A row with more candidates than memory is planned for (thousands of equal images, say) lets the lower ones go. It is
    crowded as long as one of those may belong; larger values that come later can make up for it.

    Args:
        rows: number of rows.
        count: how many of the largest values are wanted.
        window: from the ``count``-th largest value (any tensor of them) to how far below it a value still may belong.
        step: rows per block; entries are kept by block.
        device: where the tiles are.
        most: candidates that one row may have.
    """

    def __init__(
        self,
        rows: int,
        count: int,
        window: Callable[[torch.Tensor], torch.Tensor],
        step: int,
        device: torch.device,
        most: int,
    ):
        self.count, self.window, self.step = count, window, step
        self.best = torch.full((rows, count), -torch.inf, dtype=torch.float32, device=device)
        self.entries: dict[int, list[np.ndarray]] = {}
        self.full: dict[int, int] = {}
        self.most = most
        self.floor = np.full(rows, -np.inf, dtype=np.float32)  # lower values were let go

    def offer(self, rows: slice, first_column: int, tile: torch.Tensor, down: bool = False) -> None:
        """Take in the values of ``rows`` and the columns from ``first_column`` on.

        Args:
            rows: one block of rows.
            first_column: number of the tile's first column (of its first row if ``down``).
            tile: ``(rows, columns)`` float32; ``(columns, rows)`` if ``down``.
            down: the tile is transposed.
        """
        length = tile.shape[0 if down else 1]
        width = self._group(length)
        groups, whole = length // width, length // width * width
        if down:
            highest = torch.cat([tile[:whole].unflatten(0, (width, groups)).amax(0), tile[whole:]]).t()
        else:
            highest = torch.cat([tile[:, :whole].unflatten(1, (width, groups)).amax(1), tile[:, whole:]], dim=1)
        best = torch.cat([self.best[rows], highest], dim=1).topk(self.count, dim=1, sorted=False).values
        self.best[rows] = best
        level = self._level(rows)
        above = highest >= level[:, None]
        often = (above.sum(1) > self.most).cpu().numpy()
        if often.any():
            self.floor[rows][often] = just_above(best.amin(1).cpu().numpy()[often])
            level = self._level(rows)
            above = highest >= level[:, None]
        row, group = above.nonzero(as_tuple=True)
        for part in consecutive(0, len(row), max(1, tile.numel() // (LOOKED * width))):
            self._look(rows, first_column, tile, down, level, row[part], group[part], width)

    def _look(
        self,
        rows: slice,
        first_column: int,
        tile: torch.Tensor,
        down: bool,
        level: torch.Tensor,
        row: torch.Tensor,
        group: torch.Tensor,
        width: int,
    ) -> None:
        """Take in the values of some groups that are above the level."""
        length = tile.shape[0 if down else 1]
        groups, whole = length // width, length // width * width
        # group g holds the values g, g + groups, g + 2 groups ...; what does not fill a group stands for itself
        place = group[:, None] + groups * torch.arange(width, device=tile.device)
        alone = group >= groups
        place[alone] = (group[alone] + whole - groups)[:, None]
        value = tile[place, row[:, None]] if down else tile[row[:, None], place]
        keep = value >= level[row, None]
        keep[alone, 1:] = False
        row = row[:, None].expand_as(value)[keep]
        self._append(rows, row.cpu().numpy(), place[keep].cpu().numpy() + first_column, value[keep].cpu().numpy())

    def _group(self, length: int) -> int:
        width = 16
        while width > 1 and length < 2 * width * self.count:
            width //= 2
        return width

    def _needed(self, rows: slice) -> torch.Tensor:
        """From which value on one may belong."""
        level = self.best[rows].amin(1)
        return level - self.window(level)

    def _level(self, rows: slice) -> torch.Tensor:
        """From which value on one is kept."""
        needed = self._needed(rows)
        return torch.maximum(needed, torch.from_numpy(self.floor[rows]).to(needed.device))

    def crowded(self, rows: slice) -> np.ndarray:
        """Which rows of a block have let go of values that may belong."""
        return self.floor[rows] > self._needed(rows).cpu().numpy()

    def _append(self, rows: slice, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        entry = np.empty(len(row), dtype=ENTRY)
        entry["row"], entry["column"], entry["value"] = row, column, value
        held = self.entries.setdefault(rows.start, [])
        held.append(self._thinned(rows, entry))
        if sum(map(len, held)) > self.full.get(rows.start, 0):
            kept = self._alive(rows)
            self.entries[rows.start] = [kept]
            length = rows.stop - rows.start
            self.full[rows.start] = min(max(2 * len(kept), (2 * self.count + 16) * length), self.most * length)

    def _alive(self, rows: slice) -> np.ndarray:
        """Entries of a block without those that fell below the level since they came."""
        held = self.entries.pop(rows.start, [])
        entry = np.concatenate(held) if held else np.empty(0, dtype=ENTRY)
        del held
        entry = entry[entry["value"] >= self._level(rows).cpu().numpy()[entry["row"]]]
        return self._thinned(rows, entry)

    def _thinned(self, rows: slice, entry: np.ndarray) -> np.ndarray:
        """Entries of a block; a row with too many lets go of those up to its ``count``-th best, and else of all."""
        for last in (False, True):
            often = np.bincount(entry["row"], minlength=rows.stop - rows.start) > self.most
            if not often.any():
                break
            # groups hide values: there may be more above this one than ``count``
            self.floor[rows][often] = np.inf if last else just_above(self.best[rows].amin(1).cpu().numpy()[often])
            entry = entry[entry["value"] >= self.floor[rows][entry["row"]]]
        return entry

    def finish(self, rows: slice) -> np.ndarray:
        """All candidates of a block, sorted by row, falling value and column; the block's memory is given back."""
        entry = self._alive(rows)
        self.full.pop(rows.start, None)
        return entry[falling(entry["row"], entry["value"], entry["column"])]


def just_above(value: np.ndarray) -> np.ndarray:
    """The next larger float32 of each."""
    return np.nextafter(value, np.float32(np.inf))


def falling(row: np.ndarray, value: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The order by row, then falling value, then column.

    One sort of integers does most of it: their high bits are the row, then the value, in bits that order as the
    numbers do. Only entries of equal row and value are sorted once more, by column.
    """
    bits = value.view(np.int32)
    rank = ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))
    key = (row.astype(np.int64) << 32) | (rank.astype(np.int64) + (1 << 31))
    order = np.argsort(key)
    key = key[order]
    same = np.flatnonzero(key[1:] == key[:-1])
    if len(same):
        tied = np.zeros(len(key), dtype=bool)
        tied[same] = tied[same + 1] = True
        part = order[tied]
        order[tied] = part[np.lexsort((column[part], key[tied]))]
    return order
