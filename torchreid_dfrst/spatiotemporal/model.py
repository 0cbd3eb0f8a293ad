"""What the five models share: checks, blocks, saving, loading."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.retrieval.transit import Transit
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gaps import GapTransit
from torchreid_dfrst.spatiotemporal.passes import check_network, check_speed
from torchreid_dfrst.spatiotemporal.saved import FORMAT, FORMAT_VERSION, Expected, check_fitted

ROWS = 1024

Self = TypeVar("Self", bound="GapModel")


@dataclass(eq=False, kw_only=True)
class GapModel(ABC):
    """A model whose distance depends on the two cameras and the signed time gap only.

    Options are the constructor's keywords, what ``fit`` learns are the fields without one. Images without a time get
    ``unknown`` plus whatever their cameras say; a list in which no image has a time is refused.

    Args:
        check_units: refuse training data whose vehicles would drive at an impossible speed (wrong unit).
    """

    name: ClassVar[str]
    check_units: bool = True
    network: CameraNetwork | None = field(default=None, init=False, repr=False)

    def fit(self: Self, sightings: Sightings, network: CameraNetwork) -> Self:
        """Learn from *training* sightings, never from those to be ranked.

        Args:
            sightings: training images; rows without identity or time are left out.
            network: road distances between all cameras that will ever be asked about.

        Returns:
            The model itself.

        Raises:
            ValueError: no vehicle seen by two cameras, no times, an impossible network, a wrong unit.
            KeyError: a camera has no row in the network.
        """
        check_network(network)
        network.rows(sightings.camera)
        if np.isnan(sightings.time_s).all():
            sightings.require_times("the training list")
        if self.check_units:
            check_speed(sightings, network)
        self.network = network
        self._learn(sightings, network)
        self._prepare(network)
        return self

    @abstractmethod
    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        """Set the fitted fields."""

    @abstractmethod
    def _prepare(self, network: CameraNetwork) -> None:
        """Derive from options and fitted fields what ``curve`` needs; also runs after loading."""

    @abstractmethod
    def _expected(self, cameras: int) -> dict[str, Expected]:
        """What each fitted field holds, for a file that claims to hold them."""

    @abstractmethod
    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Distance of curve ``number`` at the signed gap ``t_gallery - t_query`` in seconds, elementwise."""

    @property
    def numbers(self) -> np.ndarray:
        """``(C, C)`` int64: the curve of each ordered camera pair, query camera first; here each has its own."""
        assert self.network is not None
        return np.arange(len(self.network) ** 2).reshape(len(self.network), -1)

    @property
    def offsets(self) -> np.ndarray:
        """``(C, C)``: what the camera pair alone adds to its curve."""
        assert self.network is not None
        return np.zeros((len(self.network), len(self.network)))

    @property
    @abstractmethod
    def unknown(self) -> float:
        """Value that stands for the curve where a time is not known."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible distance."""

    @property
    def symmetric(self) -> bool:
        """Whether two sightings are as far from each other whichever of them is the query, to the last bit."""
        return False

    def transit(self, query: Sightings, gallery: Sightings) -> Transit:
        """Distances between two lists, to be taken in blocks.

        Raises:
            ValueError: the model is not fitted, or no image of a list has a time.
            KeyError: a camera has no row in the network.
        """
        if self.network is None:
            raise ValueError(f"the {self.name} model is not fitted: call fit(train, network) or load it")
        return GapTransit(
            query,
            gallery,
            self.network,
            self.numbers,
            self.offsets,
            self.curve,
            self.unknown,
            self.bounds,
            self.symmetric,
        )

    def distance(self, query: Sightings, gallery: Sightings) -> np.ndarray:
        """All ``(Q, G)`` float32 distances at once; small means plausible. Raises as ``transit`` does."""
        transit = self.transit(query, gallery)
        out = np.empty(transit.shape, dtype=np.float32)
        for start in range(0, len(query), ROWS):
            out[start : start + ROWS] = transit.block(slice(start, start + ROWS), slice(None))
        return out

    @abstractmethod
    def describe(self) -> str:
        """The fitted model in words and numbers, for a person."""

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keywords and their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    @property
    def fitted(self) -> dict[str, Any]:
        """What ``fit`` learned, by field; arrays as nested lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if not f.init and f.name != "network"}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        """What a result card records: the name, the options, the network and the fitted scalars."""
        scalars = {name: value for name, value in self.fitted.items() if not isinstance(value, list)}
        network = self.network.fingerprint if self.network else None
        return {"model": self.name, "network": network, **self.options, **scalars}

    def save(self, path: str | Path) -> None:
        """Write the fitted model as JSON; the file appears whole or not at all.

        Raises:
            ValueError: the model is not fitted.
            OSError: the disk is full or the folder cannot be written; an earlier file stays.
        """
        if self.network is None:
            raise ValueError(f"the {self.name} model is not fitted: there is nothing to save")
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "model": self.name,
            "network": self.network.fingerprint,
            "cameras": self.network.cameras.tolist(),
            "options": self.options,
            "fitted": self.fitted,
        }
        files.write({Path(path): json.dumps(content).encode()})

    def restore(self: Self, fitted: dict[str, Any], network: CameraNetwork) -> Self:
        """Take over what another fit of this class learned on this network, its rows in this order.

        Raises:
            ValueError: the fitted fields are not this model's, of another shape, or hold what no fit leaves.
        """
        for name, value in check_fitted(fitted, self._expected(len(network))).items():
            setattr(self, name, value)
        self.network = network
        self._prepare(network)
        return self
