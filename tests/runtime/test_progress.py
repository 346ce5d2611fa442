"""Progress on a terminal and in a job's log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.progress import Progress

if TYPE_CHECKING:
    import pytest


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(4, "images", done=1, every=0.0) as progress:
        for _ in range(3):
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("2 of 4 images, ")
    assert lines[0].endswith("s left")
    assert "\r" not in "".join(lines)
    assert lines[-1].startswith("4 of 4 images")
