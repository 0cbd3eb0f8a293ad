"""What every model learns from: pairs of sightings of one vehicle, checked before anything is fitted to them."""

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


def pairs_of_a_vehicle(sightings: Sightings) -> Pairs:
    """All unordered pairs of two sightings of one vehicle by different cameras, both with a time; ``first < second``.

    Rows without a time or an identity take part in no pair.

    Raises:
        ValueError: there is no such pair; the message says why.
    """
    usable = np.flatnonzero(sightings.known & ~np.isnan(sightings.time_s))
    order = usable[np.argsort(sightings.identity[usable], kind="stable")]
    found = [np.empty((2, 0), np.int64)]
    for rows in np.split(order, np.flatnonzero(np.diff(sightings.identity[order])) + 1):
        pairs = rows[np.array(np.triu_indices(len(rows), 1))]
        found.append(pairs[:, sightings.camera[pairs[0]] != sightings.camera[pairs[1]]])
    first, second = np.concatenate(found, axis=1)
    if not len(first):
        raise ValueError(
            f"nothing to fit space and time on: of {len(sightings)} training sightings {len(usable)} have an identity "
            f"and a time, and no vehicle among them was seen by two cameras ({len(np.unique(sightings.camera))} "
            "cameras in all): at least one vehicle must be"
        )
    return Pairs(first, second)


def direct_trips(seen: Sightings) -> Pairs:
    """Pairs of passes of one vehicle by two cameras, with no other pass by either of them in between.

    A vehicle that goes from A to B, and by A and B once more an hour later, has made the trip from A to B twice; that
    it was by A at first and by B at last is no trip.

    Args:
        seen: one sighting for each pass, see ``one_per_pass``.

    Returns:
        The earlier pass and the later one of each trip.

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
    """Which pass of one vehicle by one camera each sighting belongs to.

    Sightings of one track and camera, cut where the time jumps by more than ``PASS_GAP_S``. Where the track is not
    known, those of one vehicle and camera; the caller says whether identities may be looked at.

    Args:
        sightings: the images.
        by_identity: True for training lists. False for lists that are to be ranked: a row without a track is then a
            pass of its own.

    Returns:
        ``(N,)`` int64 labels from 0, in no particular order. A row without a time is a pass of its own.
    """
    track, time = sightings.track, sightings.time_s
    vehicle = np.where(track == UNKNOWN, sightings.identity, UNKNOWN) if by_identity else np.full(len(track), UNKNOWN)
    alone = ((track == UNKNOWN) & (vehicle == UNKNOWN)) | np.isnan(time)
    order = np.lexsort((time, track, sightings.camera, vehicle, alone))
    keys = np.stack([vehicle, sightings.camera, track])[:, order]
    cut = (np.diff(keys, axis=1) != 0).any(axis=0) | alone[order][1:] | ~(np.diff(time[order]) <= PASS_GAP_S)
    label = np.empty(len(sightings), dtype=np.int64)
    label[order] = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(cut)])
    return label


def middle_of_pass(time_s: np.ndarray, label: np.ndarray) -> np.ndarray:
    """``(passes,)`` middle between the first and the last time of each pass, NaN where it has none."""
    count = label.max(initial=-1) + 1
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    known = ~np.isnan(time_s)
    np.minimum.at(first, label[known], time_s[known])
    np.maximum.at(last, label[known], time_s[known])
    return np.where(np.isinf(first), np.nan, (first + np.where(np.isinf(last), 0.0, last)) / 2)


def one_per_pass(sightings: Sightings) -> Sightings:
    """One sighting for each pass of a training list: its first row, at the middle of the pass."""
    label = passes(sightings, by_identity=True)
    _, rows = np.unique(label, return_index=True)
    return replace(sightings[rows], time_s=middle_of_pass(sightings.time_s, label))
