"""Evidence that travels over a third sighting: where a vehicle probably was in between tells where it goes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.evidence import NATS
from torchreid_dfrst.spatiotemporal.gaps import GapTransit
from torchreid_dfrst.spatiotemporal.passes import middle_of_pass, passes

KEPT = 1 << 25  # float32 ratios between gallery passes that are kept rather than made again: 128 MiB
ROWS = 256


class RelayTransit:
    """``(top - x) / 10`` with ``x(q, g) = e(q, g) + ln(1 + sum over h of P(h | q) exp e(h, g))``.

    ``e`` is a log-likelihood ratio of two passes, ``h`` runs over the passes of the gallery that are the most likely
    to be the query's vehicle and ``P(h | q)`` is their probability. No identity is looked at. All images of one pass
    (one track, see ``training.passes``) share its time and so their distance; without tracks each image is a pass.

    Args:
        query: sightings of the rows.
        gallery: sightings of the columns; the relays are taken from it.
        evidence: log-likelihood ratios, in nats, between two lists of passes.
        relays: how many passes each query relies on; 0 leaves ``e`` alone.
        returns: how many other passes one pass of a vehicle has on average, for the prior of ``P``.
        bounds: smallest and largest ``e``.
    """

    def __init__(
        self,
        query: Sightings,
        gallery: Sightings,
        evidence: Callable[[Sightings, Sightings], GapTransit],
        relays: int,
        returns: float,
        bounds: tuple[float, float],
    ):
        self.shape = (len(query), len(gallery))
        everyone = Sightings.concatenate([query, gallery])
        label = passes(everyone, by_identity=False)
        time_s = middle_of_pass(everyone.time_s, label)
        lists = []
        for part, labels in ((query, label[: len(query)]), (gallery, label[len(query) :])):
            seen, first, where = np.unique(labels, return_index=True, return_inverse=True)
            lists.append((Sightings(part.camera[first], time_s[seen]), where))
        (rows, self._row), (columns, self._column) = lists
        self._base, self._among = evidence(rows, columns), evidence(columns, columns)
        self._relays = min(relays, len(columns))
        self._find(returns / max(len(columns), 1))
        # a sum of at most `relays` ratios
        self._top = bounds[1] + float(np.log1p(self._relays * np.exp(bounds[1])))
        self.low, self.high = 0.0, (self._top - bounds[0]) / NATS
        small = self._relays and len(columns) ** 2 <= min(KEPT, 4 * len(rows) * len(columns))
        self._ratio = np.exp(self._among.block(slice(None), slice(None))) if small else None

    def _find(self, odds: float) -> None:
        """The most likely passes of each row and their probabilities."""
        count, kept = self._base.shape[0], self._relays
        self._relay = np.empty((count, kept), dtype=np.int64)
        self._weight = np.empty((count, kept), dtype=np.float32)
        for start in range(0, count if kept else 0, ROWS):
            part = slice(start, start + ROWS)
            evidence = self._base.block(part, slice(None))
            best = np.argpartition(-evidence, kept - 1, axis=1)[:, :kept]
            ratio = odds * np.exp(np.take_along_axis(evidence, best, axis=1))
            self._relay[part], self._weight[part] = best, ratio / (1 + ratio)

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows and columns, in their order."""
        row, back = np.unique(self._row[rows], return_inverse=True)
        column: Any
        if columns == slice(None) or columns == slice(0, self.shape[1]):
            column, forth = slice(None), self._column
        else:
            column, forth = np.unique(self._column[columns], return_inverse=True)
        x = self._base.block(row, column)
        if self._relays and x.size:
            relay, place = np.unique(self._relay[row], return_inverse=True)
            weight = np.zeros((len(row), len(relay)), dtype=np.float32)
            np.put_along_axis(weight, place.reshape(len(row), -1), self._weight[row], axis=1)
            if self._ratio is None:
                ratio = np.exp(self._among.block(relay, column))
            else:
                ratio = self._ratio[relay][:, column]
            x += np.log1p(weight @ ratio)
        x -= np.float32(self._top)
        x *= np.float32(-1 / NATS)
        return x.take(forth, axis=1)[back]
