"""Threads that stop for whom nobody waits, and siblings that fail together."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from serve.pool import Pool
from serve.siblings import all_of

if TYPE_CHECKING:
    from serve.pool import Stop


async def give_up(task: asyncio.Future[object]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_results_and_errors_reach_their_callers() -> None:
    async def main() -> None:
        pool = Pool(2, 0)
        assert await asyncio.gather(*(pool.run(lambda _, number=number: number) for number in range(9))) == [*range(9)]
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda _: 1 / 0)

    asyncio.run(main())


def test_what_nobody_waits_for_stops_at_its_next_step() -> None:
    begun, steps, leave = threading.Event(), [], threading.Event()

    def work(stop: Stop) -> None:
        begun.set()
        leave.wait(5)
        stop.check()
        steps.append("second")

    async def main() -> None:
        pool = Pool(1, 0)
        running = asyncio.ensure_future(pool.run(work))
        queued = asyncio.ensure_future(pool.run(lambda _: steps.append("queued")))
        await asyncio.to_thread(begun.wait, 5)
        await give_up(running)
        await give_up(queued)
        leave.set()
        await pool.run(lambda _: steps.append("next"))

    asyncio.run(main())
    assert steps == ["next"]


def test_slow_work_that_was_given_up_does_not_keep_others_waiting() -> None:
    leave = threading.Event()
    before = threading.active_count()

    async def main() -> None:
        pool = Pool(2, 4)
        slow = [asyncio.ensure_future(pool.run(lambda _: leave.wait(10))) for _ in range(4)]
        await asyncio.sleep(0.1)
        for task in slow:
            await give_up(task)
        at = time.monotonic()
        assert await asyncio.wait_for(pool.run(lambda _: "done"), 2) == "done"
        assert time.monotonic() - at < 1
        leave.set()
        await asyncio.sleep(0.2)
        assert await asyncio.gather(*(pool.run(lambda _: 1) for _ in range(9))) == [1] * 9

    asyncio.run(main())
    for _ in range(50):
        if threading.active_count() <= before + 3:  # the two of the pool, and asyncio's own
            break
        time.sleep(0.05)
    assert threading.active_count() <= before + 3


def test_the_number_of_extra_threads_is_limited() -> None:
    leave = threading.Event()

    async def main() -> None:
        pool = Pool(1, 2)
        at_first = threading.active_count()
        for _ in range(6):
            slow = asyncio.ensure_future(pool.run(lambda _: leave.wait(10)))
            await asyncio.sleep(0.05)
            await give_up(slow)
        assert threading.active_count() <= at_first + 2
        leave.set()
        assert await asyncio.wait_for(pool.run(lambda _: "done"), 5) == "done"

    asyncio.run(main())


def test_siblings_of_what_failed_have_ended() -> None:
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("one of them")

    async def waits() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        with pytest.raises(ValueError, match="one of them"):
            await all_of([waits(), fails(), waits()])
        assert ended == ["cancelled", "cancelled"]

    asyncio.run(main())
