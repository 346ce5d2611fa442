"""Where the overlay of an image is written."""

from __future__ import annotations

import hashlib

from pipelines.classification.slides import IMAGE_SUFFIXES

__all__ = ["overlay_path", "short_overlay_path"]


def overlay_path(slide: str, image: str, cell: int | None = None) -> str:
    """Return where an image's overlay is, relative to the run: its own relative path, as a JPEG.

    ``a/b.jpg`` stays ``a/b.jpg`` and ``a/b.png`` becomes ``a/b.png.jpg``. A name that this could make
    ambiguous, or that is too long for a file system, is shortened and carries a hash.

    Args:
        slide: Name of the slide.
        image: Path of the image, relative to the slide.
        cell: Where each cell has an overlay of its own: its number, which then stands before the ending; 0: all of
            the image.
    """
    *folders, name = image.split("/")
    stem, _, ending = name.rpartition(".")
    inner = "." + stem.rpartition(".")[2].lower()
    suffix = f".{ending.lower()}"
    if cell is not None and inner[1:].isdecimal():  # named like another image's cell
        target = f"{name}.{_hash(name)}.jpg"
    elif suffix in {".jpg", ".jpeg"} and inner not in IMAGE_SUFFIXES:
        target = name
    elif suffix in IMAGE_SUFFIXES and stem:
        target = f"{name}.jpg"
    else:
        target = f"{name}.{_hash(name)}.jpg"
    target = _fitting(target, ".jpg")
    if cell:
        start, ending = target.rsplit(".", 1)
        target = f"{start}.{cell}.{ending}"
    return "/".join(("gradcam", *(_fitting(part) for part in (slide, *folders)), target))


def short_overlay_path(path: str) -> str:
    """Return another place for an overlay whose own one a file system cannot take."""
    return f"gradcam/_renamed/{hashlib.sha256(path.encode()).hexdigest()}.jpg"


def _fitting(name: str, ending: str = "") -> str:
    """Shorten a file name that has over 240 bytes, or that would step out of its folder."""
    if name in {"", ".", ".."} or "\\" in name:
        return f"{name.replace(chr(92), '_').strip('.')}_{_hash(name)}{ending}"
    if len(name.encode()) <= 240:
        return name
    return f"{name.encode()[:200].decode('utf-8', 'ignore')}.{_hash(name)}{ending}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
