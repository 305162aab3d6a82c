"""A small HTML builder: whatever is not HTML already is escaped.

File names, class names and settings come from data sets and are hostile until escaped, so text becomes HTML
in one place only. Images go into the page itself, as data URIs.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

_VOID: Final = frozenset({"img", "meta", "hr", "br"})
_MAX_PIXELS: Final = 50_000_000


class Html(str):
    """Text that is HTML already; only this module makes it from anything but literals."""

    __slots__ = ()


Child = str | Html | None | Iterable["Child"]


def join(*children: Child) -> Html:
    """All children one after another; plain text is escaped, None is nothing."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child, quote=True))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def tag(name: str, /, *children: Child, **attributes: str | int | None) -> Html:
    """One element. A trailing underscore of an attribute's name is dropped (class_); None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], *, numeric: bool = True) -> Html:
    """A table that scrolls sideways on small screens; the first column names the row.

    Args:
        head: Titles of the columns.
        rows: Cells, as many a row as there are titles.
        numeric: Whether the columns after the first are numbers, set in the right.
    """
    body = [
        tag("tr", tag("th", cells[0], scope="row"), [tag("td", cell) for cell in cells[1:]]) for cells in rows
    ]
    if not body:
        return Html("")
    titles = tag("thead", tag("tr", [tag("th", title, scope="col") for title in head]))
    kind = "numbers" if numeric else "words"
    return tag("div", tag("table", titles, tag("tbody", body), class_=kind), class_="scroll")


def picture(path: Path, alt: str, caption: Child = None) -> Html:
    """A figure with the image in the page; lossy WebP where that is smaller than the file.

    Args:
        path: A PNG.
        alt: What it shows, for those who cannot see it.
        caption: What to look for.

    Raises:
        OSError: The file is missing or is no image.
    """
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise OSError(f"{path.name} has {width} x {height} pixels, more than a page should hold")
            packed = io.BytesIO()
            image.convert("RGB").save(packed, "WEBP", quality=88, method=4)
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} is not a readable PNG: {error}") from error
    kind, data = min(("png", data), ("webp", packed.getvalue()), key=lambda choice: len(choice[1]))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image_tag = tag("img", src=source, alt=alt, width=width, height=height)
    return tag("figure", image_tag, tag("figcaption", caption) if caption else None)
