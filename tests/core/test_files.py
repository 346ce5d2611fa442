"""Files that are replaced in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.files import replace_file, replacing, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_file_is_replaced_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    replace_file(path, "früh\n")
    replace_file(path, b"late")
    assert path.read_bytes() == b"late"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_no_litter_and_an_error_with_the_path(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "weights"
    replace_file(path, b"old")
    with pytest.raises(OSError, match=str(path)) as full:
        replace_file(path, bytes(2 * small_disk))
    assert full.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, ["name"], [["x"]])

    def rows() -> Iterator[list[str]]:
        yield ["y"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, ["name"], rows())
    assert path.read_text() == "name\nx\n"
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["name"], [[b"\xff.jpg".decode("utf-8", "surrogateescape")]])
    assert (tmp_path / "t.csv").read_bytes() == b"name\n\xff.jpg\n"


def test_a_writer_that_wants_a_path_gets_one_beside_the_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as unfinished:
        assert unfinished.parent == tmp_path
        unfinished.write_text("done")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "done"
