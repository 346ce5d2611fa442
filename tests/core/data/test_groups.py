"""Sources from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.data.groups import read_linked_groups
from core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_linked_groups_are_followed_to_their_end(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("source,same_as\na,b\nb,c\nd,\n")
    assert read_linked_groups(tmp_path / "l.csv") == {"a": "c", "b": "c", "d": ""}
    (tmp_path / "l.csv").write_text("source,same_as\na,b\nb,a\n")
    with pytest.raises(DataError, match="back to itself"):
        read_linked_groups(tmp_path / "l.csv")
