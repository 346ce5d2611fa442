"""Names of files in an export: printable, inside it, and never the same twice."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Places"]

_LONGEST_NAME, _KEPT, _LONGEST_PATH = 240, 200, 1500
"""Bytes that a file system takes as one name, that stay of a longer one, and that a path inside an export may have."""


class Places:
    """Gives every file of an export a path of its own, in the order in which they ask.

    A name stays what it is where it can. One that would leave its folder, that is not printable, that has a backslash
    or is too long for a file system, and one that is taken already, gets a hash. Names that differ only in capitals or
    in how an umlaut is written count as the same, since on some disks they are.

    Example:
        >>> Places().place(["slide 1"], "cell.png")
        'slide 1/cell.png'
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def place(self, folders: Sequence[str], name: str, ending: str = "") -> str:
        """Return the path of one more file, relative to the export, with ``/`` between its parts.

        Args:
            folders: Names of the folders that it is to lie in.
            name: Its name.
            ending: What is put after the name, for example ``.png``.
        """
        path = "/".join([*map(_fitting, folders), _fitting(name, ending)])
        if len(path.encode()) > _LONGEST_PATH:
            path = f"{_fitting(folders[0]) if folders else 'long'}/{_hash(path)}{_ending(name + ending)}"
        *parents, last = path.split("/")
        for depth in range(len(parents)):
            while _same("/".join(parents[: depth + 1])) in self._files:
                parents[depth] += f"_{_hash(parents[depth])}"
        last = self._free("/".join(parents), last)
        path = "/".join([*parents, last])
        self._files.add(_same(path))
        self._folders.update(_same("/".join(parents[: depth + 1])) for depth in range(len(parents)))
        return path

    def _free(self, folder: str, name: str) -> str:
        """Return the name, or one with a hash where that is taken."""
        stem, ending = name.removesuffix(_ending(name)), _ending(name)
        found, tries = name, 0
        while self._taken(f"{folder}/{found}" if folder else found):
            found, tries = f"{stem}.{_hash(f'{name} {tries}')}{ending}", tries + 1
        return found

    def _taken(self, path: str) -> bool:
        return _same(path) in self._files or _same(path) in self._folders


def _fitting(name: str, ending: str = "") -> str:
    """Return a name that stays in its folder, can be printed and is not too long."""
    plain = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in name)
    if plain.strip(". ") and plain == name and len((name + ending).encode()) <= _LONGEST_NAME:
        return name + ending
    own = ending or _ending(plain)
    stem = plain.removesuffix(own).strip(". ").encode()[:_KEPT].decode("utf-8", "ignore")
    return f"{stem or '_'}.{_hash(name)}{own}"


def _ending(name: str) -> str:
    """Return what looks like the ending of a file name, with its dot; empty where there is none."""
    stem, dot, ending = name.rpartition(".")
    return f".{ending}" if dot and stem and ending.isalnum() and len(ending.encode()) <= 8 else ""


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _same(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()
