"""The one interface of every spatio-temporal model, and the seam at which retrieval takes their distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings


class Transit(Protocol):
    """Transit distances between two lists of sightings, made block by block and never held whole.

    ``low`` and ``high`` bound every value, so that a search may stop where no transit term can change the order.
    A transit may also have ``pairs(rows, columns)``, the distances of single pairs of two equally long integer arrays,
    the same to the last bit as in their blocks; retrieval is faster with it. And it may have ``symmetric``, true where
    the distances of a list to itself are the same there and back to the last bit: a search then makes half of them.
    Whoever says nothing is taken to have two directions.
    """

    shape: tuple[int, int]
    low: float
    high: float

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Float32 distances of those rows (queries) and columns (gallery); 0 means entirely plausible."""
        ...


class TransitModel(Protocol):
    """What ``lognormal``, ``provid``, ``transition``, ``histogram`` and ``likelihood`` have in common."""

    name: ClassVar[str]

    def fit(self, sightings: Sightings, network: CameraNetwork) -> TransitModel:
        """Learn from *training* sightings; returns the model itself."""
        ...

    def transit(self, query: Sightings, gallery: Sightings) -> Transit:
        """Distances between two lists, to be taken in blocks."""
        ...

    def distance(self, query: Sightings, gallery: Sightings) -> np.ndarray:
        """All ``(Q, G)`` float32 distances at once."""
        ...

    def describe(self) -> str:
        """The fitted model in words and numbers, for a person."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the fitted model without pickle."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything a result card records about the model: options and fitted scalars, JSON types only."""
        ...
