"""Images to passes: one vehicle going by one camera once, with one embedding and the time it was in view."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from torchreid_dfrst.sightings import UNKNOWN, Sightings
from torchreid_dfrst.spatiotemporal.passes import PASS_GAP_S, passes

LOOK_BACK = 32
"""How many earlier images of its camera an image is compared with when tracks are not known."""
SURE = 3.0
FEW = 5.0
"""Passes that the mean of all cameras is worth beside the passes of one."""


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes that images were pooled to: what is known of each, no identity.

    Args:
        camera: ``(P,)`` int64.
        first_s: ``(P,)`` float64 first time in seconds, NaN where not known.
        last_s: ``(P,)`` the last time.
        images: ``(P,)`` int64 number of images.
        embedding: ``(P, D)`` float32 of unit length: the mean of its images less the mean of its camera.
    """

    camera: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray
    images: np.ndarray
    embedding: np.ndarray

    def __len__(self) -> int:
        """Number of passes."""
        return len(self.camera)

    def __getitem__(self, index: np.ndarray) -> Passes:
        """Some of them, in that order."""
        return Passes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def sightings(self) -> Sightings:
        """One sighting for each pass, at its middle."""
        return Sightings(self.camera, (self.first_s + self.last_s) / 2)


class CameraMeans:
    """What the embeddings of a camera have in common (its light, its angle), which tells no vehicle from another.

    The mean of a camera is drawn towards that of all where there are few passes.

    Args:
        embedding: ``(P, D)`` one embedding for each pass.
        camera: ``(P,)`` labels.
    """

    def __init__(self, embedding: np.ndarray, camera: np.ndarray):
        self.camera, place, count = np.unique(camera, return_inverse=True, return_counts=True)
        overall = embedding.mean(axis=0, dtype=np.float64)
        total = np.tile(FEW * overall, (len(self.camera), 1))
        for row in range(len(self.camera)):
            total[row] += embedding[place == row].sum(axis=0, dtype=np.float64)
        self.mean = (total / (count + FEW)[:, None]).astype(np.float32)
        self.overall = overall.astype(np.float32)

    def taken_from(self, embedding: np.ndarray, camera: np.ndarray) -> np.ndarray:
        """Embeddings less their camera's mean, of unit length; one that is all mean stays zero."""
        place = np.searchsorted(self.camera, camera).clip(max=len(self.camera) - 1)
        known = self.camera[place] == camera
        left = embedding - np.where(known[:, None], self.mean[place], self.overall)
        length = np.linalg.norm(left, axis=1, keepdims=True)
        return np.divide(left, length, out=np.zeros_like(left), where=length > 1e-6)


def pool(embedding: np.ndarray, sightings: Sightings, label: np.ndarray) -> tuple[Passes, CameraMeans]:
    """One row for each pass.

    Args:
        embedding: ``(N, D)`` of unit length.
        sightings: the images.
        label: ``(N,)`` pass of each image, from 0, as ``find_passes`` gives it.
    """
    order = np.argsort(label, kind="stable")
    start = np.flatnonzero(np.diff(label[order], prepend=-1))
    images = np.diff(np.append(start, len(label)))
    mean = np.add.reduceat(embedding[order], start, axis=0)
    mean /= images[:, None].astype(np.float32)
    camera, time = sightings.camera[order][start], sightings.time_s[order]
    means = CameraMeans(mean, camera)
    ends = np.fmin.reduceat(time, start), np.fmax.reduceat(time, start)
    return Passes(camera, *ends, images, means.taken_from(mean, camera)), means


def find_passes(unit: np.ndarray, sightings: Sightings) -> tuple[np.ndarray, float | None]:
    """Which pass each image belongs to: its track where there is one, else images of one camera, close and alike.

    An image without a track is compared with the ``LOOK_BACK`` images of its camera before it, as far as they are no
    more than ``PASS_GAP_S`` away, and joins the pass of the most alike, if the likeness is on the upper side of the
    threshold that parts these likenesses best into two groups (Otsu's). With neither track nor time an image is a pass
    of its own.

    Args:
        unit: ``(N, D)`` embeddings of unit length.
        sightings: the images; identities are not read.

    Returns:
        ``(N,)`` int64 labels from 0, and the threshold; None where there was nothing to compare.
    """
    label = passes(sightings, by_identity=False)
    loose = np.flatnonzero((sightings.track == UNKNOWN) & ~np.isnan(sightings.time_s))
    if len(loose) < 2:
        return label, None
    loose = loose[np.lexsort((sightings.time_s[loose], sightings.camera[loose]))]
    camera, time, unit = sightings.camera[loose], sightings.time_s[loose], unit[loose]
    best, who = np.full(len(loose), -np.inf, dtype=np.float32), np.arange(len(loose))
    for back in range(1, min(LOOK_BACK + 1, len(loose))):
        near = np.flatnonzero((camera[back:] == camera[:-back]) & (time[back:] - time[:-back] <= PASS_GAP_S)) + back
        likeness = np.einsum("nd,nd->n", unit[near], unit[near - back])
        better = likeness > best[near]
        best[near[better]], who[near[better]] = likeness[better], near[better] - back
    half = len(loose) // 2
    far = np.flatnonzero((camera[half:] == camera[:-half]) & (time[half:] - time[:-half] > PASS_GAP_S))
    if len(far) < FEW:  # images of another camera are other vehicles as well, nearly all
        far = np.arange(len(loose) - half)
    chance = np.einsum("nd,nd->n", unit[far], unit[far + half])
    alike = max(_two_groups(best[np.isfinite(best)]), float(chance.mean() + SURE * chance.std()))
    root = np.where(best >= alike, who, np.arange(len(loose)))
    while (root != root[root]).any():  # an image points to an earlier one, that one to its first
        root = root[root]
    label[loose] = label[loose][root]
    return np.unique(label, return_inverse=True)[1], alike


def _two_groups(values: np.ndarray) -> float:
    """The threshold that parts values into two groups of least spread within them (Otsu)."""
    if not len(values):
        return np.inf
    ordered = np.sort(values.astype(np.float64))
    below = np.arange(1, len(ordered))
    total = np.cumsum(ordered)
    mean_below, mean_above = total[:-1] / below, (total[-1] - total[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (mean_above - mean_below) ** 2
    return float(ordered[np.argmax(between) + 1]) if len(ordered) > 1 and between.max() > 0 else float(ordered[0])
