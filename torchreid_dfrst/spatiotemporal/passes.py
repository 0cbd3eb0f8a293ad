"""Passes (one vehicle going by one camera once) and pairs of sightings of one vehicle: what every model learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.sightings import UNKNOWN, Sightings

PASS_GAP_S = 10.0


class Pairs(NamedTuple):
    """Pairs of sightings of one vehicle by different cameras: ``(P,)`` int64 rows in the list of sightings, twice."""

    first: np.ndarray
    second: np.ndarray

    def both_ways(self) -> Pairs:
        """Each pair once in either order: ``2 P`` of them."""
        return Pairs(np.concatenate([self.first, self.second]), np.concatenate([self.second, self.first]))


def pairs_within(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every pair with one label, the first before the second: two arrays ``(P,)``."""
    order = np.argsort(label, kind="stable")
    ordered, row = label[order], np.arange(len(label))
    later = np.searchsorted(ordered, ordered, side="right") - row - 1
    first = np.repeat(row, later)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    return order[first], order[second]


def rows_by_label(label: np.ndarray) -> list[np.ndarray]:
    """Rows of each label that occurs, rising."""
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1) if len(order) else []


def pairs_of_a_vehicle(sightings: Sightings) -> Pairs:
    """All unordered pairs of two sightings of one vehicle by different cameras, both with a time; ``first < second``.

    Raises:
        ValueError: there is no such pair; the message says why.
    """
    usable = np.flatnonzero(sightings.known & ~np.isnan(sightings.time_s))
    first, second = (usable[rows] for rows in pairs_within(sightings.identity[usable]))
    apart = sightings.camera[first] != sightings.camera[second]
    if not apart.any():
        raise ValueError(
            f"nothing to fit space and time on: of {len(sightings)} training sightings {len(usable)} have an identity "
            f"and a time, and no vehicle among them was seen by two cameras ({len(np.unique(sightings.camera))} "
            "cameras in all): at least one vehicle must be"
        )
    return Pairs(first[apart], second[apart])


def direct_trips(seen: Sightings) -> Pairs:
    """The earlier and the later of two passes of one vehicle by two cameras, with no pass by either in between.

    A vehicle that goes from A to B, and by A and B once more an hour later, has made the trip from A to B twice; that
    it was by A at first and by B at last is no trip. ``seen`` has one sighting for each pass, see ``one_per_pass``.

    Raises:
        ValueError: as ``pairs_of_a_vehicle``.
    """
    pairs, cameras = pairs_of_a_vehicle(seen), seen.camera.max() + 1
    forth = seen.time_s[pairs.first] <= seen.time_s[pairs.second]
    ends = np.where(forth, pairs, pairs[::-1])
    # of each pass the next one by the other camera; of what is left, of each pass the last one before it
    for here, there in ((0, 1), (1, 0)):
        key = ends[here] * cameras + seen.camera[ends[there]]
        order = np.lexsort((seen.time_s[ends[1]] - seen.time_s[ends[0]], key))
        ends = ends[:, order[np.unique(key[order], return_index=True)[1]]]
    return Pairs(*ends)


def passes(sightings: Sightings, by_identity: bool) -> np.ndarray:
    """``(N,)`` int64 pass that each sighting belongs to, from 0, in no particular order.

    A pass: sightings of one track and camera, cut where the time jumps by more than ``PASS_GAP_S``; the whole track
    where none has a time. Where the track is not known, those of one vehicle and camera that have a time, if
    ``by_identity`` says that identities may be looked at: for training lists. Any other sighting is its own pass.
    """
    track, time = sightings.track, sightings.time_s
    loose = track == UNKNOWN
    vehicle = np.where(loose & by_identity & ~np.isnan(time), sightings.identity, UNKNOWN)
    place = np.unique(np.stack([sightings.camera, track]), axis=1, return_inverse=True)[1].reshape(-1)
    alone = (loose & (vehicle == UNKNOWN)) | (np.isnan(time) & np.isin(place, place[~np.isnan(time)]))
    order = np.lexsort((time, track, sightings.camera, vehicle, alone))
    keys = np.stack([vehicle, sightings.camera, track])[:, order]
    cut = (np.diff(keys, axis=1) != 0).any(axis=0) | alone[order][1:] | (np.diff(time[order]) > PASS_GAP_S)
    label = np.empty(len(sightings), dtype=np.int64)
    label[order] = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(cut)])
    return label


def first_and_last(time_s: np.ndarray, label: np.ndarray) -> np.ndarray:
    """``(2, labels)`` first and last time of each label, from 0; NaN where it has none."""
    ends = np.full((2, label.max(initial=-1) + 1), np.nan)
    np.fmin.at(ends[0], label, time_s)
    np.fmax.at(ends[1], label, time_s)
    return ends


def one_per_pass(sightings: Sightings) -> Sightings:
    """One sighting for each pass of a training list: its first row, at the middle of the pass."""
    label = passes(sightings, by_identity=True)
    _, rows = np.unique(label, return_index=True)
    return replace(sightings[rows], time_s=first_and_last(sightings.time_s, label).mean(axis=0))
