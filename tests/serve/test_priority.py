"""`serve.priority`, in a process of its own, since niceness cannot be taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, os, threading
from serve.priority import lower_priority, normal_priority

def look(action=None):
    if action:
        action()
    thread = threading.get_native_id()
    seen.append([os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)])

def begun(*arguments):
    thread = threading.Thread(target=look, args=arguments)
    thread.start()
    thread.join()

os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # the tests' own process may have a lower priority already
seen, leave = [], threading.Event()
before = threading.Thread(target=lambda: (leave.wait(), look()))
before.start()
look()
lower_priority(4)
look()
begun()
begun(normal_priority)
leave.set()
before.join()
print(json.dumps(seen))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduler only")
def test_all_threads_but_one_get_a_lower_priority() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=PROJECT, check=True, capture_output=True, text=True)
    at_first, here, started_later, first, started_before = json.loads(done.stdout)
    own = at_first[1]
    assert at_first == [os.SCHED_OTHER, own]
    assert here == started_later == started_before == [os.SCHED_BATCH, min(19, own + 4)]
    assert first == [os.SCHED_OTHER, min(19, own + 4)]
