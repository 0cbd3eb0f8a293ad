"""Images that cannot be read, and the same image under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.data.images import BadImageError, read_image
from torchreid_dfrst.doctor.findings import ERROR, WARNING, Finding, finding
from torchreid_dfrst.sightings import UNKNOWN, Sightings

Bar = Callable[[Iterable[Path]], Iterable[Path]]


def check_images(parts: dict[str, Sightings], bar: Bar, cameras: bool = True) -> list[Finding]:
    """Open every image once, with a ``bar`` around the paths, and compare their bytes; ``cameras``: are there any?"""
    rows = [
        (path, split, identity, camera)
        for split, part in parts.items()
        for path, identity, camera in zip(part.path.tolist(), part.identity.tolist(), part.camera.tolist(), strict=True)
    ]
    digest, findings = read_all([Path(path) for path in dict.fromkeys(path for path, *_ in rows)], bar)
    copies: dict[str, list[tuple[str, str, int, int]]] = {}
    for row in rows:
        if row[0] in digest:
            copies.setdefault(digest[row[0]], []).append(row)
    clash, leak, twice, moved = [], [], [], []
    for group in copies.values():
        paths, splits, identities, seen_by = (set(column) for column in zip(*group, strict=True))
        pair = " = ".join(sorted("/".join(Path(path).parts[-2:]) for path in paths)[:2])
        identities.discard(UNKNOWN)
        if cameras and len(seen_by) > 1:
            moved.append(pair)
        if len(identities) > 1:
            clash.append(pair)
        elif "train" in splits and len(splits) > 1:
            leak.append(pair)
        if len(identities) <= 1 and len({(path, split) for path, split, *_ in group}) > len(splits):
            twice.append(pair)
    return [
        *findings,
        *finding(
            ERROR,
            "the same image under two vehicles",
            "{count} [image carries|images carry] two different vehicle numbers",
            clash,
            "one of the two labels is wrong: find out which and remove the other file",
        ),
        *finding(
            ERROR,
            "the same image under two cameras",
            "{count} [image carries|images carry] two different cameras: its own copy is a match from another camera",
            moved,
            "one of the two is wrong, or one camera has two names: keep one",
        ),
        *finding(
            ERROR,
            "the same image in training and test",
            "{count} [image is|images are] in both",
            leak,
            "remove them from training",
        ),
        *finding(
            WARNING,
            "repeated images",
            "{count} [image is|images are] in one split more than once",
            twice,
            "remove the copies: they count double in training and in the metrics",
        ),
    ]


def read_all(paths: Sequence[Path], bar: Bar) -> tuple[dict[str, str], list[Finding]]:
    """Open image files: the digest of the bytes of each that can be read, by path, and findings about the others."""
    digest, bad, clipped = {}, [], []
    for path in bar(paths):
        try:
            if read_image(path).info.get("clipped"):
                clipped.append(path)
            file, box = split_name(str(path))
            digest[str(path)] = f"{hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()} {box}"
        except (BadImageError, OSError) as error:
            bad.append(str(error))
    unreadable = finding(
        ERROR,
        "unreadable images",
        f"{{count}} of {len(paths)} images cannot be read",
        bad,
        "copy them again, or take them out; training can go on without them with data.on_bad_image skip",
    )
    return digest, unreadable + finding(
        WARNING,
        "boxes that stick out",
        f"{{count}} of {len(paths)} boxes [sticks|stick] out of [its image|their images] and [is|are] clipped",
        clipped,
        "fine if they are few; otherwise the boxes were made for images of another size",
    )
