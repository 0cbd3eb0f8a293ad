"""How much speaks for two passes being one vehicle: appearance and, where times are known, the trip between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchreid_dfrst.association.passes import Passes
from torchreid_dfrst.sightings import CameraNetwork
from torchreid_dfrst.spatiotemporal.gap_transit import GapTransit, Law
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood

NEVER = -15.0
"""Evidence, in nats, of two passes that cannot be one vehicle. Among wrong joins a true one must still be possible: an
endless veto costs 1.5 (65) and 6 (40) mAP on training vehicles; what is left is taken apart at the end."""
EQUAL_M = 500.0
TRUST = 1.5
"""What a nat of the law of trips is worth: its smoothing and its prior make it say less than the counts behind it.
Chosen on training vehicles: mAP of 97.0, 97.7, 98.0, 97.7 (65) and 87.4, 90.9, 91.0, 83.2 (40) with 1, 1.25, 1.5, 2."""
PAIRS = 1 << 18
"""Pairs of embeddings that are compared at once."""


def equal_network(camera: np.ndarray) -> CameraNetwork:
    """What stands for road distances where there are none: all cameras equally far from each other."""
    labels = np.unique(camera)
    return CameraNetwork(labels, EQUAL_M * (1 - np.eye(len(labels))))


@dataclass(frozen=True, eq=False)
class Evidence:
    """The fitted evidence, in nats.

    Args:
        bias: of appearance at cosine 0.
        slope: of appearance, for each unit of cosine.
        gaps: ``ln p(gap | one vehicle) - ln p(gap | two)`` of two cameras; None for appearance alone.
        returns: how many other passes a pass has of its vehicle, on average; gives the prior odds.
        boldness: the mean evidence between two halves of one vehicle understates that they are one by so much.
        overlapping: pairs of camera labels, the smaller first, that may see one vehicle at the same time.
        usual: share of the trips of held-out training vehicles that ``gaps`` did not foresee.
        doubt: of the others, the share for which ``gaps`` says nothing in this gallery: wrong times, other roads.
    """

    bias: float
    slope: float
    gaps: Likelihood | None
    returns: float
    boldness: float = 1.0
    overlapping: frozenset[tuple[int, int]] = frozenset()
    usual: float = 0.0
    doubt: float = 0.0

    def odds(self, passes: int) -> float:
        """Log of the odds that a mean evidence of 0 in a gallery of so many passes is one vehicle."""
        return float(np.log(max(self.returns, 1e-3) / max(passes, 1))) + self.boldness

    def block(self, rows: Passes, columns: Passes) -> np.ndarray:
        """``(R, C)`` float32 evidence; ``NEVER`` where one vehicle would be at two places at a time."""
        out = self.appearance(rows.embedding @ columns.embedding.T)
        out += self.trips(rows, columns)
        out[at_once(rows, columns, self.overlapping)] = NEVER
        return out

    def pairs(self, passes: Passes, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """``(M,)`` float64 evidence of single pairs of passes, without what forbids them."""
        out = np.empty(len(row))
        for start in range(0, len(row), PAIRS):
            some = slice(start, start + PAIRS)
            a, b = passes.embedding[row[some]], passes.embedding[column[some]]
            out[some] = self.appearance(np.einsum("nd,nd->n", a, b))
        if self.gaps is not None and len(row):
            assert self.gaps.network is not None
            seen, place = passes.sightings, self.gaps.network.rows(passes.camera)
            number = place[row] * len(self.gaps.network) + place[column]
            gap = seen.time_s[column] - seen.time_s[row]
            trip = (passes.camera[row] != passes.camera[column]) & ~np.isnan(gap)
            out[trip] += self._believed(self.gaps.ratio(number[trip], gap[trip]))
        return out

    def appearance(self, cosine: np.ndarray) -> np.ndarray:
        """Evidence of appearance alone, elementwise."""
        return np.float32(self.slope) * cosine + np.float32(self.bias)

    def trips(self, rows: Passes, columns: Passes) -> np.ndarray | float:
        """``(R, C)`` float32 evidence of space and time: 0 for one camera and itself, or where a time is not known."""
        gaps = self.gaps
        if gaps is None or not len(rows) or not len(columns):
            return 0.0
        assert gaps.network is not None
        bounds = self._believed(np.array([gaps.evidence.min(), gaps.evidence.max()]))
        law = Law(gaps.network, lambda number, gap_s: self._believed(gaps.ratio(number, gap_s)), 0.0, tuple(bounds))
        out = GapTransit(rows.sightings, columns.sightings, law).block(slice(None), slice(None))
        unknown = np.isnan(rows.first_s)[:, None] | np.isnan(columns.first_s)
        out[(rows.camera[:, None] == columns.camera) | unknown] = 0
        return out

    def _believed(self, ratio: np.ndarray) -> np.ndarray:
        """Evidence of a log-likelihood ratio of ``gaps``, elementwise."""
        if not self.doubt:
            return TRUST * ratio
        return np.logaddexp(TRUST * ratio + np.log1p(-self.doubt), np.log(self.doubt))


def at_once(rows: Passes, columns: Passes, overlapping: frozenset[tuple[int, int]] = frozenset()) -> np.ndarray:
    """``(R, C)`` whether two passes meet in time at cameras that do not see one place.

    Two passes at one camera at a time are two vehicles too, so this holds for a pass and itself.
    """
    together = (rows.first_s[:, None] <= columns.last_s) & (columns.first_s <= rows.last_s[:, None])
    row, column = np.nonzero(together)
    a, b = rows.camera[row], columns.camera[column]
    low, high = np.minimum(a, b), np.maximum(a, b)
    width = int(max(rows.camera.max(initial=0), columns.camera.max(initial=0))) + 1
    allowed = np.array([x * width + y for x, y in overlapping], dtype=np.int64)
    free = np.isin(low * width + high, allowed)
    together[row[free], column[free]] = False
    return together
