"""What all space-time models share: checks, distances, the saved file, and Eq. 6."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.retrieval.transit import Transit
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_transit import GapTransit, Law
from torchreid_dfrst.spatiotemporal.habits import NOTHING_KNOWN, Habits, contradictions, habits
from torchreid_dfrst.spatiotemporal.speeds import check_network, check_speed

FORMAT, FORMAT_VERSION = "torchreid_dfrst space-time model", 1
AGAIN = "fit the model again and save it"
SECTIONS = {"model": str, "network": str, "cameras": list, "options": dict, "fitted": dict, "habits": dict}
WORDS = {str: "text", list: "a list", dict: "names and values"}

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="GapModel")


def learned(*shape: str, positive: bool = False, count: bool = False) -> Any:
    """A field that ``fit`` learns and a file keeps.

    Args:
        shape: axes of an array: ``"cameras"``, ``"pairs"`` (ordered pairs of cameras), ``"bins"`` (the model's own
            number); none for a single number.
        positive: every number is above 0.
        count: every number is whole and 0 or more.
    """
    about = {"shape": shape, "positive": positive, "count": count}
    if shape:
        return field(default_factory=lambda: np.empty((0, 0)), init=False, repr=False, metadata=about)
    return field(default=0 if count else 0.0, init=False, metadata=about)


@dataclass(eq=False, kw_only=True)
class GapModel(ABC):
    """A model whose distance depends on the two cameras and the signed time gap only.

    Options are the constructor's keywords, what ``fit`` learns are the fields made by ``learned``. Images without a
    time get what the law says where it is unknown; a list in which no image has a time is refused.

    Args:
        check_units: refuse training data whose vehicles would drive at an impossible speed (wrong unit).
    """

    name: ClassVar[str]
    check_units: bool = True
    network: CameraNetwork | None = field(default=None, init=False, repr=False)
    habits: Habits = field(default=NOTHING_KNOWN, init=False, repr=False)

    @abstractmethod
    def _learn(self, sightings: Sightings, network: CameraNetwork) -> None:
        """Set the learned fields."""

    @abstractmethod
    def _law(self, network: CameraNetwork) -> Law:
        """Options and learned fields as a law whose curve is ``curve``; asked for after fitting and after loading."""

    @abstractmethod
    def curve(self, number: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """Distance of curve ``number`` at the signed gap ``t_gallery - t_query`` in seconds, elementwise."""

    @abstractmethod
    def describe(self) -> str:
        """The fitted model in words and numbers, for a person."""

    def fit(self: Self, sightings: Sightings, network: CameraNetwork) -> Self:
        """Learn from *training* sightings, never from those to be ranked; gives the model itself.

        Args:
            sightings: training images; rows without identity or time are left out.
            network: road distances between all cameras that will ever be asked about.

        Raises:
            ValueError: no vehicle seen by two cameras, no times, an impossible network, a wrong unit.
            KeyError: a camera has no row in the network.
        """
        network = network.named(sightings)
        check_network(network)
        network.rows(sightings.camera, sightings.camera_called)
        if np.isnan(sightings.time_s).all():
            sightings.require_times("the training list")
        if not sightings.known.any():
            raise ValueError(f"none of the {len(sightings)} training sightings has an identity: nothing to fit")
        sightings = sightings[sightings.known]
        if self.check_units:
            check_speed(sightings, network)
        self._learn(sightings, network)
        self.habits = habits(sightings, network)
        return self._on(network)

    def _on(self: Self, network: CameraNetwork) -> Self:
        self.network, self.law = network, self._law(network)
        return self

    def transit(self, query: Sightings, gallery: Sightings, memory_limit: int | None = None) -> Transit:
        """Distances between two lists, the rows and the columns, to be taken in blocks.

        ``memory_limit`` bounds the bytes of what is held, and of what a block needs beside itself; None for no limit.

        Raises:
            ValueError: the model is not fitted, or no image of a list has a time.
            KeyError: a camera has no row in the network.
        """
        if self.network is None:
            raise ValueError(f"the {self.name} model is not fitted: call fit(train, network) or load it")
        for name, part in (("query", query), ("gallery", gallery)):
            if len(part) and np.isnan(part.time_s).all():
                part.require_times(f"the {name} list")
            self.network.rows(part.camera, part.camera_called)
        return self._transit_of(query, gallery, memory_limit)

    def _transit_of(self, query: Sightings, gallery: Sightings, memory_limit: int | None) -> Transit:
        return GapTransit(query, gallery, self.law, memory_limit)

    def check_use(self, query: Sightings, gallery: Sightings, called: str = "") -> None:
        """Compare two lists to be ranked with what was fitted, and warn, with figures, of another clock or unit.

        ``called`` is what messages call the data or the file that they are from.

        Raises:
            ValueError: ``check_units``, and their vehicles would drive at an impossible speed, as ``fit`` does.
        """
        assert self.network is not None, "fit or load it first"
        whose = f" of {called}" if called else ""
        if self.check_units:
            try:
                check_speed(Sightings.concatenate([query, gallery]), self.network)
            except ValueError as error:
                raise ValueError(f"times of query and gallery{whose}: {error}") from None
        if found := contradictions(self.habits, query, gallery, self.network):
            logger.warning(
                "the times of query and gallery%s do not fit those that space and time were fitted on: %s. Give both "
                "in seconds on one clock, or score by appearance alone",
                whose,
                "; ".join(found),
            )

    def distance(self, query: Sightings, gallery: Sightings) -> np.ndarray:
        """All ``(Q, G)`` float32 distances at once; small means plausible. Raises as ``transit`` does."""
        return self.transit(query, gallery).block(slice(None), slice(None))

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keywords and their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    @property
    def fitted(self) -> dict[str, Any]:
        """What ``fit`` learned, by field; arrays as nested lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        """What a result card records: the name, the options, the network and the fitted scalars."""
        scalars = {name: value for name, value in self.fitted.items() if not isinstance(value, list)}
        network = self.network.fingerprint if self.network else None
        along = {"distances": self.network.kind} if self.network and self.network.kind != "road" else {}
        return {"model": self.name, "network": network, **along, **self.options, **scalars}

    def save(self, path: str | Path) -> None:
        """Write the fitted model as JSON, whole or not at all; a ``ValueError`` where it is not fitted."""
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
            "habits": self.habits._asdict(),
        }
        files.write({Path(path): json.dumps(content).encode()})

    def restore(self: Self, fitted: dict[str, Any], network: CameraNetwork) -> Self:
        """Take over what another fit of this class learned on this network, its rows in this order.

        Raises:
            ValueError: the fitted fields are not this model's, of another shape, or hold what no fit leaves.
        """
        expected = {f.name: f.metadata for f in fields(self) if f.metadata}
        if set(fitted) != set(expected):
            raise ValueError(f"fitted holds {', '.join(sorted(fitted))}, not {', '.join(sorted(expected))}")
        sizes = {"cameras": len(network), "pairs": len(network) ** 2, "bins": getattr(self, "bins", 0)}
        for name, about in expected.items():
            shape = tuple(sizes[axis] for axis in about["shape"])
            setattr(self, name, _checked_field(name, fitted[name], shape, about["positive"], about["count"]))
        return self._on(network)

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be positive")

    def _require_choice(self, name: str, known: Iterable[str]) -> None:
        if getattr(self, name) not in known:
            raise KeyError(f"{name} is {getattr(self, name)!r}, choose one of {', '.join(known)}")


