"""Who was seen where and when: the one table that space and time, retrieval and the data sets share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from torchreid_dfrst.names import UNKNOWN, without_common_folder


@dataclass(frozen=True, eq=False)
class Sightings:
    """One row per image, as a struct of arrays.

    Args:
        camera: ``(N,)`` int64 camera labels, ``>= 0``, the same labels that ``CameraNetwork.cameras`` uses
            (torchreid's ``camid``).
        time_s: ``(N,)`` float64 seconds on a clock that all cameras share; NaN where the time is not known.
            ``datetime64`` becomes seconds since 1970, ``timedelta64`` seconds.
        identity: ``(N,)`` int64 vehicle labels, ``UNKNOWN`` (-1) where not known.
        track: ``(N,)`` int64 labels of tracks (one vehicle passing one camera once), ``UNKNOWN`` where not known.
        path: ``(N,)`` str image paths or any other name of the row.
        camera_name: ``(N,)`` str what the user's file calls the camera ("north gate", "c003"), for messages and
            pictures; empty where the label is its name.
        vehicle_name: ``(N,)`` str, the same for the vehicle.

    All but ``camera`` may be left out: not known, or empty.

    Raises:
        ValueError: a column is not one-dimensional or not of the length of ``camera``, a camera is negative, a label
            is not an integer, or a time is infinite or no number.
    """

    camera: np.ndarray
    time_s: np.ndarray = None  # type: ignore[assignment]
    identity: np.ndarray = None  # type: ignore[assignment]
    track: np.ndarray = None  # type: ignore[assignment]
    path: np.ndarray = None  # type: ignore[assignment]
    camera_name: np.ndarray = None  # type: ignore[assignment]
    vehicle_name: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fill, convert and check."""
        count = np.shape(self.camera)[0] if np.ndim(self.camera) == 1 else 0
        filled = {
            "camera": _as_integers("camera", self.camera),
            "time_s": np.full(count, np.nan) if self.time_s is None else as_seconds(self.time_s),
            "identity": np.full(count, UNKNOWN) if self.identity is None else _as_integers("identity", self.identity),
            "track": np.full(count, UNKNOWN) if self.track is None else _as_integers("track", self.track),
        }
        for name in ("path", "camera_name", "vehicle_name"):
            words = getattr(self, name)
            filled[name] = np.full(count, "") if words is None else np.asarray(words, dtype=np.str_)
        for name, column in filled.items():
            if column.ndim != 1 or (name != "camera" and len(column) != count):
                raise ValueError(
                    f"Sightings.{name} has shape {column.shape}, expected ({count},) as camera has: "
                    "give one value per image"
                )
            object.__setattr__(self, name, column)
        if count and self.camera.min() < 0:
            row = int(np.argmin(self.camera))
            raise ValueError(f"Sightings.camera is {self.camera[row]} in row {row}: camera labels are 0 or more")
        if np.isinf(self.time_s).any():
            row = int(np.flatnonzero(np.isinf(self.time_s))[0])
            raise ValueError(f"Sightings.time_s is infinite in row {row}: use NaN for a time that is not known")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.camera)

    def __getitem__(self, index: Any) -> Sightings:
        """The rows that a slice, an integer array or a boolean mask selects."""
        if np.ndim(index) == 0 and not isinstance(index, slice):
            raise TypeError(f"Sightings are indexed by a slice or an array of rows, received {index!r}")
        return Sightings(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Sightings]) -> Sightings:
        """All rows of ``parts``, in order."""
        return cls(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(cls)})

    def camera_called(self, label: int) -> str:
        """What the user's file calls a camera: its name, or the label where it has none."""
        return _name_of_label(label, self.camera, self.camera_name, str(label))

    def vehicle_called(self, label: int) -> str:
        """What the user's file calls a vehicle: its name, or the label where it has none."""
        return "not known" if label == UNKNOWN else _name_of_label(label, self.identity, self.vehicle_name, str(label))

    @property
    def known(self) -> np.ndarray:
        """``(N,)`` bool: whose vehicle is known."""
        return self.identity != UNKNOWN

    @property
    def vehicles(self) -> np.ndarray:
        """Labels of the known vehicles, rising."""
        return np.unique(self.identity[self.known])

    def require_times(self, what: str) -> None:
        """Raise a ``ValueError`` if an image has no time; ``what`` names the data set or file."""
        missing = np.flatnonzero(np.isnan(self.time_s))
        if len(missing):
            first = self.path[missing[0]] or f"row {missing[0]}"
            raise ValueError(
                f"space and time were asked for, but {len(missing)} of {len(self)} sightings of {what} have no time "
                f"(first: {first}): supply the times or score it by appearance alone"
            )


