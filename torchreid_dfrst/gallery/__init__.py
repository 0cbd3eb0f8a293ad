"""Galleries that live: images come in, expire and are deleted, while others search them over time.

``Gallery.open(address).search(embedding, camera, time_s, before_s=..., after_s=...)``.
"""

from torchreid_dfrst.gallery.gallery import Gallery
from torchreid_dfrst.gallery.hits import Hits
from torchreid_dfrst.gallery.store import File
from torchreid_dfrst.gallery.watching import watch

__all__ = ["File", "Gallery", "Hits", "watch"]
