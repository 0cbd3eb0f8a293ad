"""The space-time model of a gallery: fitted elsewhere, kept in its list, asked by names of cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from torchreid_dfrst import spatiotemporal
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.names import plain
from torchreid_dfrst.sightings import CameraNetwork
from torchreid_dfrst.spatiotemporal import GapModel


@dataclass(frozen=True, eq=False)
class Trips:
    """A fitted model whose cameras have names.

    Args:
        model: its distance depends on a pair only.
        weight: omega of Eq. 6.
        names: of the cameras of its network, as names are compared.
        content: what ``load`` reads, JSON types.
    """

    model: GapModel
    weight: float
    names: tuple[str, ...]
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, model: GapModel, weight: float) -> Trips:
        """Take a fitted model over; a ``ValueError`` where it is not fitted or the weight is out of range."""
        if model.network is None:
            raise ValueError(f"the {model.name} model is not fitted: there is nothing to keep")
        model = spatiotemporal.by_pairs(model)
        if not 0 <= weight < np.inf:
            raise ValueError(f"weight is {weight}: omega is 0 or more")
        network = model.network
        assert network is not None
        return cls.load({
            "model": model.name,
            "options": model.options,
            "fitted": model.fitted,
            "weight": float(weight),
            "cameras": network.cameras.tolist(),
            "names": [plain(network.called(label)) for label in network.cameras.tolist()],
            "distance_m": network.distance_m.tolist(),
            "kind": network.kind,
        })  # fmt: skip

    @classmethod
    def load(cls, content: dict[str, Any]) -> Trips:
        """The model that a gallery keeps; a ``ValueError`` where something of it is missing or of another form."""
        try:
            names, cameras = np.array(content["names"], dtype=np.str_), np.array(content["cameras"])
            network = CameraNetwork(cameras, np.array(content["distance_m"]), names, content["kind"])
            model = spatiotemporal.build(content["model"], **content["options"]).restore(content["fitted"], network)
            return cls(model, content["weight"], tuple(content["names"]), content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"space and time of the gallery are damaged ({error!r}): fit them anew") from error

    def require(self, cameras: Sequence[str]) -> None:
        """Refuse with a ``KeyError`` cameras without distances."""
        for name in cameras:
            if name not in self.names:
                raise KeyError(
                    f"the space-time model of the gallery knows no camera {name!r}{nearest(name, self.names)}: "
                    "fit it on a network with that camera, and keep it with `dfrst gallery fit`"
                )

    def labels(self, cameras: Sequence[str]) -> np.ndarray:
        """Labels that the model knows cameras by, of their names."""
        return np.array([self.content["cameras"][place] for place in self.rows(cameras)], dtype=np.int64)

    def rows(self, cameras: Sequence[str]) -> np.ndarray:
        """Rows of cameras in the model's network, of their names."""
        return np.array([self._row[name] for name in cameras], dtype=np.int64)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def describe(self) -> str:
        """Name, weight and network in words."""
        return f"{self.model.name}, weight {self.weight:g}, {len(self.names)} cameras"
