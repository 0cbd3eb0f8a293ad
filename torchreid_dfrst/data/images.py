"""Reading one image file: every mode becomes upright RGB, and a file that cannot be read is named at once."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from torchreid_dfrst.data.boxes import Box, inside, split_name
from torchreid_dfrst.files import what_is

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
    """An image file that cannot be used.

    Args:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)

    def __str__(self) -> str:
        """Path and reason."""
        return " ".join(self.args)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file, or the box in it that its name says, as upright 8-bit RGB.

    A box that sticks out of the upright image is clipped, which the result's ``info`` says as ``clipped``.
    Grey, palette, RGBA (laid on black), CMYK and 16-bit images are converted; an EXIF rotation is applied. Only
    regular files in one of the formats ``PHOTOGRAPHS`` are opened, whatever their name says.

    Args:
        path: the file, or ``FILE#xywh=LEFT,TOP,WIDTH,HEIGHT``, see ``boxes``.
        max_pixels: larger images are refused before they are decoded, so that one file cannot take all memory.

    Raises:
        BadImageError: the file is missing, empty, truncated, not an image or larger than ``max_pixels``, or more than
            half of the box lies outside.
    """
    name, (path, box) = path, split_name(str(path))
    kind = what_is(path)
    if kind is None or kind:
        raise BadImageError(path, f"cannot be read as an image ({f'it is {kind}' if kind else 'no such file'})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            Image.init()
            with Image.open(path, formats=[name for name in PHOTOGRAPHS if name in Image.OPEN]) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadImageError(path, f"has {width} x {height} pixels, more than {max_pixels:,}: crop it")
                image.load()
                # ImageOps.exif_transpose would write all of the EXIF anew, and fail at any damaged entry
                turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
                upright = image.copy() if turn is None else image.transpose(turn)
            kind = {"F": "floating-point", "I": "32-bit"}.get(upright.mode)
            low, high = upright.getextrema() if upright.mode == "I" else (0, 0)
            if kind == "floating-point" or low < 0 or high > SIXTEEN_BITS:
                raise BadImageError(path, f"has {kind} pixels, whose range nobody knows: save it with 8 bits")
        return _rgb(upright) if box is None else _crop(upright, box, name)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(path, f"has more than {max_pixels:,} pixels: crop it") from error
    except BROKEN as error:
        raise BadImageError(path, f"cannot be read as an image ({_reason(path, error)})") from error


def _crop(image: Image.Image, box: Box, name: str | Path) -> Image.Image:
    edges = inside(box, image.width, image.height)
    if edges is None:
        raise BadImageError(
            name, f"has most of its box outside of the image of {image.width} x {image.height} pixels: correct the box"
        )
    cropped = _rgb(image.crop(edges))
    cropped.info["clipped"] = (edges[2] - edges[0], edges[3] - edges[1]) != box[2:]
    return cropped


def _rgb(image: Image.Image) -> Image.Image:
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


def _reason(path: str | Path, error: Exception) -> str:
    if not (what_is(path) or Path(path).stat().st_size):
        return "the file is empty"
    if "cannot identify" in str(error):
        return f"its content is not a known image format: {', '.join(PHOTOGRAPHS)}"
    return str(error)
