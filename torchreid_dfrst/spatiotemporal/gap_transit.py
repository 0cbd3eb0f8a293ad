"""Distances that depend on a camera pair and a signed time gap, made block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import rows_by_label

NATS = 10.0  # one unit of distance, so that omega has the same meaning for every model that speaks in logarithms
TICKS_PER_SECOND, TOLERANCE_S = 1000, 1e-6
TABLE_LIMIT = 1 << 25  # float32 values: 128 MiB
TABLE_SHARE = 32  # of a limit of bytes, one table may hold one float32 value for each 32
CELLS = 1 << 15  # pairs whose curve is evaluated in one call
TOGETHER = 64  # rows looked up in one call

Rows = slice | np.ndarray


@dataclass(frozen=True, eq=False)
class Law:
    """``offset[a, b] + curve(number[a, b], t_gallery - t_query)`` for query camera ``a`` and gallery camera ``b``.

    Args:
        network: gives the row of each camera.
        curve: ``(number, gap_s) -> value`` elementwise on two arrays that broadcast; gaps are finite.
        unknown: value of every curve where one of the two times is not known.
        bounds: smallest and largest possible distance.
        numbers: ``(C, C)`` int64, which curve belongs to an ordered camera pair; left out, each pair has its own.
        offsets: ``(C, C)`` float, what the camera pair alone contributes; left out, nothing.
        symmetric: whether a camera pair is the reversed pair at minus the gap, to the last bit.
        reach_s: every curve is constant for gaps beyond this, to the last bit.
    """

    network: CameraNetwork
    curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
    unknown: float
    bounds: tuple[float, float]
    numbers: np.ndarray = None  # type: ignore[assignment]
    offsets: np.ndarray = None  # type: ignore[assignment]
    symmetric: bool = False
    reach_s: float = np.inf

    def __post_init__(self) -> None:
        """Fill what was left out."""
        size = len(self.network)
        if self.numbers is None:
            object.__setattr__(self, "numbers", np.arange(size**2).reshape(size, size))
        if self.offsets is None:
            object.__setattr__(self, "offsets", np.zeros((size, size)))

    def distance(self, camera: np.ndarray | int, other: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Float32 distances of single pairs of a query ``camera`` and an ``other``, rows of the network; all broadcast.

        ``gap_s`` is ``t_gallery - t_query`` in seconds, NaN where one of the times is not known.
        """
        missing = np.isnan(gap_s)
        value = self.curve(self.numbers[camera, other], np.where(missing, 0.0, gap_s)).astype(np.float32, copy=False)
        return np.where(missing, np.float32(self.unknown), value) + self.offsets[camera, other].astype(np.float32)


