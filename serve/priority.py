"""Who runs first on a full machine: the forward pass, because everybody waits for it.

Without this, on two cores, whatever wakes up for a moment (a request, a decoded image, a result) pushes the forward
pass off its core, though the other core would have had room: `benchmarks/serving.py` shows what it is worth.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["come_first", "give_way"]

_THREADS = Path("/proc/self/task")
_LAST = 19


def give_way(niceness: int = 0) -> None:
    """Let all threads of this process, and those that they start later, give way to the forward pass.

    By Linux's batch policy, under which a thread that wakes up waits for its turn; elsewhere nothing happens.

    Args:
        niceness: What is added to theirs; it cannot be taken back.
    """
    if not hasattr(os, "SCHED_BATCH") or not _THREADS.is_dir():
        return
    for thread in [int(path.name) for path in _THREADS.iterdir()]:
        with suppress(OSError):  # the thread has ended, or the machine does not let us
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread, min(_LAST, os.getpriority(os.PRIO_PROCESS, thread) + niceness))


def come_first() -> None:
    """Take this thread, and those that it starts later, out of what `give_way` did, but for the niceness."""
    if hasattr(os, "SCHED_OTHER"):
        with suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_OTHER, os.sched_param(0))
