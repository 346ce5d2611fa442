"""A server that is killed at any moment has saved everything that it said was saved, once."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from finished_run import FinishedRun, write_run
from postgres import postgres
from review_server import Reviewing, reviewing

from core.images.drawings import CLASS_NAMES

if TYPE_CHECKING:
    from pathlib import Path

ROWS, EVERY = 40, 10


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return write_run(tmp_path, ROWS, drawn=False)


def correct(server: Reviewing, number: int) -> bool:
    """Send a correction; say whether it was acknowledged."""
    content = {"cells": [number % ROWS], "label": CLASS_NAMES[number % len(CLASS_NAMES)]}
    try:
        return server.act("label", f"correction-{number}", seen=10**6, **content).status_code == 200
    except httpx.HTTPError:
        return False


def check(run: FinishedRun, corrections: int, *options: str) -> None:
    """Make corrections, kill the server in the middle of every tenth, and send again what was not acknowledged."""
    numbers = iter(range(corrections))
    waiting: list[int] = []
    acknowledged: set[int] = set()
    while len(acknowledged) < corrections:
        with reviewing(run.path, *options) as server:
            acknowledged |= {number for number in waiting if correct(server, number)}
            waiting = [number for number in waiting if number not in acknowledged]
            batch = list(itertools.islice(numbers, EVERY))
            for number in batch[:-1]:
                assert correct(server, number)
                acknowledged.add(number)
            if batch:
                last = batch[-1]
                killer = threading.Timer(0.003, server.process.kill)
                killer.start()
                if correct(server, last):
                    acknowledged.add(last)
                else:
                    waiting.append(last)
                killer.join()
    database = dict(zip(options[::2], options[1::2], strict=True)).get("--database")
    entries = run.log(database).read_after(0)
    saved = [entry.request for entry in entries]
    assert sorted(saved) == sorted(f"correction-{number}" for number in range(corrections))
    assert [entry.number for entry in entries] == list(range(1, corrections + 1))


def test_a_kill_loses_nothing(run: FinishedRun) -> None:
    check(run, 20)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(run: FinishedRun) -> None:
    check(run, 200)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_in_postgresql(run: FinishedRun) -> None:
    with postgres() as database:
        check(run, 200, "--database", database)
