"""A map of the cameras from nothing but the road distances between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork


def on_a_plane(distance_m: np.ndarray) -> np.ndarray:
    """``(C, 2)`` places whose distances are closest to ``(C, C)`` given ones (classical scaling); turned anyhow."""
    square = distance_m**2
    centred = -(square - square.mean(0) - square.mean(1)[:, None] + square.mean()) / 2
    value, vector = np.linalg.eigh(centred)
    return np.asarray(vector[:, ::-1][:, :2] * np.sqrt(np.maximum(value[::-1][:2], 0)))


def places(network: CameraNetwork | None) -> list[dict[str, Any]]:
    """Where cameras lie on the map of a page, in metres: name, x and y of each; empty for fewer than two."""
    if network is None or len(network) < 2:
        return []
    names = [network.called(label) for label in network.cameras.tolist()]
    plane = on_a_plane(network.distance_m).tolist()
    return [{"name": name, "x": round(x, 1), "y": round(y, 1)} for name, (x, y) in zip(names, plane, strict=True)]


def layout(labels: np.ndarray, network: CameraNetwork | None) -> np.ndarray:
    """``(C, 2)`` places of some cameras by their road distances; on a circle where there are none."""
    if network is None or len(labels) < 3:
        angle = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return on_a_plane(network.between(labels, labels))
