"""Lists as people save them: CRLF, byte order marks, blank lines, Chinese encodings; and all their mistakes at once."""

from __future__ import annotations

import contextlib
import logging
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from torchreid_dfrst.files import require_file
from torchreid_dfrst.messages import LONGEST, short

KINDS = {
    b"PK\x03\x04": "a zip archive, as .xlsx, .npz and .pt files are", b"PAR1": "Parquet", b"\x93NUMPY": "NumPy's .npy",
    b"\x89HDF": "HDF5", b"MATLAB 5.0": "MATLAB's .mat", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"\x80": "a pickle", b"\xd0\xcf\x11\xe0": "an old Excel or Word file", b"%PDF": "PDF", b"\x1f\x8b": "gzip",
    b"SQLite": "a database",
}  # fmt: skip
"""How files begin that are taken for others, and what they are."""
logger = logging.getLogger(__name__)


def read_text(path: str | Path, what: str) -> str:
    r"""Decode a text file of unknown encoding: UTF-8 or UTF-16 with their marks, else GB 18030, else Latin-1.

    Line ends of every system become ``\n``. What is not there, no file or no text is refused as ``what`` it should be.
    """
    path = Path(path)
    require_file(
        path,
        f"no {what} at {path}: check that {path.parent} is the folder of the data set itself, the spelling of the "
        "file, and that the archive is complete",
    )
    raw = path.read_bytes()
    kind = kind_of(raw[:4096])
    if kind != "text":
        raise ValueError(f"{path} is no text but {kind}, where {what} should be: save it as text (CSV in UTF-8)")
    return _decoded_text(raw, path).replace("\r\n", "\n").replace("\r", "\n")


def kind_of(head: bytes) -> str:
    """What a file is that begins so: ``text``, or what to call it."""
    known = next((kind for start, kind in KINDS.items() if head.startswith(start)), None)
    if known:
        return known
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return "text" if marked or b"\0" not in head or _utf16_without_mark(head) else "binary data (it holds NUL bytes)"


def _utf16_without_mark(raw: bytes) -> str | None:
    """The kind of UTF-16 without a mark: nearly all of every second byte is NUL in what is mostly Latin letters."""
    for encoding, empty, full in (("utf-16-le", raw[1::2], raw[::2]), ("utf-16-be", raw[::2], raw[1::2])):
        if empty and empty.count(0) > 0.5 * len(empty) and 0 not in full:
            return encoding
    return None


def _decoded_text(raw: bytes, path: Path) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    wide = _utf16_without_mark(raw[:4096])
    if wide:
        return raw.decode(wide, errors="replace")
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8-sig")
    encoding = "gb18030"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"  # refuses nothing
        text = raw.decode(encoding)
    line = short(next(line for line in text.splitlines() if not line.isascii()), LONGEST)
    logger.warning("%s is not UTF-8, but read as %s, such as %r: if wrong, save it as UTF-8", path, encoding, line)
    return text


def read_lines(path: str | Path, what: str) -> list[str]:
    """Lines of a text file without surrounding blanks, see ``read_text``; empty lines are left out."""
    lines = (line.strip() for line in read_text(path, what).split("\n"))
    return [line for line in lines if line]


def read_items(path: Path) -> list[dict[str, str]]:
    """Attributes of every ``<Item .../>`` of a label file; entities, which can be a bomb, are a ``ValueError``."""
    # the standard parser refuses the declared gb2312, so it gets text without the declaration
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", read_text(path, "labels"), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares a document type or entities, which labels never need: refused unread")
    try:
        return [dict(item.attrib) for item in ET.fromstring(text).iter("Item")]
    except ET.ParseError as error:
        raise ValueError(f"{path} is not well-formed XML ({error}): download it again, or remove it") from error
