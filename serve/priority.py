"""Which threads run first on a full machine: the forward pass, because every request waits for it.

Without this, on two cores, whatever wakes up for a moment (a request, a decoded image, a result) pushes the forward
pass off its core, though the other core would have had room: `benchmarks/serving.py` shows what it is worth. It is
off unless the setting ``lower_priority`` asks for it, because a process cannot take it back.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["lower_priority", "normal_priority"]

_THREADS = Path("/proc/self/task")
_HIGHEST_NICENESS = 19


def lower_priority(niceness: int = 0) -> None:
    """Lower the priority of all threads of this process, and of those that they start later.

    Under Linux's batch policy a thread that wakes up waits for its turn. On other systems nothing happens.

    Args:
        niceness: Number added to the niceness of each thread; it cannot be taken back.
    """
    if not hasattr(os, "SCHED_BATCH") or not _THREADS.is_dir():
        return
    for thread in [int(path.name) for path in _THREADS.iterdir()]:
        with suppress(OSError):  # the thread has ended, or the machine does not let us
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
            raised = min(_HIGHEST_NICENESS, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
            os.setpriority(os.PRIO_PROCESS, thread, raised)


def normal_priority() -> None:
    """Give this thread, and those that it starts later, the normal policy again; the niceness stays."""
    if hasattr(os, "SCHED_OTHER"):
        with suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_OTHER, os.sched_param(0))