@dataclass(frozen=True, eq=False)
class CameraNetwork:
    """Road distances between cameras.

    Args:
        cameras: ``(C,)`` int64 camera labels; row and column ``k`` of ``distance_m`` belong to ``cameras[k]``.
        distance_m: ``(C, C)`` float64 road distance in metres, finite, ``>= 0``, symmetric, zero diagonal.
        names: ``(C,)`` str what the user's file calls each camera; empty, or left out, where the label is its name.
        kind: ``road``, or along what else the distances are: ``straight line``, ``great circle, not road``.

    Raises:
        ValueError: a wrong shape, a label twice, or a distance or matrix that is none.
    """

    cameras: np.ndarray
    distance_m: np.ndarray
    names: np.ndarray = None  # type: ignore[assignment]
    kind: str = "road"

    def __post_init__(self) -> None:
        """Convert and check."""
        object.__setattr__(self, "kind", str(self.kind))
        cameras, distance = _as_integers("cameras", self.cameras), np.asarray(self.distance_m, dtype=np.float64)
        names = np.full(cameras.shape, "") if self.names is None else np.asarray(self.names, dtype=np.str_)
        if cameras.ndim != 1 or distance.shape != (len(cameras), len(cameras)) or names.shape != cameras.shape:
            raise ValueError(
                f"CameraNetwork has {cameras.shape} cameras, {names.shape} names and a distance matrix of shape "
                f"{distance.shape}: one name, one row and one column per camera are needed"
            )
        for name, column in (("cameras", cameras), ("distance_m", distance), ("names", names)):
            object.__setattr__(self, name, column)
        labels, counts = np.unique(cameras, return_counts=True)
        if (counts > 1).any():
            twice = self.called(labels[counts > 1][0])
            raise ValueError(f"camera {twice} has {counts.max()} rows in the distance matrix: one each")
        for wrong, words in (
            (~np.isfinite(distance) | (distance < 0), "camera {0} to camera {1} is {2}: metres, 0 or more"),
            ((distance != 0) & np.eye(len(cameras), dtype=bool), "camera {0} to itself is {2}: it must be 0"),
            (
                distance != distance.T,
                "camera {0} to {1} is {2} but {3} back: symmetrise the matrix (an upper triangle U becomes U + U.T)",
            ),
        ):
            for i, j in np.argwhere(wrong)[:1]:
                ends = self.called(cameras[i]), self.called(cameras[j])
                raise ValueError("distance from " + words.format(*ends, distance[i, j], distance[j, i]))

    def named(self, *parts: Sightings) -> CameraNetwork:
        """The same network; a camera without a name is called as in the first part that has one."""
        names = self.names.tolist()
        for part in parts:
            known = zip(self.cameras, names, strict=True)
            names = [name or _name_of_label(label, part.camera, part.camera_name, "") for label, name in known]
        return replace(self, names=np.array(names, dtype=np.str_))

    def called(self, label: int) -> str:
        """What the user's file calls a camera: its name, or the label where it has none."""
        return _name_of_label(label, self.cameras, self.names, str(label))

    def __len__(self) -> int:
        """Number of cameras."""
        return len(self.cameras)

    def rows(self, camera: np.ndarray, called: Callable[[int], str] | None = None) -> np.ndarray:
        """Rows of ``distance_m``, an array of the shape of ``camera``, for camera labels.

        Raises:
            KeyError: a camera has no row; it is ``called`` as ``sightings.camera_called`` or, left out, we call it.
        """
        camera = np.asarray(camera)
        order = np.argsort(self.cameras)
        place = np.searchsorted(self.cameras[order], camera)
        row = order[np.minimum(place, len(order) - 1)]
        lost = np.unique(camera[self.cameras[row] != camera])
        if len(lost):
            raise KeyError(
                f"camera {', '.join(map(called or self.called, lost))} has no row in the distance matrix, which knows "
                f"{', '.join(map(self.called, self.cameras[order]))}: add its distances or leave its images out"
            )
        return row

    def between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Road distance in metres from each camera label of ``a`` to each of ``b``: ``(len(a), len(b))``."""
        return self.distance_m[self.rows(a)[:, None], self.rows(b)[None, :]]

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when a label or a distance does; the order of rows does not count."""
        order = np.argsort(self.cameras)
        digest = hashlib.sha256(np.ascontiguousarray(self.cameras[order]).astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.distance_m[np.ix_(order, order)]).astype("<f8").tobytes())
        return digest.hexdigest()[:16]


