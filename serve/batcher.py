"""Dynamic batching: whatever waits when the network becomes free goes through it together.

``ray.serve.batch`` closes a batch by the clock alone, also while the network is busy: without a wait every
batch holds one image under load, and with one a lone image waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Batcher"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Batcher(Generic[_Item, _Result]):
    """Runs a function over items that arrive one by one, one batch at a time, in a thread of its own.

    To be used from one event loop.

    Args:
        run: Takes items, returns as many results.
        size: Most items in a batch.
        wait_s: Seconds that a batch waits to become full, once there is an item.
    """

    def __init__(self, run: Callable[[list[_Item]], list[_Result]], size: int, wait_s: float = 0.0) -> None:
        self._run, self._size, self._wait_s = run, size, wait_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._waiting: deque[tuple[_Item, asyncio.Future[_Result]]] = deque()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: _Item) -> _Result:
        """Return the item's result; if the caller is cancelled before its batch begins, the item is left out.

        Raises:
            Exception: What `run` raised, the same for all of a batch.
        """
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if self._wait_s:
                await self._fill()
            batch = self._take()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._run, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to the callers, and the loop must go on
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _fill(self) -> None:
        """Wait until a batch is full, or long enough."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_s
        while len(self._waiting) < self._size and (left := until - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[tuple[_Item, asyncio.Future[_Result]]]:
        batch: list[tuple[_Item, asyncio.Future[_Result]]] = []
        while self._waiting and len(batch) < self._size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if not self._waiting:
            self._arrived.clear()
        return batch
