"""Test vehicles or test images among the training rows, on which space and time are fitted and omega is chosen."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable

import numpy as np
from scipy.stats import binom

from torchreid_dfrst.messages import numbered
from torchreid_dfrst.names import plain
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
    known = extraction.train_features
    rows = [part for part in (extraction.train, None if known is None else known.sightings) if part is not None]
    if not rows:
        return
    found, sure = _shared_images(rows, extraction), True
    if not found:
        found, sure = _shared_vehicles(Sightings.concatenate(rows), extraction)
    if found and sure and refuse:
        raise ValueError(
            f"{found}: space and time, or their weight, would be chosen on what is tested; take them out of one side"
        )
    if found:
        logger.warning("%s%s", found, "" if sure else "; nothing is wrong if the numbers merely start anew on one side")


def _shared_images(rows: list[Sightings], extraction: Extraction) -> str:
    parts, known = (extraction.query, extraction.gallery), extraction.train_features
    tested = {key for part in parts for key in _keys_of_images(part.sightings)}
    shared = {key for part in rows for key in _keys_of_images(part)} & tested
    if shared:
        text = "{count} [image stands|images stand] in training and in query or gallery"
        return f"{numbered(text, len(shared))} (first: {min(shared)[0]})"
    trained = {} if known is None else _single_embeddings(known)
    found = [_single_embeddings(part) for part in parts] if trained else []
    same = sorted({path for part in found for digest, path in part.items() if digest in trained})
    if not same:
        return ""
    text = "{count} query or gallery [image has the embedding|images have the embeddings] of training images"
    return f"{numbered(text, len(same))}, to the last bit (first: {same[0]})"


def _keys_of_images(part: Sightings) -> Iterable[tuple[str, int, str]]:
    columns = (part.path.tolist(), part.camera.tolist(), part.time_s.tolist())
    return ((path, camera, repr(time)) for path, camera, time in zip(*columns, strict=True) if path)


def digests_of_embeddings(features: Features) -> list[bytes]:
    """What tells each embedding, to the last bit, from others."""
    return [hashlib.blake2b(values.tobytes(), digest_size=16).digest() for values in features.embedding]


def _single_embeddings(features: Features) -> dict[bytes, str]:
    """Digest of each embedding that a single image has, and the name of the image."""
    images: dict[bytes, set[str]] = {}
    paths = features.sightings.path.tolist()
    for row, (digest, path) in enumerate(zip(digests_of_embeddings(features), paths, strict=True)):
        images.setdefault(digest, set()).add(path or f"row {row}")
    return {digest: next(iter(paths)) for digest, paths in images.items() if len(paths) == 1}


def _shared_vehicles(train: Sightings, extraction: Extraction) -> tuple[str, bool]:
    """Which vehicles are on both sides, in words, and whether that is sure."""
    test = Sightings.concatenate([extraction.query.sightings, extraction.gallery.sightings])
    named = all((part.vehicle_name != "").any() for part in (train, test))
    trained, tested = (_names_of_vehicles(part, named) for part in (train, test))
    shared = np.intersect1d(trained[trained != ""], tested[tested != ""])
    if not len(shared):
        return "", True
    sure = not (_from_the_start(trained) or _from_the_start(tested))
    if not sure and extraction.train_features is not None:
        sure = _look_the_same(shared, extraction.train_features, extraction.gallery, named)
        shared = shared if sure else shared[:0]
    if not len(shared):
        return "", True
    text = "{count} [vehicle is|vehicles are] in training and in query or gallery"
    return f"{numbered(text, len(shared))} (first: {shared[0]})", sure


def _names_of_vehicles(part: Sightings, named: bool) -> np.ndarray:
    """What each row's vehicle is called, empty where it is not known."""
    numbers = part.identity.astype(np.str_)
    names, place = np.unique(part.vehicle_name, return_inverse=True)
    called = np.array([plain(name) for name in names.tolist()], dtype=np.str_)[place]
    labels = np.where(called != "", called, numbers) if named else numbers
    return np.where(part.known, labels, "")


def _from_the_start(labels: np.ndarray) -> bool:
    """Whether these are the numbers from 0 or 1 on, all of them."""
    words = np.unique(labels[labels != ""]).tolist()
    numbers = sorted(int(word) for word in words if word.isdecimal())
    return len(numbers) == len(words) and numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1


def _look_the_same(shared: np.ndarray, train: Features, gallery: Features, named: bool) -> bool:
    """Whether more vehicles of training than by chance are most like that of the gallery with the same label."""
    (known, trained), (labels, tested) = (_means_of_vehicles(part, named) for part in (train, gallery))
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
