"""Work for one request that runs at the same time, and fails together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

__all__ = ["all_of"]

_Result = TypeVar("_Result")


async def all_of(work: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Run coroutines at the same time and return their results, in their order.

    Where one fails, or the caller is cancelled, the others are cancelled and have ended before this returns;
    ``asyncio.gather`` would let them run on (``asyncio.TaskGroup`` needs Python 3.11).

    Raises:
        Exception: What the first that failed raised.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
