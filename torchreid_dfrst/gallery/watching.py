"""New hits as images arrive in a gallery."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchreid_dfrst.gallery.gallery import Gallery
from torchreid_dfrst.gallery.hits import Hits


def watch(
    gallery: Gallery,
    embedding: np.ndarray,
    camera: Sequence[str] | None = None,
    time_s: Sequence[float] | np.ndarray | None = None,
    *,
    least: float | None = None,
    every_s: float = 1.0,
    patience_s: float = np.inf,
    **options: Any,
) -> Iterator[Hits]:
    """Search again whenever the gallery has changed, and give the hits that were not given before.

    What is there already comes first. Nothing is known of later images, so a hit stands as it was when it was given.

    Args:
        gallery: to search; others add to it meanwhile.
        embedding: see ``Gallery.search``, as are ``camera``, ``time_s`` and ``options``.
        camera: of each query.
        time_s: of each query.
        least: give only hits of this probability or more. With a ``false_match_rate``, only those that pass are given.
        every_s: seconds between looks at the gallery.
        patience_s: end after so many seconds without a change.
        options: of the search.

    Raises:
        ValueError: as ``Gallery.search``, or ``least`` without a calibration.
    """
    given: set[tuple[Any, ...]] = set()
    names = ("query", "path", "camera", "time_s", "probability", "passes")
    while True:
        hits = gallery.search(embedding, camera, time_s, **options)
        if least is not None and gallery.content.calibration is None:
            raise ValueError("a least probability needs a calibration: `dfrst gallery fit` keeps one")
        good = {
            row: line[:4]
            for row, line in enumerate(zip(*(hits.columns[name] for name in names), strict=True))
            if line[5] is not False and (least is None or line[4] >= least)
        }
        new = [row for row, key in good.items() if key not in given]
        given.update(good.values())
        number = gallery.content.number
        if new:
            yield hits.some(new)
        end = time.monotonic() + patience_s
        while gallery.content.number == number:
            if time.monotonic() >= end:
                return
            time.sleep(every_s)
            gallery.refresh()
