"""Test vehicles or test images among the training rows, on which space and time are fitted and omega is chosen."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable

import numpy as np
from scipy.stats import binom

from torchreid_dfrst.messages import numbered
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings

CHANCE = 0.005  # below which vehicles that look alike are the same
logger = logging.getLogger(__name__)


def check_leaks(extraction: Extraction, refuse: bool) -> None:
    """Refuse, or tell of, training rows that show what is tested: a result that rests on them says nothing.

    An image is the same if its path, camera and time are, or if its embedding is, to the last bit, and that of no other
    image. A vehicle is the same if its name is, or its number where one side has no names. Numbers that are 0 to N or 1
    to N on one side may start anew there, as torchreid's training lists do: then vehicles are the same if they look
    more alike than chance allows, and without features of training images only a warning says that they may be.

    Raises:
        ValueError: there are such rows, and ``refuse``.
    """
    rows = [part for part in (extraction.train, _labelled_sightings(extraction.train_features)) if part is not None]
    if not rows:
        return
    found, sure = (
        _shared_images(rows, extraction) or _shared_vehicles(Sightings.concatenate(rows), extraction) or ("", True)
    )
    if found and sure and refuse:
        raise ValueError(
            f"{found}: space and time, or their weight, would be chosen on what is tested; take them out of one side"
        )
    if found:
        logger.warning("%s%s", found, "" if sure else "; nothing is wrong if the numbers merely start anew on one side")


def _labelled_sightings(features: Features | None) -> Sightings | None:
    return None if features is None else features.sightings


def _shared_images(rows: list[Sightings], extraction: Extraction) -> tuple[str, bool] | None:
    parts, known = (extraction.query, extraction.gallery), extraction.train_features
    shared = {key for part in rows for key in _keys_of_images(part)} & {
        key for part in parts for key in _keys_of_images(part.sightings)
    }
    if shared:
        text = "{count} [image stands|images stand] in training and in query or gallery"
        return f"{numbered(text, len(shared))} (first: {min(shared)[0]})", True
    if known is not None:
        trained = _digests_of_embeddings(known)
        same = sorted(
            {path for part in parts for digest, path in _digests_of_embeddings(part).items() if digest in trained}
        )
        if same:
            text = "{count} query or gallery [image has the embedding|images have the embeddings] of training images"
            return f"{numbered(text, len(same))}, to the last bit (first: {same[0]})", True
    return None


def _keys_of_images(part: Sightings) -> Iterable[tuple[str, int, str]]:
    columns = (part.path.tolist(), part.camera.tolist(), part.time_s.tolist())
    return ((path, camera, repr(time)) for path, camera, time in zip(*columns, strict=True) if path)


def _digests_of_embeddings(features: Features) -> dict[bytes, str]:
    """Digest of each embedding that a single image has, and the name of the image."""
    images: dict[bytes, set[str]] = {}
    for row, (values, path) in enumerate(zip(features.embedding, features.sightings.path.tolist(), strict=True)):
        digest = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
        images.setdefault(digest, set()).add(path or f"row {row}")
    return {digest: next(iter(paths)) for digest, paths in images.items() if len(paths) == 1}


def _shared_vehicles(train: Sightings, extraction: Extraction) -> tuple[str, bool] | None:
    test = Sightings.concatenate([extraction.query.sightings, extraction.gallery.sightings])
    named = all((part.vehicle_name != "").any() for part in (train, test))
    trained, tested = (_names_of_vehicles(part, named) for part in (train, test))
    shared = np.intersect1d(trained[trained != ""], tested[tested != ""])
    if not len(shared):
        return None
    sure = not (_from_the_start(trained) or _from_the_start(tested))
    if not sure and extraction.train_features is not None:
        sure = _look_the_same(shared, extraction, named)
        if not sure:
            return None
    text = "{count} [vehicle is|vehicles are] in training and in query or gallery"
    return f"{numbered(text, len(shared))} (first: {shared[0]})", sure


def _names_of_vehicles(part: Sightings, named: bool) -> np.ndarray:
    """What each row's vehicle is called, empty where it is not known."""
    numbers = part.identity.astype(np.str_)
    labels = np.where(part.vehicle_name != "", part.vehicle_name, numbers) if named else numbers
    return np.where(part.known, labels, "")


def _from_the_start(labels: np.ndarray) -> bool:
    """Whether these are the numbers from 0 or 1 on, all of them."""
    words = np.unique(labels[labels != ""]).tolist()
    numbers = sorted(int(word) for word in words if word.isdecimal())
    return len(numbers) == len(words) and numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1


def _look_the_same(shared: np.ndarray, extraction: Extraction, named: bool) -> bool:
    """Whether more vehicles of training than by chance are most like that of the gallery with the same label."""
    assert extraction.train_features is not None
    (known, trained), (labels, tested) = (
        _means_of_vehicles(f, named) for f in (extraction.train_features, extraction.gallery)
    )
    asked = np.isin(known, shared) & np.isin(known, labels)
    if not asked.any() or trained.shape[1] != tested.shape[1]:
        return False
    hits = np.count_nonzero(labels[(trained[asked] @ tested.T).argmax(axis=1)] == known[asked])
    return bool(binom.sf(hits - 1, asked.sum(), 1 / len(labels)) < CHANCE)


def _means_of_vehicles(features: Features, named: bool) -> tuple[np.ndarray, np.ndarray]:
    """Label and mean embedding, of unit length, of each vehicle."""
    labels, place = np.unique(_names_of_vehicles(features.sightings, named), return_inverse=True)
    total = np.zeros((len(labels), features.embedding.shape[1]), dtype=np.float32)
    np.add.at(total, place, _unit_or_zero(features.embedding))
    return labels[labels != ""], _unit_or_zero(total[labels != ""])


def _unit_or_zero(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length; those of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1))
