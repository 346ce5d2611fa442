"""Dynamic batching: whatever waits when the network becomes free goes through it together.

``ray.serve.batch`` closes a batch by the clock alone, also while the network is busy: without a wait every
batch holds one image under load, and with one a lone image waits for nothing. Here the thread that runs the network
takes its next batch itself, without asking the event loop, so that it never stands still while something waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Batcher"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Batcher(Generic[_Item, _Result]):
    """Processes items that arrive one by one in batches, one batch at a time, in a thread of its own.

    Args:
        process: Function that takes items and returns as many results.
        size: Largest number of items in a batch.
        wait_s: Seconds that a batch waits to become full, once there is an item.
        prepare_thread: Function that the thread calls first, for example to raise its priority.
    """

    def __init__(
        self,
        process: Callable[[list[_Item]], list[_Result]],
        size: int,
        wait_s: float = 0.0,
        prepare_thread: Callable[[], None] | None = None,
    ) -> None:
        self._process, self._size, self._wait_s, self._prepare_thread = process, size, wait_s, prepare_thread
        self._waiting: deque[tuple[_Item, asyncio.Future[_Result]]] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._work, name="batch", daemon=True).start()

    async def submit(self, item: _Item) -> _Result:
        """Return the item's result; where the caller is cancelled before its batch begins, the item is left out.

        Raises:
            Exception: What `process` raised, the same for all of a batch.
        """
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        with self._arrived:
            self._waiting.append((item, future))
            self._arrived.notify()
        return await future

    def _work(self) -> None:
        if self._prepare_thread is not None:
            self._prepare_thread()
        while True:
            batch = self._take()
            if not batch:
                continue
            futures = [future for _, future in batch]
            try:
                results: Sequence[_Result | Exception] = self._process([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to the callers, and the thread must go on
                results = [error] * len(batch)
            try:
                futures[0].get_loop().call_soon_threadsafe(_deliver, futures, results)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _take(self) -> list[tuple[_Item, asyncio.Future[_Result]]]:
        """Wait for the next batch."""
        with self._arrived:
            while not self._waiting:
                self._arrived.wait()
            until = time.monotonic() + self._wait_s
            while len(self._waiting) < self._size and (left := until - time.monotonic()) > 0:
                self._arrived.wait(left)
            taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        return [(item, future) for item, future in taken if not future.done()]


def _deliver(futures: Sequence[asyncio.Future[_Result]], results: Sequence[_Result | Exception]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
