"""Images that cannot be read, and the same image under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torchreid_dfrst.data.images import BadImageError, read_image
from torchreid_dfrst.doctor.findings import ERROR, WARNING, Finding, finding
from torchreid_dfrst.sightings import Sightings

Bar = Callable[[Iterable[Path]], Iterable[Path]]


def check_images(parts: dict[str, Sightings], bar: Bar) -> list[Finding]:
    """Open every image once and compare their bytes.

    Args:
        parts: split to its images, with paths.
        bar: progress bar around the paths.
    """
    rows = [
        (path, split, identity)
        for split, part in parts.items()
        for path, identity in zip(part.path.tolist(), part.identity.tolist(), strict=True)
    ]
    digest, findings = read_all([Path(path) for path in dict.fromkeys(path for path, *_ in rows)], bar)
    copies: dict[str, list[tuple[str, str, int]]] = {}
    for row in rows:
        if row[0] in digest:
            copies.setdefault(digest[row[0]], []).append(row)
    clash, leak, twice = [], [], []
    for group in copies.values():
        paths, splits, identities = (set(column) for column in zip(*group, strict=True))
        pair = " = ".join(sorted("/".join(Path(path).parts[-2:]) for path in paths)[:2])
        if len(identities) > 1:
            clash.append(pair)
        elif "train" in splits and len(splits) > 1:
            leak.append(pair)
        if len(identities) == 1 and len({(path, split) for path, split, _ in group}) > len(splits):
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
    """Open image files: the digest of the bytes of each that can be read, by path, and what is said of the others."""
    digest, bad = {}, []
    for path in bar(paths):
        try:
            read_image(path)
            digest[str(path)] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except (BadImageError, OSError) as error:
            bad.append(str(error))
    return digest, finding(
        ERROR,
        "unreadable images",
        f"{{count}} of {len(paths)} images cannot be read",
        bad,
        "copy them again, or take them out; training can go on without them with data.on_bad_image skip",
    )
