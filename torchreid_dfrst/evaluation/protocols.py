"""Named protocols: what is ranked against what, what counts, and how often it is drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchreid_dfrst.checks import within
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.retrieval import Features, Metrics, evaluate, normalise
from torchreid_dfrst.retrieval.metrics import PRECISION, TRAPEZOID
from torchreid_dfrst.sightings import UNKNOWN, Sightings, draw

OUT = "out"


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate. Two results compare only if every field but the name is the same.

    Args:
        name: a key of ``PROTOCOLS``.
        junk: True: gallery entries of the query's own vehicle *and* camera are neither right nor wrong
            (Market-1501; equal to VeRi-776's ``jk_index.txt``). False: they are right.
        tracks: None: images are ranked. ``"min"``: tracks are ranked, each as near as its nearest image.
            ``"mean"``: tracks are ranked, each by the mean of its L2-normalised embeddings.
        one_image: None: query and gallery as given. ``"gallery"``: in each draw one random image of every vehicle is
            the gallery, all others are queries (VehicleID's standard). ``"query"``: the reverse.
        draws: number of random draws; only with ``one_image``.
        seed: of the draws.
        average_precision: ``"precision"``: mean of the precision at each match; ``"trapezoid"``: the area of
            VeRi-776's MATLAB code.
        own_camera: ``"out"``: no gallery entry of the query's camera is ranked, whomever it shows. None: they are.
        at: k of mAP@k, over ``min(matches, k)``, as contests score lists of k images; None for whole rankings.

    Raises:
        KeyError: an unknown value of ``tracks``, ``one_image``, ``average_precision`` or ``own_camera``.
        ValueError: ``draws`` or ``at`` below 1, or draws without anything random, or a negative seed.
    """

    name: str
    junk: bool = True
    tracks: str | None = None
    one_image: str | None = None
    draws: int = 1
    seed: int = 0
    average_precision: str = PRECISION
    own_camera: str | None = None
    at: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        known_values = {
            "tracks": (None, "min", "mean"),
            "one_image": (None, "gallery", "query"),
            "average_precision": (PRECISION, TRAPEZOID),
            "own_camera": (None, OUT),
        }
        for option, known in known_values.items():
            if getattr(self, option) not in known:
                raise KeyError(f"{option} {getattr(self, option)!r}: one of {', '.join(map(repr, known))}")
        if self.draws < 1 or (self.draws > 1 and self.one_image is None) or self.seed < 0:
            raise ValueError(
                f"{self.draws} draws with seed {self.seed} of protocol {self.name}: one draw, or several where "
                "one_image is drawn, and a seed of 0 or more"
            )
        if self.at is not None:
            within("at", self.at, lowest=1)

    def describe(self) -> str:
        """The protocol in words."""
        ranked = {
            None: "images are ranked",
            "min": "tracks are ranked by their nearest image",
            "mean": "tracks are ranked by the mean of their normalised embeddings",
        }[self.tracks]
        side = {
            None: "",
            "gallery": f"one random image per vehicle is the gallery, all others are queries, {self.draws} draws",
            "query": f"one random image per vehicle is the query, all others are the gallery, {self.draws} draws",
        }[self.one_image]
        junk = "same vehicle and same camera is junk" if self.junk else "no junk"
        junk = "no image of the query's camera is ranked" if self.own_camera == OUT else junk
        form = {PRECISION: "mean precision at each match", TRAPEZOID: "trapezoid area"}[self.average_precision]
        form += "" if self.at is None else f" among the first {self.at}, over at most {self.at} matches"
        return f"{self.name}: {'; '.join(part for part in (ranked, side, junk, f'AP as {form}') if part)}"

    def pairs(self, query: Features, gallery: Features) -> Iterator[tuple[Features, Features]]:
        """Query and gallery of each draw, made from all images of both together in the order of their paths.

        An image without an identity is never drawn.

        Raises:
            ValueError: tracks are ranked and a gallery image has none.
        """
        if self.one_image is None:
            yield query, _means_of_tracks(gallery) if self.tracks == "mean" else gallery
            return
        embedding = np.concatenate([query.embedding, gallery.embedding])
        everything = Features(embedding, Sightings.concatenate([query.sightings, gallery.sightings]))
        everything = everything[np.argsort(everything.sightings.path, kind="stable")]
        for number in range(self.draws):
            chosen = draw(everything.sightings.identity, number, self.seed)
            one = _features_at_camera(everything[chosen], int(self.one_image == "gallery"))
            others = _features_at_camera(everything[~chosen], int(self.one_image == "query"))
            yield (others, one) if self.one_image == "gallery" else (one, others)

    def ranked(self, blocks: Iterable[np.ndarray], query: Sightings, gallery: Sightings) -> Iterator[np.ndarray]:
        """Distances in blocks of consecutive queries, infinite where an image is not to be ranked."""
        done = 0
        for block in blocks:
            if self.own_camera == OUT:
                own = query.camera[done : done + len(block), None] == gallery.camera
                done += len(block)
                block = np.where(own, np.float32(np.inf), block)
            yield block
            del block

    def score(self, distance: np.ndarray | Iterable[np.ndarray], query: Sightings, gallery: Sightings) -> Metrics:
        """Metrics of the ``(Q, G)`` distances between a pair that ``pairs`` gave, or of blocks of consecutive rows.

        Raises:
            ValueError: as ``retrieval.evaluate``; tracks are ranked and a gallery image has none.
        """
        if self.tracks == "min":
            order, start = _track_starts(gallery)
            gallery = gallery[order][start]
            blocks = [distance] if isinstance(distance, np.ndarray) else distance
            distance = (np.minimum.reduceat(np.asarray(block)[:, order], start, axis=1) for block in blocks)
        cameras = query.camera, gallery.camera
        if not self.junk:
            cameras = np.zeros_like(query.camera), np.ones_like(gallery.camera)
        elif len(only := np.union1d(*cameras)) == 1:
            raise ValueError(
                f"all images are from camera {gallery.camera_called(only[0])}, so every match is junk (same identity, "
                "same camera): cross-camera evaluation needs two cameras; evaluate.protocol no-junk counts every match "
                "(a table without cameras: data.options.cameras none, dfrst import --cameras none)"
            )
        labels = query.identity, gallery.identity, *cameras
        return evaluate(distance, *labels, average_precision=self.average_precision, at=self.at)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("image-to-image"),
        Protocol("image-to-track-min", tracks="min"),
        Protocol("image-to-track-mean", tracks="mean"),
        Protocol("vehicleid", junk=False, one_image="gallery", draws=10),
        Protocol("vehicleid-reversed", junk=False, one_image="query", draws=10),
        Protocol("veriwild"),
        Protocol("veriwild-without-removal", junk=False),
        Protocol("no-junk", junk=False),
        Protocol("other-cameras", own_camera=OUT),
        Protocol("map-at-k", at=100),
    )
}
"""``veriwild`` is ``image-to-image`` under the name its papers use; without removal is what they did before 2020.

``no-junk`` is the same for data whose images one camera took, or nobody knows which.
"""


