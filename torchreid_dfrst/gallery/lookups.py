"""What a gallery holds, looked up in its columns: images that come again, vehicles' numbers, cameras' newest times."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np

from torchreid_dfrst.gallery.store import GONE, META, Content, File, Store
from torchreid_dfrst.messages import sample
from torchreid_dfrst.names import is_label, last_part

ALIKE = 0.003
"""Distance up to which embeddings are of one image: another batch moves one by 3e-7, and two images lie .02 or more
apart even by an untrained network (measured)."""
PAIRS = 1 << 12
"""So many embeddings are compared; where more share a camera, a time and a name, only equal ones are alike."""
Key = tuple[str, float, str]
logger = logging.getLogger(__name__)


def new_rows(store: Store, content: Content, table: Any) -> Any:
    """The rows of a table that a gallery does not have; says how many it has.

    It has those of one camera, time and last part of the path whose embeddings are ``ALIKE``. Files are read in whose
    times a row of the table lies, and embeddings of those that have its camera, time and name. What cannot be read
    counts as not there.
    """
    held = _held_already(store, content, table)
    if held.any():
        logger.warning(
            "%s has %s of these %s images already (camera, time, name, embedding), and they are not added again: to "
            "replace them, delete them first", store.address, f"{held.sum():,}", f"{len(held):,}",
        )  # fmt: skip
    return table.filter(~held)


def _held_already(store: Store, content: Content, table: Any) -> np.ndarray:
    times, found = np.unique(_times(table)), np.zeros(len(table), dtype=bool)
    spans = np.array([_span(file) for file in content.files]).reshape(-1, 2)
    first, last = np.searchsorted(times, spans[:, 0], "left"), np.searchsorted(times, spans[:, 1], "right")
    wanted, alike = _grouped(table) if (first < last).any() else {}, []
    for place in np.flatnonzero(first < last):
        file = content.files[place]
        if (held := _read(store, content, file)) is not None:
            rows = np.flatnonzero(np.isin(_times(held), times[first[place] : last[place]]))
            there = {key: rows[some] for key, some in _grouped(held.take(rows), wanted).items()}
            alike += [(file, there)] if there else []
    values = _embeddings(table)
    for file, there in alike:
        if (held := _read(store, content, file, "embedding")) is not None:
            others = _embeddings(held)
            for key, some in there.items():
                found[wanted[key]] |= _alike(values[wanted[key]], others[some])
    return found


def shares_numbers(store: Store, content: Content, table: Any) -> bool:
    """Whether vehicles of new rows have whole numbers for names that vehicles of a gallery have; says which."""
    numbers = set(filter(is_label, table["identity"].unique().to_pylist()))
    held: set[str] = set()
    for file in content.files if numbers else ():
        if (there := _read(store, content, file)) is not None:
            held.update(there["identity"].unique().to_pylist())
    shared = sorted(numbers & held, key=int)
    if shared:
        logger.warning(
            "%s has vehicles numbered %s already: one number is taken for one vehicle; where these are others, name "
            "them apart, such as b-%s, and start another gallery", store.address, sample(shared), shared[0],
        )  # fmt: skip
    return bool(shared)


def newest(store: Store, content: Content) -> dict[str, float]:
    """Camera to the time of its newest sighting; cameras without a time are left out."""
    found: dict[str, float] = {}
    for file in content.files:
        if file.first_s is not None and (table := _read(store, content, file)) is not None:
            last = dict(zip(table["camera"].to_pylist(), table["time_s"].to_pylist(), strict=True))  # rows rise in time
            found |= {camera: max(time, found.get(camera, -np.inf)) for camera, time in last.items()}
    return found


def _read(store: Store, content: Content, file: File, *more: str) -> Any | None:
    """The table of a file; None, and a warning, where it cannot be read."""
    try:
        return store.load(file, (*META, *more), content.deleted_from(file))
    except GONE as error:
        logger.warning("%s: what it holds counts as not there", error)
        return None


def _span(file: File) -> tuple[float, float]:
    """First and last of its times, as ``_times`` has them."""
    return (np.inf, np.inf) if file.first_s is None or file.last_s is None else (file.first_s, file.last_s)


def _grouped(table: Any, among: Collection[Key] | None = None) -> dict[Key, list[int]]:
    """Camera, time and name, all or some of them, to the rows that share them."""
    found: dict[Key, list[int]] = {}
    names = map(last_part, table["path"].to_pylist())
    for row, key in enumerate(zip(table["camera"].to_pylist(), _times(table).tolist(), names, strict=True)):
        if among is None or key in among:
            found.setdefault(key, []).append(row)
    return found


def _times(table: Any) -> np.ndarray:
    """Seconds; infinite where not known, which equals itself."""
    return np.nan_to_num(table["time_s"].to_numpy(), nan=np.inf)


def _embeddings(table: Any) -> np.ndarray:
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return values.astype(np.float32, copy=False).reshape(len(table), -1)


def _alike(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some embeddings are alike to any of the others."""
    if len(some) * len(others) > PAIRS:
        equal = {row.tobytes() for row in others}
        return np.array([row.tobytes() in equal for row in some])
    near: np.ndarray = (np.linalg.norm(some[:, None] - others, axis=2) <= ALIKE).any(axis=1)
    return near
