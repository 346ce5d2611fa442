"""The images that an audit looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.data.class_folders import ClassFolders, read_splits
from core.data.groups import read_groups, read_linked_groups
from core.data.laboratories import names_laboratories, read_laboratories

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["read_parts", "with_compared"]


def read_parts(data: Path) -> dict[str, ClassFolders]:
    """List the images of a data set, by split, or of each laboratory of a file; all parts have the same classes.

    Raises:
        DataError: The data cannot be used.
    """
    if not names_laboratories(data):
        return read_splits(data)
    laboratories = read_laboratories(data)
    names = sorted(set().union(*(laboratory.found_classes for laboratory in laboratories)))
    plain = (laboratory.model_copy(update={"unknown": []}) for laboratory in laboratories)
    return {laboratory.name: laboratory.read(names) for laboratory in plain}


def with_compared(parts: Mapping[str, ClassFolders], groups: Path, links: Path | None) -> dict[str, ClassFolders]:
    """Name the sources that the groups which are found are compared with.

    Args:
        parts: What `read_parts` gave.
        groups: A file for `read_groups`.
        links: A file for `read_linked_groups`, if any; a source that stands for nothing stands for itself.

    Raises:
        DataError: A file cannot be used, or names nothing.
    """
    linked = read_linked_groups(links) if links else {}
    linked = {source: same or source for source, same in linked.items()}
    return {name: data.with_groups(read_groups(groups), linked) for name, data in parts.items()}