def fuse(appearance: np.ndarray, transit: np.ndarray, weight: float) -> np.ndarray:
    """Final distance ``appearance + weight * transit`` (paper, Eq. 6), of ``appearance``'s dtype.

    Args:
        appearance: ``(Q, G)`` Euclidean distance, not squared, of L2-normalised embeddings, in ``[0, 2]``.
        transit: ``(Q, G)`` distance; small means that the trip is plausible.
        weight: trade-off omega, ``>= 0``; 0 gives ``appearance`` back.

    Raises:
        ValueError: the shapes differ, or ``weight`` is negative or not finite.
    """
    if appearance.shape != transit.shape:
        raise ValueError(f"appearance has shape {appearance.shape}, transit {transit.shape}: they must be equal")
    if not 0 <= weight < np.inf:
        raise ValueError(f"weight is {weight}: omega is 0 or more")
    return appearance + appearance.dtype.type(weight) * transit.astype(appearance.dtype, copy=False)


def read(path: str | Path, network: CameraNetwork) -> dict[str, Any]:
    """Content of a saved model, checked as far as its kind does not matter; raises as ``spatiotemporal.load``."""
    files.require_file(path, f"no space-time model at {path}: fit one and save it there")
    content = files.read_json(path, "saved space-time model", AGAIN)
    if "format" not in content or "version" not in content:
        raise ValueError(f"{path} is not a saved space-time model: it has no format and version; {AGAIN}")
    kind, version = content["format"], content["version"]
    if kind != FORMAT or version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is {kind!r} version {version!r}, this package reads {FORMAT!r} version {FORMAT_VERSION}; {AGAIN}"
        )
    for name, wanted in SECTIONS.items():
        if not isinstance(content.get(name), wanted):
            found = f"{name} {type(content[name]).__name__}" if name in content else f"no {name}"
            raise ValueError(f"{path} has {found}, a saved space-time model has {WORDS[wanted]} there; {AGAIN}")
    given, known = content["cameras"], np.sort(network.cameras).tolist()
    if content["network"] != network.fingerprint:
        raise ValueError(
            f"{path} was fitted on camera network {content['network']} of {len(given)} cameras, not on "
            f"{network.fingerprint} of {len(network)}: fit it again on this network"
        )
    # the learned fields follow this order, which the fingerprint does not see
    if not all(type(label) is int for label in given) or sorted(given) != known:
        one, other = (f"[{', '.join(map(network.called, labels))}]" for labels in (given, known))
        raise ValueError(f"{path} lists cameras {one}, its network has {other}; {AGAIN}")
    return content


def _checked_field(name: str, value: Any, shape: tuple[int, ...], positive: bool, count: bool) -> Any:
    """A learned field as ``fit`` leaves it: an array of float64 or int64, or a single number."""
    kind = "a positive number" if positive else "a whole number" if count else "a finite number"
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths, expected shape {shape}") from None
    if array.dtype.kind not in ("i" if count else "if"):
        for place, item in np.ndenumerate(np.array(value, dtype=object)):
            if type(item) not in ((int,) if count else (int, float)) or abs(item) >= 1 << 63:
                raise ValueError(f"{name}{list(place) or ''} is {json.dumps(item)[:40]}, expected {kind}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    bad = ~np.isfinite(array) | (array <= 0 if positive else count & (array < 0))
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{name}{place or ''} is {array[bad].flat[0]}, expected {kind}")
    array = array.astype(np.int64 if count else np.float64)
    return array if shape else array.item()
