"""From images to trips: ``associate``."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchreid_dfrst.association.average_linkage import Tree
from torchreid_dfrst.association.evidence import Evidence
from torchreid_dfrst.association.learning import FEWEST, doubt, learn
from torchreid_dfrst.association.passes import CameraMeans, Passes, find_passes, pool
from torchreid_dfrst.association.windows import join
from torchreid_dfrst.messages import numbered
from torchreid_dfrst.retrieval import Features, normalise
from torchreid_dfrst.retrieval.logistic import sigmoid
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.passes import pairs_within


@dataclass(frozen=True, eq=False)
class Association:
    """The trips of a gallery.

    Args:
        passes: what is known of each pass; its camera's mean is taken from its embedding.
        label: ``(N,)`` int64 pass of each image.
        trajectory: ``(P,)`` int64 trajectory of each pass, numbered in the order of the passes.
        evidence: what the trips rest on; None where nothing could be learnt, and each pass is its own trajectory.
        means: of cameras, which were taken from embeddings.
        unit: ``(N, D)`` embeddings of the images, of unit length.
        alike: likeness from which on images without a track were taken for one pass; None where all had tracks.
        notes: what was left out or could not be used, and why, one sentence each.
        height: ``(P,)`` evidence at which each pass first joins another.
        tree: of all passes, where all were joined at once.
        odds: log odds at a mean evidence of 0.
    """

    passes: Passes
    label: np.ndarray
    trajectory: np.ndarray
    evidence: Evidence | None
    means: CameraMeans
    unit: np.ndarray
    alike: float | None
    notes: tuple[str, ...]
    height: np.ndarray
    tree: Tree | None
    odds: float

    @property
    def image_trajectory(self) -> np.ndarray:
        """``(N,)`` trajectory of each image."""
        return self.trajectory[self.label]

    @property
    def links(self) -> tuple[np.ndarray, np.ndarray]:
        """Passes that follow each other in a trajectory, by time: rows of the earlier and of the later ones."""
        order = np.lexsort((self.passes.first_s, self.trajectory))
        same = self.trajectory[order][1:] == self.trajectory[order][:-1]
        return order[:-1][same], order[1:][same]

    def membership(self) -> np.ndarray:
        """``(P,)`` probability that a pass is of its trajectory's vehicle, by its mean evidence with all others there.

        A pass alone: the probability that the one it is nearest to is another vehicle. Raises as ``calibrated``.
        """
        evidence = self.calibrated()
        row, column = pairs_within(self.trajectory)
        value = evidence.pairs(self.passes, row, column)
        size = len(self.passes)
        count = np.bincount(row, minlength=size) + np.bincount(column, minlength=size)
        total = np.bincount(row, value, size) + np.bincount(column, value, size)
        mean = np.where(count > 0, total / np.maximum(count, 1), -self.height - 2 * self.odds)
        return sigmoid(mean + self.odds)

    def link_probability(self) -> np.ndarray:
        """``(L,)`` probability that what is before one of ``links`` and after it is one vehicle; raises so too."""
        evidence = self.calibrated()
        earlier, _ = self.links
        order = np.lexsort((self.passes.first_s, self.trajectory))
        rank = np.argsort(order)
        _, start, size = np.unique(self.trajectory[order], return_index=True, return_counts=True)
        before = rank - start[self.trajectory]
        row, column = pairs_within(self.trajectory)
        value = evidence.pairs(self.passes, row, column)
        # a pair lies across every link between its two: add it at the first, take it away after the last
        low, high = np.minimum(rank[row], rank[column]), np.maximum(rank[row], rank[column])
        change = np.bincount(low, value, len(order) + 1) - np.bincount(high, value, len(order) + 1)
        across = np.cumsum(change)[rank[earlier]]
        pairs = (before[earlier] + 1) * (size[self.trajectory[earlier]] - before[earlier] - 1)
        return sigmoid(across / pairs + self.odds)

    def calibrated(self) -> Evidence:
        """The evidence; a ``ValueError`` where there was nothing to calibrate on."""
        if self.evidence is None:
            raise ValueError(f"no probability without anything to calibrate on: {self.notes[-1]}")
        return self.evidence


def associate(
    features: Features,
    network: CameraNetwork | None = None,
    evidence: Evidence | Likelihood | None = None,
    *,
    window_s: float = 3600.0,
    executor: Executor | None = None,
) -> Association:
    """Join the images of a gallery to passes, and the passes to trips. No identity is read.

    Args:
        features: embeddings and sightings. Tracks are passes; without tracks passes are found. Images without a time
            are joined by appearance alone.
        network: road distances; without them all cameras count as equally far from each other.
        evidence: fitted on labelled sightings by ``fit``; a fitted ``likelihood`` model alone, beside which appearance
            is calibrated on these features; None to learn everything from these features.
        window_s: in a large gallery, passes further apart in time than this are not compared with each other.
        executor: runs parts of a large gallery, such as ``ProcessPoolExecutor(2)`` or Dask's
            ``Client.get_executor()``; any gives the same trips.

    Raises:
        ValueError: there is no image, an embedding is zero or not finite, or ``window_s`` is not positive.
        KeyError: a camera has no row in the network.
    """
    if not len(features):
        raise ValueError("there are no images to join: features of 0 rows were given")
    if not 0 < window_s < np.inf:
        raise ValueError(f"window_s is {window_s}: seconds, more than 0")
    given, notes = features.sightings, []
    sightings = Sightings(given.camera, given.time_s, track=given.track, camera_name=given.camera_name)
    known = ~np.isnan(sightings.time_s)
    if known.any() and not known.all():
        notes.append(
            numbered("{count} [image has|images have] no time: joined by appearance alone", int((~known).sum()))
        )
    elif not known.any():
        notes.append("no image has a time: joined by appearance alone")
    if known.sum() > 1 and np.ptp(sightings.time_s[known]) == 0 and len(np.unique(sightings.camera[known])) > 1:
        notes.append("all images have the same time, which says nothing: joined by appearance alone")
        sightings = replace(sightings, time_s=np.full(len(sightings), np.nan))
    if network is not None:
        network.rows(sightings.camera, sightings.camera_called)
    unit = normalise(features.embedding)
    label, alike = find_passes(unit, sightings)
    passes, means = pool(unit, sightings, label)
    if not isinstance(evidence, Evidence):
        evidence = learn(passes, network, evidence)
    else:
        more = (doubt(passes, evidence) - evidence.usual) / (1 - evidence.usual)
        evidence = replace(evidence, doubt=max(more, 0.0))
    if evidence is None:
        notes.append(
            f"fewer than {FEWEST} pairs of passes at different cameras choose each other as most alike "
            f"({numbered('{count} [pass|passes]', len(passes))} at "
            f"{numbered('{count} [camera|cameras]', len(np.unique(passes.camera)))}): each pass is its own trajectory; "
            "give evidence that was fitted elsewhere (association.fit)"
        )
        joined: tuple[Any, ...] = np.arange(len(passes)), np.full(len(passes), -np.inf), None, 0.0
    else:
        joined = join(passes, evidence, window_s, executor)
    trajectory, height, tree, odds = joined
    return Association(passes, label, trajectory, evidence, means, unit, alike, tuple(notes), height, tree, odds)
