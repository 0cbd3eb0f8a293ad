"""Ranking a gallery by its trips: each query is asked where in the tree it belongs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.cluster.hierarchy import leaves_list

from torchreid_dfrst.association.associate import Association
from torchreid_dfrst.association.passes import Passes
from torchreid_dfrst.retrieval import Features, normalise
from torchreid_dfrst.sightings import UNKNOWN, Sightings
from torchreid_dfrst.spatiotemporal.passes import PASS_GAP_S

OWN = 0.2
"""Share of the evidence between query and pass themselves; the rest is that of their clusters."""
ROWS = 64


def ranking(trips: Association, query: Features, gallery: Sightings) -> Iterator[np.ndarray]:
    """Distances of queries to the images of an association, in blocks of consecutive rows ``(rows, N)`` float32.

    A query that belongs to a pass of the gallery (same track, or same camera, near in time and as alike as the images
    of one pass) stands where that pass stands. Any other joins the cluster that average linkage would join it to.
    A gallery image is ranked by the evidence at which its pass and the query come together, and by ``OWN`` of the
    evidence between the two. Each query is ranked on its own: none is joined with another. No identity is read.

    Args:
        trips: of the gallery.
        query: embeddings and sightings.
        gallery: sightings of the images that were joined, in the same order.

    Raises:
        ValueError: nothing could be calibrated; another number of images.
    """
    if len(gallery) != len(trips.label):
        raise ValueError(f"{len(gallery)} gallery images, but the trips are of {len(trips.label)}: give the same list")
    evidence = trips.calibrated()
    own = _own_pass(trips, query, gallery)
    asked = _as_passes(trips, query, own)
    places = _TreePlaces(trips) if trips.tree is not None else _MeanPlaces(trips)
    for start in range(0, len(query), ROWS):
        rows = np.arange(start, min(start + ROWS, len(query)))
        single = evidence.block(asked[rows], trips.passes)
        together = places.of(single, own[rows])
        score = (1 - OWN) * together + np.float32(OWN) * single
        mine = np.flatnonzero(own[rows] >= 0)
        score[mine, own[rows][mine]] = score.max() + 1
        yield -score[:, trips.label]


def _own_pass(trips: Association, query: Features, gallery: Sightings) -> np.ndarray:
    """``(Q,)`` pass of the gallery that each query image is part of, -1 for none."""
    own, seen, passes = np.full(len(query), -1), query.sightings, trips.passes
    tracks: dict[tuple[int, int], list[int]] = {}
    first = np.unique(trips.label, return_index=True)[1]
    for row, (camera, track) in enumerate(zip(gallery.camera[first], gallery.track[first], strict=True)):
        if track != UNKNOWN:
            tracks.setdefault((int(camera), int(track)), []).append(row)
    for row, (camera, track) in enumerate(zip(seen.camera.tolist(), seen.track.tolist(), strict=True)):
        there = tracks.get((camera, track), [])
        untimed = np.isnan(passes.first_s[there]).all()
        for one in there:
            outside = max(passes.first_s[one] - seen.time_s[row], seen.time_s[row] - passes.last_s[one])
            if untimed or outside <= PASS_GAP_S:
                own[row] = one
    if trips.alike is not None:
        for row in np.flatnonzero((own < 0) & (seen.track == UNKNOWN) & ~np.isnan(seen.time_s)).tolist():
            near = np.flatnonzero(
                (gallery.camera == seen.camera[row]) & (np.abs(gallery.time_s - seen.time_s[row]) <= PASS_GAP_S)
            )
            likeness = trips.unit[near] @ normalise(query.embedding[[row]])[0]
            if len(near) and likeness.max() >= trips.alike:
                own[row] = trips.label[near[likeness.argmax()]]
    return own


def _as_passes(trips: Association, query: Features, own: np.ndarray) -> Passes:
    """Each query as a pass of one image, or as the gallery's pass it is part of."""
    seen, passes = query.sightings, trips.passes
    embedding = trips.means.taken_from(normalise(query.embedding), seen.camera)
    mine = own >= 0
    embedding[mine] = passes.embedding[own[mine]]
    first, last = (np.where(mine, column[own], seen.time_s) for column in (passes.first_s, passes.last_s))
    return Passes(seen.camera, first, last, np.ones(len(query), dtype=np.int64), embedding)


class _TreePlaces:
    """Where each query stands in the tree of a gallery."""

    def __init__(self, trips: Association):
        assert trips.tree is not None
        self.size, merges = trips.tree.size, trips.tree.merges
        self.order = np.arange(self.size) if merges is None else leaves_list(merges).astype(np.int64)
        nodes = max(1, 2 * self.size - 1)
        self.low, self.high = np.zeros(nodes, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
        self.low[self.order] = np.arange(self.size)
        self.high[self.order] = np.arange(1, self.size + 1)
        self.height, self.parent = np.full(nodes, np.inf), np.full(nodes, -1)
        for k, (a, b, distance, _) in enumerate(() if merges is None else merges.tolist()):
            node, children = self.size + k, [int(a), int(b)]
            self.low[node], self.high[node] = self.low[children].min(), self.high[children].max()
            self.height[node], self.parent[children] = trips.tree.top - distance, node
        self.above = np.where(self.parent < 0, -np.inf, self.height[self.parent])

    def of(self, single: np.ndarray, own: np.ndarray) -> np.ndarray:
        """``(R, P)`` float32 evidence at which rows and passes come together.

        ``single`` is ``(R, P)``, that between them alone; ``own`` the leaf where a row stands, -1 for one to be placed.
        """
        out = np.empty_like(single)
        total = np.zeros((len(single), self.size + 1))
        np.cumsum(single[:, self.order], axis=1, out=total[:, 1:])
        for row in range(len(single)):
            node, value = int(own[row]), np.inf
            if node < 0:
                mean = (total[row, self.high] - total[row, self.low]) / (self.high - self.low)
                join = np.where(mean > self.above, np.minimum(mean, self.height), -np.inf)
                node = int(join.argmax())
                value = float(join[node])
            line = np.empty(self.size, dtype=np.float32)
            line[self.low[node] : self.high[node]] = value
            while (up := int(self.parent[node])) >= 0:
                line[self.low[up] : self.low[node]] = line[self.high[node] : self.high[up]] = self.height[up]
                node = up
            out[row, self.order] = line
        return out


class _MeanPlaces:
    """The same without a tree: the mean evidence of the query, or of its trajectory, to each trajectory."""

    def __init__(self, trips: Association):
        self.trips, self.evidence = trips, trips.calibrated()
        self.size = np.bincount(trips.trajectory)

    def of(self, single: np.ndarray, own: np.ndarray) -> np.ndarray:
        """As ``_TreePlaces.of``."""
        out = np.empty_like(single)
        for row, line in enumerate(single):
            if own[row] >= 0:
                mates = np.flatnonzero(self.trips.trajectory == self.trips.trajectory[own[row]])
                block = self.evidence.block(self.trips.passes[mates], self.trips.passes)
                line = block.mean(axis=0)
            mean = np.bincount(self.trips.trajectory, line) / self.size
            if own[row] >= 0:
                mean[self.trips.trajectory[own[row]]] = mean.max() + 1
            out[row] = mean[self.trips.trajectory]
        return out
