"""Features to add to a gallery."""

import numpy as np

from torchreid_dfrst.retrieval import Features
from torchreid_dfrst.sightings import Sightings

SOURCE = {"network": {"name": "tiny"}, "weights_sha256": "ab" * 32, "input": [64, 64]}
WIDTH = 16


def crops(count, seed=0, time_s=None, names="crop-", cameras=3, identity=None, width=WIDTH):
    """Random embeddings at named gates; one vehicle in eight is not known."""
    rng = np.random.default_rng(seed)
    camera = rng.integers(0, cameras, count)
    embedding = rng.normal(size=(count, width))
    times = rng.uniform(0, 4 * 3600, count) if time_s is None else time_s
    labels = rng.integers(-1, 7, count) if identity is None else identity
    path = np.array([f"{names}{k}.jpg" for k in range(count)])
    called = np.array([f"gate {c}" for c in camera])
    vehicle = np.array([f"car {v}" if v >= 0 else "" for v in labels])
    seen = Sightings(camera, times, labels, path=path, camera_name=called, vehicle_name=vehicle)
    return Features(embedding, seen)