def same_vehicle(identity: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Where two arrays of labels, which may broadcast, show one vehicle; ``UNKNOWN`` is never the same as anything."""
    return (identity == others) & (identity != UNKNOWN)


def draw(identity: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """One random image of each vehicle: ``(N,)`` bool, True once per identity, never where it is ``UNKNOWN``.

    Args:
        identity: ``(N,)`` labels, of images in the order of their paths.
        number: which draw of ``seed``'s, from 0.
        seed: of all draws.
    """
    identity = np.asarray(identity)
    shuffled = np.random.default_rng([seed, number]).permutation(len(identity))
    first = np.unique(identity[shuffled], return_index=True)[1]
    chosen = np.zeros(len(identity), dtype=bool)
    chosen[shuffled[first]] = True
    return chosen & (identity != UNKNOWN)


def _name_of_label(label: int, labels: np.ndarray, names: np.ndarray, otherwise: str) -> str:
    found = names[labels == label]
    return next(iter(found[found != ""][:1].tolist()), otherwise)


def _as_integers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} has dtype {array.dtype}, expected integers: relabel it with np.unique(..., return_inverse=True) "
            "over all parts together (query, gallery and every training source), so that a number means one thing"
        )
    return array.astype(np.int64)


def as_seconds(values: Any) -> np.ndarray:
    """Times as float64 seconds: numbers as they are, NumPy's dates and durations converted."""
    array = np.asarray(values)
    if array.dtype.kind in "mM":
        whole = array.astype(f"{array.dtype.kind}8[s]")
        # a fraction of a second keeps all its digits only if it is taken apart from the 1.7e9 seconds before it
        seconds = whole.astype(np.int64) + (array - whole) / np.timedelta64(1, "s")
        return np.where(np.isnat(array), np.nan, seconds)
    try:
        if array.dtype.kind in "SU":
            raise TypeError("text, even of digits: 20260501160000 is a date")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        first = f", the first is {array.flat[0]!r}" if array.size else ""
        raise ValueError(
            f"Sightings.time_s has dtype {array.dtype}{first}: give seconds as numbers, or dates and times as "
            "np.array(times, dtype='datetime64[us]')"
        ) from error


def fingerprint(parts: Sequence[Sightings], network: CameraNetwork | None = None) -> str:
    """Sixteen hexadecimal digits of who was seen where and when: file names, vehicles, cameras, times, distances.

    The folder a data set lies in and the order of its rows do not count; pixels are not read.
    """
    digest = hashlib.sha256()
    for part in parts:
        columns = (without_common_folder(part.path), part.identity, part.camera, part.time_s)
        for row in sorted(map(repr, zip(*(column.tolist() for column in columns), strict=True))):
            digest.update(row.encode() + b"\n")
        digest.update(b"--\n")
    if network is not None:
        digest.update(network.fingerprint.encode())
    return digest.hexdigest()[:16]
