"""Features as hard as real ones, for measurements of speed and equality; never a claim about accuracy."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.features import Features
from torchreid_dfrst.retrieval.embeddings import normalise
from torchreid_dfrst.sightings import CameraNetwork, Sightings

LATENT, CAMERAS, PER_TRACK = 192, 20, 7
TYPES, PER_TYPE = 40, 10
"""Fewest types of vehicles, and vehicles of a type where there are more: else a larger city would be a harder one."""


def features(
    queries: int, gallery: int, width: int, identities: int, generator: np.random.Generator
) -> tuple[Features, Features]:
    """Queries and gallery of one simulated city; appearance alone scores an mAP of 0.4 to 0.8.

    An embedding is the sum of its vehicle's type, the vehicle, the camera, the view from which the camera sees it, the
    track and the frame, in a small space, carried into the wide one with noise. Each query is the first frame of a
    track, the gallery frames of other tracks; times are those of trips through the cameras within one hour.

    Args:
        queries: number of queries.
        gallery: number of gallery images.
        width: dimensions of an embedding.
        identities: number of vehicles.
        generator: source of all randomness.
    """
    draw = generator.normal
    total = queries + gallery
    tracks = max(identities * 2, total // PER_TRACK)
    track_identity = np.concatenate([np.arange(identities), generator.integers(0, identities, tracks - identities)])
    track_camera = generator.integers(0, CAMERAS, tracks)
    track_time = 600.0 * generator.random(identities)[track_identity] + 2880.0 * generator.random(tracks)
    track = np.concatenate(
        [generator.permutation(tracks)[np.arange(queries) % tracks], np.sort(generator.integers(0, tracks, gallery))]
    )

    types = max(TYPES, identities // PER_TYPE)
    kind = draw(size=(types, LATENT))[generator.integers(0, types, identities)]
    vehicle = kind + 0.5 * draw(size=(identities, LATENT))
    camera, view = draw(size=(CAMERAS, LATENT)), draw(size=(2, identities, LATENT))
    angle = 2 * np.pi * generator.random(tracks)
    of_track = (
        vehicle[track_identity]
        + 0.5 * camera[track_camera]
        + 0.7 * np.cos(angle)[:, None] * view[0, track_identity]
        + 0.7 * np.sin(angle)[:, None] * view[1, track_identity]
        + 0.8 * draw(size=(tracks, LATENT))
    ).astype(np.float32)
    carry = (draw(size=(LATENT, width)) / np.sqrt(LATENT)).astype(np.float32)
    embedding = np.empty((total, width), dtype=np.float32)
    for start in range(0, total, 4096):
        part = slice(start, start + 4096)
        latent = of_track[track[part]]
        latent = latent + 0.5 * generator.standard_normal(latent.shape, dtype=np.float32)
        wide = latent @ carry
        embedding[part] = normalise(wide + 0.8 * generator.standard_normal(wide.shape, dtype=np.float32))
    sightings = Sightings(
        camera=track_camera[track],
        time_s=np.round((track_time[track] + 0.2 * generator.integers(0, PER_TRACK, total)) * 25) / 25,
        identity=track_identity[track],
        track=track,
    )
    every = Features(embedding, sightings)
    return every[:queries], every[queries:]


def ring() -> CameraNetwork:
    """The cameras of that city, 150 m apart on a ring road."""
    place = np.arange(CAMERAS)
    steps = np.abs(place[:, None] - place)
    return CameraNetwork(place, 150.0 * np.minimum(steps, CAMERAS - steps))
