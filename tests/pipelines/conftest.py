"""What the tests of the commands share."""

from __future__ import annotations

import pytest
from without_ray import work_here


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parts be done here instead of by Ray's workers."""
    work_here(monkeypatch)