class GapTransit:
    """The distances of a law between two lists of sightings, the rows and the columns.

    Timestamps are mostly frame numbers or whole milliseconds, so there are far fewer different gaps than pairs. Where
    they lie on such a grid, every curve is evaluated once per possible gap and each distance is one look-up; otherwise
    the curve is evaluated pair by pair. Both give the same float32 values. Of ``memory_limit`` bytes a share is used.
    """

    def __init__(self, query: Sightings, gallery: Sightings, law: Law, memory_limit: int | None = None):
        self.shape = (len(query), len(gallery))
        self.low, self.high = law.bounds
        self._camera = law.network.rows(query.camera), law.network.rows(gallery.camera)
        self._time = query.time_s, gallery.time_s
        same = np.array_equal(*self._camera) and np.array_equal(*self._time, equal_nan=True)
        self.symmetric = law.symmetric and same
        self._law, self._offset, self._unknown = law, law.offsets.astype(np.float32), np.float32(law.unknown)
        self._missing = np.isnan(gallery.time_s)
        self._table: np.ndarray | None = None
        self._tabulate(TABLE_LIMIT if memory_limit is None else min(TABLE_LIMIT, memory_limit // TABLE_SHARE))

    def _tabulate(self, most: int) -> None:
        """Evaluate every curve that can occur at every gap that can occur, if that is less work than all pairs."""
        ticks = on_a_grid(*self._time)
        if ticks is None or 0 in self.shape:
            return
        step, query, gallery = ticks
        low, high = int(gallery.min() - query.max()), int(gallery.max() - query.min())
        reach = self._law.reach_s * TICKS_PER_SECOND / step
        self._beyond = max(abs(low), abs(high)) > reach + 1
        if self._beyond:
            low, high = (min(max(end, -int(reach) - 1), int(reach) + 1) for end in (low, high))
        used = np.unique(self._law.numbers[np.ix_(np.unique(self._camera[0]), np.unique(self._camera[1]))])
        if len(used) * (high - low + 1) > min(most, self.shape[0] * self.shape[1]):
            return
        gap_s = np.arange(low, high + 1) * step / TICKS_PER_SECOND
        self._table = np.empty((len(used), len(gap_s)), dtype=np.float32)
        for row, number in zip(self._table, used, strict=True):
            row[:] = self._law.curve(np.full(1, number), gap_s)
        self._start = np.searchsorted(used, self._law.numbers).clip(max=len(used) - 1) * len(gap_s) - low
        self._tick, self._ends = (query, gallery), (low, high)

    def block(self, rows: Rows, columns: Rows) -> np.ndarray:
        """Float32 distances of those rows and columns, in their order."""
        camera, other = self._camera[0][rows], self._camera[1][columns]
        missing = np.flatnonzero(self._missing[columns])
        out = np.empty((len(camera), len(other)), dtype=np.float32)
        for group in rows_by_label(camera):
            a = camera[group[0]]
            offset = self._offset[a, other]
            if self._table is None:
                query, gallery = self._time[0][rows], np.where(self._missing[columns], 0.0, self._time[1][columns])
                step = max(1, CELLS // max(1, len(other)))
                for part in np.split(group, range(step, len(group), step)):
                    gap = gallery - np.nan_to_num(query[part])[:, None]
                    out[part] = self._law.curve(self._law.numbers[a, other], gap)
                    out[part] += offset
            else:
                self._look_up(out, group, rows, self._start[a, other], self._tick[1][columns], offset)
            if len(missing):
                out[np.ix_(group, missing)] = offset[missing] + self._unknown
        unknown = np.flatnonzero(np.isnan(self._time[0][rows]))
        if len(unknown):
            out[unknown] = self._offset[camera[unknown][:, None], other] + self._unknown
        return out

    def pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Float32 distances of single pairs, the same values as in their ``block``."""
        camera, other = self._camera[0][rows], self._camera[1][columns]
        if self._table is None:
            return self._law.distance(camera, other, self._time[1][columns] - self._time[0][rows])
        gap = self._tick[1][columns] - self._tick[0][rows]
        place = self._start[camera, other] + (gap.clip(*self._ends) if self._beyond else gap)
        value = self._table.reshape(-1).take(place, mode="clip")
        missing = np.isnan(self._time[0][rows]) | self._missing[columns]
        return np.where(missing, self._unknown, value) + self._offset[camera, other]

    def _look_up(
        self, out: np.ndarray, group: np.ndarray, rows: Rows, start: np.ndarray, ticks: np.ndarray, offset: np.ndarray
    ) -> None:
        """One camera's rows, some at a time; torch's ``gather`` takes half as long as NumPy's ``take``."""
        table, tick = torch.from_numpy(self._table).view(1, -1), torch.from_numpy(self._tick[0][rows])
        begin, more = torch.from_numpy(start), torch.from_numpy(offset)
        at = torch.from_numpy(ticks if self._beyond else start + ticks)
        for part in np.split(group, range(TOGETHER, len(group), TOGETHER)):
            here = at - tick[part, None]
            if self._beyond:
                here.clamp_(*self._ends).add_(begin)
            out[part] = torch.gather(table.expand(len(part), -1), 1, here).add_(more).numpy()


def on_a_grid(query_s: np.ndarray, gallery_s: np.ndarray) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The coarsest grid of whole milliseconds on which all known times of two lists lie (seconds, NaN: not known).

    The step in milliseconds and both lists as int64 counts of steps from the first time (0 where not known); None if a
    time is more than a microsecond from a whole millisecond, or none is known.
    """
    known = np.concatenate([query_s[~np.isnan(query_s)], gallery_s[~np.isnan(gallery_s)]])
    if not len(known):
        return None
    ticks = np.rint(known * TICKS_PER_SECOND)
    if np.abs(ticks / TICKS_PER_SECOND - known).max() > TOLERANCE_S:
        return None
    first = ticks.min()
    step = int(np.gcd.reduce(np.unique(ticks - first).astype(np.int64))) or 1
    query, gallery = (
        np.rint(np.nan_to_num(t * TICKS_PER_SECOND - first)).astype(np.int64) // step for t in (query_s, gallery_s)
    )
    return step, query, gallery


def distance_of(evidence: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """``(top - evidence) / 10`` with the evidence, in nats, cut to ``[bottom, top]``; 0 means entirely plausible."""
    return (top - np.clip(evidence, bottom, top)) / NATS
