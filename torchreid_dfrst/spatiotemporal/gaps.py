"""Distances that depend on a camera pair and a signed time gap, made block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from torchreid_dfrst.sightings import CameraNetwork, Sightings

TABLE_LIMIT = 1 << 25  # float32 values: 128 MiB
TOGETHER = 64  # rows looked up in one call
TICKS_PER_SECOND = 1000
TOLERANCE_S = 1e-6

Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


class GapTransit:
    """``offset[a, b] + curve(number[a, b], t_gallery - t_query)`` for query camera ``a`` and gallery camera ``b``.

    Timestamps are frame numbers or whole milliseconds far more often than not, so there are far fewer different gaps
    than pairs. Where they lie on such a grid every curve is evaluated once per possible gap and each distance is one
    look-up; otherwise the curve is evaluated pair by pair. Both give the same float32 values.

    Args:
        query: sightings of the rows.
        gallery: sightings of the columns.
        network: gives the row of each camera.
        number: ``(C, C)`` int64, which curve belongs to an ordered camera pair (rows of ``network``).
        offset: ``(C, C)`` float, what the camera pair alone contributes.
        curve: ``(number, gap_s) -> value`` elementwise on two arrays that broadcast; gaps are finite.
        unknown: value of every curve where one of the two times is not known.
        bounds: smallest and largest possible distance.
        symmetric: whether curve and offset of a camera pair are those of the pair turned round at minus the gap, to the
            last bit.

    Raises:
        KeyError: a camera has no row in the network.
        ValueError: not one image of a list that is not empty has a time.
    """

    def __init__(
        self,
        query: Sightings,
        gallery: Sightings,
        network: CameraNetwork,
        number: np.ndarray,
        offset: np.ndarray,
        curve: Curve,
        unknown: float,
        bounds: tuple[float, float],
        symmetric: bool = False,
    ):
        for name, part in (("query", query), ("gallery", gallery)):
            if len(part) and np.isnan(part.time_s).all():
                part.require_times(f"the {name} list")
        self.shape = (len(query), len(gallery))
        self.low, self.high = bounds
        self._camera = network.rows(query.camera), network.rows(gallery.camera)
        self._time = query.time_s, gallery.time_s
        same = np.array_equal(*self._camera) and np.array_equal(*self._time, equal_nan=True)
        self.symmetric = symmetric and same
        self._number, self._offset = number, np.asarray(offset, dtype=np.float32)
        self._curve, self._unknown = curve, np.float32(unknown)
        self._missing = np.isnan(gallery.time_s)
        self._tabulate()

    def _tabulate(self) -> None:
        """Evaluate every curve that can occur at every gap that can occur, if that is less work than all pairs."""
        self._table: np.ndarray | None = None
        ticks = on_a_grid(*self._time)
        if ticks is None or 0 in self.shape:
            return
        step, query, gallery = ticks
        low, high = int(gallery.min() - query.max()), int(gallery.max() - query.min())
        used = np.unique(self._number[np.ix_(np.unique(self._camera[0]), np.unique(self._camera[1]))])
        size = len(used) * (high - low + 1)
        if size > min(TABLE_LIMIT, self.shape[0] * self.shape[1]):
            return
        gap_s = np.arange(low, high + 1) * step / TICKS_PER_SECOND
        self._table = np.empty((len(used), len(gap_s)), dtype=np.float32)
        for row, number in zip(self._table, used, strict=True):
            row[:] = self._curve(np.full(1, number), gap_s)
        self._start = np.searchsorted(used, self._number).clip(max=len(used) - 1) * len(gap_s) - low
        self._tick = query, gallery

    def block(self, rows: slice | np.ndarray, columns: slice | np.ndarray) -> np.ndarray:
        """Float32 distances of those rows and columns, in their order."""
        camera, other = self._camera[0][rows], self._camera[1][columns]
        missing = np.flatnonzero(self._missing[columns])
        out = np.empty((len(camera), len(other)), dtype=np.float32)
        order = np.argsort(camera, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(camera[order])) + 1) if len(order) else []:
            a = camera[group[0]]
            offset = self._offset[a, other]
            if self._table is None:
                self._evaluate(out, group, rows, columns, self._number[a, other])
                for row in group:
                    out[row] += offset
            else:
                self._look_up(out, group, rows, self._start[a, other] + self._tick[1][columns], offset)
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
            gap = np.nan_to_num(self._time[1][columns] - self._time[0][rows])
            value = np.asarray(self._curve(self._number[camera, other], gap), dtype=np.float32)
        else:
            place = self._start[camera, other] + (self._tick[1][columns] - self._tick[0][rows])
            value = self._table.reshape(-1).take(place, mode="clip")
        missing = np.isnan(self._time[0][rows]) | self._missing[columns]
        return np.where(missing, self._unknown, value) + self._offset[camera, other]

    def _look_up(
        self, out: np.ndarray, group: np.ndarray, rows: slice | np.ndarray, base: np.ndarray, offset: np.ndarray
    ) -> None:
        """One camera's rows, some at a time: enough to be worth a call, few enough for the processor's cache.

        torch's ``gather`` in two threads takes half as long as NumPy's ``take`` at its best.
        """
        assert self._table is not None
        table, tick = torch.from_numpy(self._table.reshape(1, -1)), torch.from_numpy(self._tick[0][rows])
        at, more = torch.from_numpy(base), torch.from_numpy(offset)
        size = min(TOGETHER, len(group)), len(base)
        index, value = torch.empty(size, dtype=at.dtype), torch.empty(size, dtype=table.dtype)
        for start in range(0, len(group), TOGETHER):
            part = group[start : start + TOGETHER]
            here, found = index[: len(part)], value[: len(part)]
            torch.sub(at, tick[part, None], out=here)
            torch.gather(table.expand(len(part), -1), 1, here, out=found)
            found += more
            out[part] = found.numpy()

    def _evaluate(
        self,
        out: np.ndarray,
        group: np.ndarray,
        rows: slice | np.ndarray,
        columns: slice | np.ndarray,
        number: np.ndarray,
    ) -> None:
        query, gallery = self._time[0][rows], np.where(self._missing[columns], 0.0, self._time[1][columns])
        for row in group:
            out[row] = self._curve(number, gallery - (0.0 if np.isnan(query[row]) else query[row]))


def on_a_grid(query_s: np.ndarray, gallery_s: np.ndarray) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The coarsest grid of whole milliseconds on which all known times lie.

    Args:
        query_s: ``(Q,)`` seconds, NaN where not known.
        gallery_s: ``(G,)`` seconds, NaN where not known.

    Returns:
        The step in milliseconds and both lists as int64 counts of steps from the first time (0 where not known); None
        if a time is more than a microsecond from a whole millisecond, or none is known.
    """
    known = np.concatenate([query_s[~np.isnan(query_s)], gallery_s[~np.isnan(gallery_s)]])
    if not len(known):
        return None
    ticks = np.rint(known * TICKS_PER_SECOND)
    if np.abs(ticks / TICKS_PER_SECOND - known).max() > TOLERANCE_S:
        return None
    first = ticks.min()
    step = int(np.gcd.reduce(np.unique(ticks - first).astype(np.int64))) or 1
    whole = [
        np.rint(np.nan_to_num(t * TICKS_PER_SECOND - first)).astype(np.int64) // step for t in (query_s, gallery_s)
    ]
    return step, whole[0], whole[1]