def of_dataset(name: str | None, options: Mapping[str, Any] | None = None) -> str:
    """The protocol that results on a data set are published with: the data set's own, else image to image.

    VehicleID with the option ``reverse`` is read the other way round, a table with ``cameras: none`` has no junk.
    """
    family = (name or "").rstrip("0123456789")
    if family == "vehicleid" and (options or {}).get("reverse"):
        return "vehicleid-reversed"
    if family in ("vehicleid", "veriwild"):
        return family
    return "no-junk" if (options or {}).get("cameras") == "none" else "image-to-image"


def build(
    protocol: str = "image-to-image",
    average_precision: str = PRECISION,
    draws: int | None = None,
    seed: int = 0,
    at: int | None = None,
) -> Protocol:
    """A protocol by name.

    Args:
        protocol: a key of ``PROTOCOLS``.
        average_precision: ``"precision"`` or ``"trapezoid"``, see ``Protocol``.
        draws: number of random draws where the protocol draws; None for its own, ten for VehicleID.
        seed: of the draws.
        at: k of mAP@k; None for the protocol's own, 100 of ``map-at-k``.

    Raises:
        KeyError: an unknown name; the message has the nearest one.
        ValueError: an option is out of range.
    """
    if protocol not in PROTOCOLS:
        raise KeyError(f"no protocol {protocol!r}{nearest(str(protocol), PROTOCOLS)}")
    chosen = PROTOCOLS[protocol]
    draws, at = chosen.draws if draws is None else draws, chosen.at if at is None else at
    return replace(chosen, average_precision=average_precision, draws=draws, seed=seed, at=at)


def _features_at_camera(features: Features, camera: int) -> Features:
    # VehicleID has no cameras; two different ones keep torchreid's junk rule from removing the only match
    return Features(features.embedding, replace(features.sightings, camera=np.full(len(features), camera)))


def _track_starts(gallery: Sightings) -> tuple[np.ndarray, np.ndarray]:
    """Order of the images that brings tracks together, and where each track starts in it."""
    lost = np.flatnonzero(gallery.track == UNKNOWN)
    if len(lost):
        raise ValueError(
            f"{len(lost)} of {len(gallery)} gallery images have no track (first: {gallery.path[lost[0]] or lost[0]}): "
            "tracks cannot be ranked; use an image-to-image protocol, or supply the tracks"
        )
    order = np.argsort(gallery.track, kind="stable")
    start = np.unique(gallery.track[order], return_index=True)[1]
    for column, called in (("identity", gallery.vehicle_called), ("camera", gallery.camera_called)):
        values = getattr(gallery, column)[order]
        ends = np.minimum.reduceat(values, start), np.maximum.reduceat(values, start)
        for mixed in np.flatnonzero(ends[0] != ends[1])[:1]:
            one, other = (called(end[mixed]) for end in ends)
            raise ValueError(
                f"track {gallery.track[order][start[mixed]]} of the gallery has more than one {column}, {one} and "
                f"{other}: a track is one passage of one vehicle by one camera"
            )
    return order, start


def _means_of_tracks(gallery: Features) -> Features:
    order, start = _track_starts(gallery.sightings)
    size = np.diff(np.append(start, len(order)))
    unit = normalise(gallery.embedding)[order]
    mean = np.add.reduceat(unit, start, axis=0) / size[:, None].astype(np.float32)
    time = np.add.reduceat(gallery.sightings.time_s[order], start) / size
    return Features(mean, replace(gallery.sightings[order][start], time_s=time))
