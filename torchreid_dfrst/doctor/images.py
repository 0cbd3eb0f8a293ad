"""Images that cannot be read, and the same image under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torchreid_dfrst.data.images import BadImageError, read_image
from torchreid_dfrst.doctor.findings import ERROR, WARNING, Finding, finding
from torchreid_dfrst.sightings import Sightings


def check_images(sightings: dict[str, Sightings], bar: Callable[[Iterable[Path]], Iterable[Path]]) -> list[Finding]:
    """Open every image once and compare their bytes.

    Args:
        sightings: split to its images, with paths.
        bar: progress bar around the paths.
    """
    owners: dict[str, list[tuple[str, int, str]]] = {}
    seen: dict[str, str] = {}
    bad: list[str] = []
    rows = [
        (split, identity, path)
        for split, part in sightings.items()
        for identity, path in zip(part.identity.tolist(), part.path.tolist(), strict=True)
    ]
    for (split, identity, path), file in zip(rows, bar([Path(path) for _, _, path in rows]), strict=True):
        if path not in seen:
            try:
                read_image(file)
                seen[path] = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
            except (BadImageError, OSError) as error:
                seen[path] = ""
                bad.append(str(error))
        if seen[path]:
            owners.setdefault(seen[path], []).append((split, identity, path))
    clash = [group for group in owners.values() if len({identity for _, identity, _ in group}) > 1]
    leak = [
        group
        for group in owners.values()
        if len({identity for _, identity, _ in group}) == 1 and len({split == "train" for split, _, _ in group}) > 1
    ]
    twice = [group for group in owners.values() if any(_same_split(group, split) > 1 for split in sightings)]
    twice = [group for group in twice if len({identity for _, identity, _ in group}) == 1]
    return [
        *_bad(bad, len(seen)),
        *finding(
            ERROR,
            "the same image under two vehicles",
            "{count} [image carries|images carry] two different vehicle numbers",
            map(_pair, clash),
            "one of the two labels is wrong: find out which and remove the other file",
        ),
        *finding(
            ERROR,
            "the same image in training and test",
            "{count} [image is|images are] in both",
            map(_pair, leak),
            "remove them from training",
        ),
        *finding(
            WARNING,
            "repeated images",
            "{count} [image is|images are] in one split more than once",
            map(_pair, twice),
            "remove the copies: they count double in training and in the metrics",
        ),
    ]


def unreadable(paths: Sequence[Path], bar: Callable[[Iterable[Path]], Iterable[Path]]) -> list[Finding]:
    """Open image files of which nothing else is known."""
    bad = []
    for path in bar(paths):
        try:
            read_image(path)
        except (BadImageError, OSError) as error:
            bad.append(str(error))
    return _bad(bad, len(paths))


def _bad(bad: list[str], images: int) -> list[Finding]:
    return finding(
        ERROR,
        "unreadable images",
        f"{{count}} of {images} images cannot be read",
        bad,
        "copy them again, or take them out; training can go on without them with data.on_bad_image skip",
    )


def _same_split(group: list[tuple[str, int, str]], split: str) -> int:
    return len({path for where, _, path in group if where == split})


def _pair(group: list[tuple[str, int, str]]) -> str:
    names = sorted({"/".join(Path(path).parts[-2:]) for _, _, path in group})
    return " = ".join(names[:2])
