"""Road distances of VeRi-776: ``camera_Dist.txt``, whose rows follow ``camera_ID.txt``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from torchreid_dfrst.checks import numbered
from torchreid_dfrst.data.text import count, read_lines, sample
from torchreid_dfrst.sightings import CameraNetwork

# Camera number of each row of VeRi-776's matrix (its camera_ID.txt). Rank correlation of distance and travel time on
# the official lists: 0.95 in this order, 0.61 in the order 1 to 20.
VERI_ORDER = (7, 5, 8, 4, 9, 3, 10, 6, 11, 2, 1, 13, 12, 18, 17, 19, 20, 15, 14, 16)
_VERI_MATRIX = "4e9c8462cdfa376c"


def read_network(folder: str | Path) -> CameraNetwork | None:
    """Camera distances of a folder in VeRi-776's format.

    Args:
        folder: holds ``camera_Dist.txt`` (metres along the road; a triangle or the full matrix) and ``camera_ID.txt``
            (camera number of each row, from 1).

    Returns:
        cameras from 0 as in ``Sightings``, symmetric distances in metres; None without ``camera_Dist.txt``.

    Raises:
        FileNotFoundError: there is no ``camera_ID.txt`` and the matrix is not VeRi-776's, whose order is known.
        ValueError: not a square matrix of numbers, neither triangular nor symmetric, or another number of cameras.
    """
    path, order = Path(folder) / "camera_Dist.txt", Path(folder) / "camera_ID.txt"
    if not path.is_file():
        return None
    distance = _matrix(path)
    if order.is_file():
        cameras = _cameras(order)
    elif matrix_digest(distance) == _VERI_MATRIX:
        cameras = list(VERI_ORDER)
    else:
        raise FileNotFoundError(
            f"no {order}: the rows of {path} are not in the order of camera numbers by themselves; write the "
            f"{len(distance)} camera numbers of its rows into that file, separated by blanks"
        )
    if len(cameras) != len(distance):
        raise ValueError(f"{order} names {len(cameras)} cameras, but {path} has {len(distance)} rows: one each")
    return CameraNetwork(np.array(cameras, dtype=np.int64) - 1, distance)


def known_orders(network: CameraNetwork) -> dict[str, np.ndarray]:
    """Orders in which the rows of a matrix are found to be read, by name: cameras from 0, row by row."""
    orders = {"in the order of camera numbers": np.sort(network.cameras)}
    if matrix_digest(network.distance_m) == _VERI_MATRIX:
        orders["in VeRi-776's own order"] = np.array(VERI_ORDER, dtype=np.int64) - 1
    return {name: order for name, order in orders.items() if not np.array_equal(order, network.cameras)}


def matrix_digest(distance: np.ndarray) -> str:
    """Sixteen hexadecimal digits of a symmetric matrix, rows in their order in the file."""
    return hashlib.sha256(np.ascontiguousarray(distance).astype("<f8").tobytes()).hexdigest()[:16]


def _matrix(path: Path) -> np.ndarray:
    rows = [line.replace(",", " ").split() for line in read_lines(path, "camera distances")]
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(
            f"{path} has {numbered('{count} [row|rows]', len(rows))} of "
            f"{sample(sorted({len(row) for row in rows})) or 'no'} numbers: "
            "a square matrix is expected"
        )
    try:
        given = np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path} holds something that is not a number ({error}): metres are expected") from error
    upper, lower = np.triu(given, 1), np.tril(given, -1)
    if not upper.any() or not lower.any():
        return given + given.T - np.diag(np.diagonal(given))
    if (given == given.T).all():
        return given
    i, j = np.argwhere(given != given.T)[0]
    raise ValueError(
        f"{path} has {given[i, j]:g} in row {i + 1}, column {j + 1} but {given[j, i]:g} mirrored: give one triangle "
        "with zeros in the other, or a symmetric matrix"
    )


def _cameras(path: Path) -> list[int]:
    words = " ".join(read_lines(path, "camera numbers")).replace(",", " ").split()
    bad = [word for word in words if count(word, 1, 999) is None]
    if bad:
        raise ValueError(f"{path} holds {sample(bad)}, expected camera numbers from 1 to 999")
    return [int(word) for word in words]
