"""What tests of core share."""

from __future__ import annotations

import resource
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file may grow beyond 64 KiB, as on a disk that is nearly full."""
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE), 65_536
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
