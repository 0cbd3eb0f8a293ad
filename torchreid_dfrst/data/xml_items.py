"""``<Item .../>`` elements of the label files of VeRi-776 and CityFlow."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from torchreid_dfrst.data.text import read_text


def read_items(path: Path) -> list[dict[str, str]]:
    """Attributes of every ``Item`` of a label file in any of its encodings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not well-formed XML, or a document type is declared: labels need none, and entities can be a bomb.
    """
    # The standard parser refuses the declared gb2312, so it gets text without the declaration.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", read_text(path, "labels"), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares a document type or entities, which labels never need: refused unread")
    try:
        return [dict(item.attrib) for item in ET.fromstring(text).iter("Item")]
    except ET.ParseError as error:
        raise ValueError(f"{path} is not well-formed XML ({error}): download it again, or remove it") from error
