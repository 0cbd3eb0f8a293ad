"""Images as a broken transmission leaves them (paper, Section IV-D4): mosaic, colour cast, abnormal brightness.

The damage is that of YUV pixels improperly decoded: it comes in macroblocks of 16 x 16 pixels, in runs along the rows
in which a decoder reads them, and on the planes of luma and chroma, not on single pixels of red, green and blue.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from torchreid_dfrst.messages import nearest

MOSAIC, COLOR_CAST, BRIGHTNESS, MIXED = "mosaic", "color-cast", "brightness", "mixed"
KINDS = (MOSAIC, COLOR_CAST, BRIGHTNESS, MIXED)
LEVELS = (0, 5, 10, 20, 30, 40, 50)
BLOCK = 16
LONGEST_RUN = 8


class Run(NamedTuple):
    """Macroblocks that one error damages, in the order of decoding, and the numbers that say how."""

    blocks: np.ndarray
    kind: str
    choice: float
    shift: float
    angle: float


@dataclass(frozen=True)
class Contamination:
    """A transform of PIL images that damages a share of the pixels.

    The same image (by its name), kind and seed always give the same picture. What is damaged at one level is damaged in
    the same way at every higher one, so levels differ by their share alone.

    Args:
        kind: ``mosaic`` (a block keeps its averages only, or repeats the block before the error), ``color-cast``
            (chroma is lost or shifted), ``brightness`` (luma is shifted) or ``mixed`` (one of these per error).
        percent: share of damaged pixels, in [0, 100]; whole blocks are damaged, so it is met to half a block.
        seed: of all that is random.

    Raises:
        KeyError: an unknown kind; the message has the nearest one.
        ValueError: ``percent`` is outside [0, 100].
    """

    kind: str = MIXED
    percent: float = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.kind not in KINDS:
            raise KeyError(f"no contamination {self.kind!r}{nearest(self.kind, KINDS)}")
        if not 0 <= self.percent <= 100:
            raise ValueError(f"contamination of {self.percent} percent: a share of the pixels is from 0 to 100")

    def __call__(self, image: Image.Image, name: str | Path | None = None) -> Image.Image:
        """The damaged image, RGB; ``image`` stays as it is.

        Args:
            image: of any size and mode.
            name: its path, of which the last two parts count so that folders may move; None: its pixels name it.
        """
        image = image.convert("RGB")
        key = _key(name) if name is not None else zlib.crc32(image.tobytes())
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        edges = ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0))
        planes = np.pad(np.asarray(image.convert("YCbCr")), edges, mode="edge")
        columns = planes.shape[1] // BLOCK
        damaged = planes.copy()
        runs = list(self._runs(width, height, key))
        for run in runs:
            for block in run.blocks:
                damaged[_place(block, columns)] = _damage(planes, int(block), run)
        decoded = Image.merge("YCbCr", [Image.fromarray(plane) for plane in np.moveaxis(damaged, 2, 0)]).convert("RGB")
        # what was not damaged keeps its bytes: the way to YCbCr and back would round them
        mask = _mask(runs, width, height)
        return Image.fromarray(np.where(mask[..., None], np.asarray(decoded)[:height, :width], pixels))

    def mask(self, size: tuple[int, int], name: str | Path) -> np.ndarray:
        """Which pixels of an image of that width, height and name are damaged: ``(H, W)`` bool."""
        return _mask(self._runs(*size, _key(name)), *size)

    def _runs(self, width: int, height: int, key: int) -> Iterator[Run]:
        """Errors until the share of damaged pixels is as near to the wanted one as blocks allow."""
        high = np.minimum(BLOCK, height - BLOCK * np.arange(-(-height // BLOCK)))
        wide = np.minimum(BLOCK, width - BLOCK * np.arange(-(-width // BLOCK)))
        area = np.outer(high, wide).ravel()
        left = width * height * self.percent / 100
        rng = np.random.default_rng([self.seed, key])
        free = np.ones(len(area), dtype=bool)
        while free.any():
            start = int(rng.choice(np.flatnonzero(free)))
            following = free[start : start + int(rng.integers(1, LONGEST_RUN + 1))]
            length = len(following) if following.all() else int(np.argmin(following))
            blocks = np.arange(start, start + length)
            free[blocks] = False
            kind = (MOSAIC, COLOR_CAST, BRIGHTNESS)[int(rng.integers(3))]
            choice, shift, angle = rng.random(), rng.uniform(60, 110), rng.uniform(0, 2 * np.pi)
            # a block belongs to the share if with it the share is nearer than without it
            before = np.cumsum(area[blocks]) - area[blocks]
            taken = int(np.sum(before + area[blocks] / 2 <= left))
            if taken:
                yield Run(blocks[:taken], kind if self.kind == MIXED else self.kind, choice, shift, angle)
            if taken < length:
                return
            left -= area[blocks].sum()


def parse(text: str) -> tuple[str, list[float]]:
    """Kind and levels of ``mosaic:20``, ``mixed:5,10`` or ``mixed``, which has all levels of the paper.

    Raises:
        KeyError: an unknown kind.
        ValueError: a level is no number in [0, 100].
    """
    kind, _, listed = text.partition(":")
    try:
        levels = [float(word) for word in listed.split(",")] if listed else [float(level) for level in LEVELS]
    except ValueError as error:
        raise ValueError(f"contamination {text!r} holds no percentages after the colon, such as mixed:5,10") from error
    for level in levels:
        Contamination(kind, level)
    return kind, levels


def one(text: str) -> Contamination:
    """The contamination that ``mosaic:20`` names.

    Raises:
        KeyError: an unknown kind.
        ValueError: there is not exactly one level.
    """
    kind, levels = parse(text)
    if len(levels) != 1:
        raise ValueError(f"contamination {text!r} has {len(levels)} levels: one is needed here, such as {kind}:20")
    return Contamination(kind, levels[0])


def _key(name: str | Path) -> int:
    return zlib.crc32("/".join(Path(name).parts[-2:]).encode())


def _mask(runs: Iterable[Run], width: int, height: int) -> np.ndarray:
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    hit = np.zeros(rows * columns, dtype=bool)
    for run in runs:
        hit[run.blocks] = True
    return hit.reshape(rows, columns).repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def _place(block: int, columns: int) -> tuple[slice, slice]:
    y, x = (BLOCK * k for k in divmod(block, columns))
    return slice(y, y + BLOCK), slice(x, x + BLOCK)


def _damage(planes: np.ndarray, block: int, run: Run) -> np.ndarray:
    """The damaged block, from the sound planes: ``(16, 16, 3)`` uint8."""
    columns = planes.shape[1] // BLOCK
    sound = planes[_place(block, columns)].astype(np.float64)
    first = int(run.blocks[0])
    if run.kind == MOSAIC:
        if run.choice < 0.5 and first:
            return planes[_place(first - 1, columns)]
        # luma is coded in blocks of 8 x 8; a chroma block of 8 x 8 covers the whole macroblock
        sound[..., 0] = sound[..., 0].reshape(2, 8, 2, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1)
        sound[..., 1:] = sound[..., 1:].mean((0, 1))
    elif run.kind == COLOR_CAST:
        if run.choice < 1 / 3:
            sound[..., 1:] = 0
        else:
            sound[..., 1:] += run.shift * np.array([np.cos(run.angle), np.sin(run.angle)])
    else:
        sign = 1 if run.choice < 0.5 else -1
        level = planes[_place(first, columns)][..., 0].mean()
        # white cannot get brighter, nor black darker
        sound[..., 0] += run.shift * (sign if 0 <= level + sign * run.shift <= 255 else -sign)
    return np.clip(np.rint(sound), 0, 255).astype(np.uint8)
