"""Reading one image file: every mode becomes upright RGB, and a file that cannot be read is named at once."""

from __future__ import annotations

import contextlib
import random
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.utils.data import Dataset

from torchreid_dfrst.data.boxes import Box, inside, split_name
from torchreid_dfrst.files import what_is

Item = tuple[str, int, int, int]
Key = int | tuple[int, int] | tuple[int, int, tuple[int, ...]]
Change = Callable[[Image.Image, str], Image.Image]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
MAX_PIXELS, SIXTEEN_BITS = 64_000_000, 65_535
PHOTOGRAPHS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats that are opened. Others are programs (PostScript, which Pillow has Ghostscript run) or no photographs."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF's orientation."""


BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError,
    struct.error,
)  # fmt: skip
"""What Pillow's decoders raise on broken files."""


class BadImageError(ValueError):
    """An image file that cannot be used, and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)

    def __str__(self) -> str:
        """Path and reason."""
        return " ".join(self.args)


def read_image(path: str | Path) -> Image.Image:
    """Read an image file, or the box in it that its name says (``boxes``), as upright 8-bit RGB.

    A box that sticks out of the upright image is clipped, which the result's ``info`` says as ``clipped``. Grey,
    palette, RGBA (laid on black), CMYK and 16-bit images are converted; an EXIF rotation is applied.

    Raises:
        BadImageError: the file is missing, empty, truncated, in no format of ``PHOTOGRAPHS`` or larger than
            ``MAX_PIXELS``, or more than half of the box lies outside.
    """
    name, (path, box) = path, split_name(str(path))
    kind = what_is(path)
    if kind is None or kind:
        raise BadImageError(path, f"cannot be read as an image ({f'it is {kind}' if kind else 'no such file'})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            Image.init()
            with Image.open(path, formats=[name for name in PHOTOGRAPHS if name in Image.OPEN]) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(path, f"has {width} x {height} pixels, more than {MAX_PIXELS:,}: crop it")
                image.load()
                # ImageOps.exif_transpose would write all of the EXIF anew, and fail at any damaged entry
                turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
                upright = image.copy() if turn is None else image.transpose(turn)
            kind = {"F": "floating-point", "I": "32-bit"}.get(upright.mode)
            low, high = upright.getextrema() if upright.mode == "I" else (0, 0)
            if kind == "floating-point" or low < 0 or high > SIXTEEN_BITS:
                raise BadImageError(path, f"has {kind} pixels, whose range nobody knows: save it with 8 bits")
        return _as_rgb(upright) if box is None else _cropped_to_box(upright, box, name)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(path, f"has more than {MAX_PIXELS:,} pixels: crop it") from error
    except BROKEN as error:
        raise BadImageError(path, f"cannot be read as an image ({_why_unreadable(path, error)})") from error


def _cropped_to_box(image: Image.Image, box: Box, name: str | Path) -> Image.Image:
    edges = inside(box, image.width, image.height)
    if edges is None:
        raise BadImageError(
            name, f"has most of its box outside of the image of {image.width} x {image.height} pixels: correct the box"
        )
    cropped = _as_rgb(image.crop(edges))
    cropped.info["clipped"] = (edges[2] - edges[0], edges[3] - edges[1]) != box[2:]
    return cropped


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") clips 16-bit grey at 255; the high byte is the picture
        values = np.asarray(image, dtype=np.float64)
        if values.max(initial=0) > 255:
            values = values / 257
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _why_unreadable(path: str | Path, error: Exception) -> str:
    if not (what_is(path) or Path(path).stat().st_size):
        return "the file is empty"
    if "cannot identify" in str(error):
        return f"its content is not a known image format: {', '.join(PHOTOGRAPHS)}"
    return str(error)


class Images(Dataset):
    """Images on disk as torchreid's items: a dict of ``img``, ``pid``, ``camid``, ``impath``, ``dsetid``.

    Each also has its ``number``, in ``bad`` the file that it stands in for, else nothing, and in ``clipped`` its path
    if its box stuck out of the image. An index is an image number, ``(number, seed)`` for a random transform that
    depends on nothing else, or ``(number, seed, batch)`` with the numbers of the whole batch.

    Args:
        items: ``(path, identity, camera, data set)`` per image.
        transform: PIL image to tensor; its first step is a resize to a fixed size if ``cache`` is set.
        substitute: an unreadable file becomes the next readable image of its identity that the batch does not hold yet
            (if there is one), so that a batch keeps its P identities with K images; else a ``BadImageError``.
        cache: keep the resized images in memory (in each worker process its own).
        change: what happens to each image as it was read, given its path, such as damage.
    """

    def __init__(
        self,
        items: Sequence[Item],
        transform: Any,
        substitute: bool = False,
        cache: bool = False,
        change: Change | None = None,
    ) -> None:
        self.items, self.transform, self.substitute, self.change = list(items), transform, substitute, change
        self.cache: dict[int, Any] | None = {} if cache else None
        self.siblings: dict[int, list[int]] = {}
        if substitute:
            for index, item in enumerate(self.items):
                self.siblings.setdefault(item[1], []).append(index)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, key: Key) -> dict[str, Any] | BadImageError:
        """The item, or the error that says why there is none."""
        index, seed, *batch = key if isinstance(key, tuple) else (key, None)
        path, identity, camera, source = self.items[index]
        bad = ""
        try:
            image = self._read(index)
        except BadImageError as error:
            if not self.substitute:
                return error
            other = self._sibling(index, *batch)
            if other is None:
                return BadImageError(
                    path,
                    f"cannot be replaced, for its identity has no readable image in training ({error.args[1]}); "
                    "repair one of them, or take the identity out of the list of training images",
                )
            image, bad = self._read(other), path
            path, identity, camera, source = self.items[other]
        with _seeded(seed):
            tensor = self._transform(image)
        found = {"img": tensor, "pid": identity, "camid": camera, "impath": path, "dsetid": source}
        return {**found, "number": index, "bad": bad, "clipped": path if image.info.get("clipped") else ""}

    def _read(self, index: int) -> Any:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        path = self.items[index][0]
        image = read_image(path) if self.change is None else self.change(read_image(path), path)
        if self.cache is not None:
            # the first step is the resize, the only one that is the same every time
            image = self.cache[index] = self.transform.transforms[0](image)
        return image

    def _transform(self, image: Any) -> torch.Tensor:
        if self.cache is None:
            return self.transform(image)
        image = image.copy()
        for step in self.transform.transforms[1:]:
            image = step(image)
        return image

    def _sibling(self, index: int, batch: Sequence[int] = ()) -> int | None:
        """What replaces an unreadable image: a function of the batch alone, whichever process asks."""
        family = self.siblings[self.items[index][1]]
        mates = list(dict.fromkeys(mate for mate in batch if mate in family)) or [index]
        taken, chosen = set(mates), None
        # unreadable ones earlier in the batch choose first
        for bad in mates[: mates.index(index) + 1]:
            if bad != index and self._readable(bad):
                continue
            place = family.index(bad)
            others = family[place + 1 :] + family[:place]
            # one that the batch holds already is better than none
            chosen = next(filter(self._readable, sorted(others, key=taken.__contains__)), None)
            if chosen is not None:
                taken.add(chosen)
        return chosen

    def _readable(self, index: int) -> bool:
        try:
            self._read(index)
        except BadImageError:
            return False
        return True


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Torchreid's transforms draw from the global generators: lend them a seeded state and put the old one back."""
    if seed is None:
        yield
        return
    python, torched = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torched)


def image_files(folder: Path) -> list[Path]:
    """Images in a folder by their endings, in the order of their names; none where there is no folder."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")]
