"""What every entry of this package asks of the arrays it is given."""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.spatiotemporal.transit import Transit
from torchreid_dfrst.values import check

TOLERANCE = 1e-4
"""How far the length of an embedding may be from 1."""
EXACT = 2.0**-22
"""How far it may be before it is mended; the bounds on errors of products (``products.float32_error``) allow for it."""
ROWS = 64
"""Rows measured at once, so that they stay in the processor's cache."""


def embeddings(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings as C-ordered float32, and their lengths, float64; copies only where dtype or layout ask for it.

    Raises:
        ValueError: not ``(N, D)`` floating point, no row, or values that are NaN or infinite in float32 (the rows are
            named).
    """
    array = np.asarray(values)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected (N, D) floating point: one row per image"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: there is no image or no feature to compare")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=np.float32)
    length = np.empty(len(result))
    for start in range(0, len(result), ROWS):
        part = result[start : start + ROWS].astype(np.float64)
        length[start : start + ROWS] = np.sqrt(np.einsum("nd,nd->n", part, part))
    # finite only where every value is: squares of float32 fit into float64
    bad = np.flatnonzero(~np.isfinite(length))
    if len(bad):
        rows = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{len(bad)} of {len(array)} rows of {name} hold NaN or infinity (first rows: {rows})"
            + ("" if array.dtype == np.float32 else "; float32 holds nothing above 3.4e38")
        )
    return result, length


def scaled(array: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Rows divided by ``(N,)`` float64 lengths, each quotient rounded once: a new float32 array."""
    return np.divide(array, length[:, None], out=np.empty_like(array), casting="same_kind")


def unit(name: str, values: np.ndarray) -> np.ndarray:
    """Embeddings of unit length, as C-ordered float32; a copy where a length is off by more than rounding.

    Raises:
        ValueError: as ``embeddings``, or a length that is not 1.
    """
    array, length = embeddings(name, values)
    off = np.abs(length - 1)
    bad = np.flatnonzero(off > TOLERANCE)
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(array)} rows of {name} are not of length 1 (row {bad[0]}: {length[bad[0]]:.6g}, at "
            f"most {TOLERANCE:g} off is accepted): pass them through normalise first"
        )
    return scaled(array, np.where(off > EXACT, length, 1)) if (off > EXACT).any() else array


def same_width(first: np.ndarray, second: np.ndarray) -> None:
    """Refuse embeddings of two different models."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"embeddings have {first.shape[1]} and {second.shape[1]} dimensions: extract both with one model"
        )


def fusion(transit: Transit | None, weight: float, shape: tuple[int, int]) -> bool:
    """Whether a transit term takes part, once its shape and weight are right."""
    check("weight (omega)", weight, float)
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight (omega) is {weight}: a finite number, 0 or more, is needed")
    if transit is None:
        if weight:
            raise ValueError(f"weight (omega) is {weight} but there is no transit: pass model.transit(rows, columns)")
        return False
    missing = [name for name in ("shape", "low", "high", "block") if not hasattr(transit, name)]
    if missing:
        raise ValueError(
            f"transit is a {type(transit).__name__} without {', '.join(missing)}: pass model.transit(rows, columns)"
        )
    if tuple(transit.shape) != shape:
        raise ValueError(
            f"transit has shape {tuple(transit.shape)}, the embeddings make {shape}: same images, same order"
        )
    return weight > 0


def neighbour_count(count: int, images: int) -> None:
    """Refuse lists that are not of a whole number of images between one and all."""
    check("count", count, int)
    if not 1 <= count <= images:
        raise ValueError(f"{count} neighbours of {images} images were asked for: between 1 and {images}")


def precision(name: str) -> None:
    """Refuse a precision that no search has."""
    if name not in ("auto", "fp32", "bf16"):
        raise KeyError(f"no precision {name!r}: 'auto', 'fp32' or 'bf16'")


def all_numbers(rows: np.ndarray) -> None:
    """Refuse rows of distances (``(N,)`` bool, whether each is all right) that a transit made NaN or infinite."""
    bad = np.flatnonzero(~rows)
    if len(bad):
        raise ValueError(
            f"distances of {len(bad)} rows are NaN or infinite: the transit has to give a number for every pair"
        )


def labels(name: str, values: np.ndarray, count: int) -> np.ndarray:
    """A column of integer labels of the given length."""
    array = np.asarray(values)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected ({count},) integers: one per image"
        )
    return array
