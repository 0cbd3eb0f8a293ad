"""A gallery as a features file."""

from __future__ import annotations

import logging

import numpy as np

from torchreid_dfrst.features import Extraction, Features
from torchreid_dfrst.gallery.gallery import Gallery
from torchreid_dfrst.gallery.hits import TEXT
from torchreid_dfrst.gallery.searching import shard_of
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import GONE
from torchreid_dfrst.sightings import UNKNOWN, Sightings

logger = logging.getLogger(__name__)


def extraction(gallery: Gallery) -> Extraction:
    """All images of a gallery that can be read, by time, and the road distances of its space-time model.

    Raises:
        ValueError: there is no image.
    """
    gallery.refresh()
    store, content, shards = gallery.store, gallery.content, []
    for file in content.files:
        try:
            shards.append(shard_of(store, file, content.deleted_from(file)))
        except GONE as error:
            logger.warning("%s: it is left out", error)
    words = {name: [word for shard in shards for word in shard.words[name].to_pylist()] for name in TEXT}
    if not words["path"]:
        why = "all its files are damaged" if content.files else "add some with `dfrst gallery add`"
        raise ValueError(f"{store.address} holds no image that can be read: {why}")
    trips = None if content.spacetime is None else Trips.load(content.spacetime)
    camera, vehicle = (np.array(words[name], dtype=np.str_) for name in ("camera", "identity"))
    label = np.unique(camera, return_inverse=True)[1] if trips is None else trips.labels(words["camera"])
    identity = np.where(vehicle == "", UNKNOWN, np.unique(vehicle, return_inverse=True)[1])
    track = np.array([UNKNOWN if one is None else one for one in words["track"]], dtype=np.int64)
    time_s = np.concatenate([shard.time_s for shard in shards])
    seen = Sightings(label, time_s, identity, track, np.array(words["path"]), camera, vehicle)
    features = Features(np.concatenate([shard.embedding for shard in shards]), seen)[np.argsort(time_s)]
    network = None if trips is None else trips.model.network
    return Extraction(features[:0], features, network=network, source=content.network)
