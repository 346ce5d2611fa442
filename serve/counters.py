"""The counters of all ingress replicas together."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from serve.errors import BusyError
from serve.registry import RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from serve.metrics import Metrics, Snapshot
    from serve.registry import AnyRegistry

__all__ = ["SharedCounters"]

_EVERY_S = 2.0
_log = logging.getLogger("ray.serve")


class SharedCounters:
    """Tells the registry what this ingress has counted, and asks it for the sum over all of them.

    Every number that an ingress has ever put on its page is in the registry before, so that the sum never falls,
    whichever ingress answers the next scrape.

    Args:
        metrics: Counters of this ingress.
        registry: Registry of the application.
    """

    def __init__(self, metrics: Metrics, registry: AnyRegistry) -> None:
        self._metrics, self._registry, self._replica = metrics, registry, uuid.uuid4().hex

    async def total(self) -> Snapshot:
        """Return the sum over all ingress replicas, the present numbers of this one included.

        Raises:
            BusyError: With status 503 where the registry does not answer.
        """
        try:
            return await self._registry.call("count", self._replica, self._metrics.snapshot())
        except RegistryError as error:
            raise BusyError(error.message, 1, 503) from None

    @asynccontextmanager
    async def reporting(self, _application: object) -> AsyncGenerator[None]:
        """Report every two seconds while the application runs, and once more at its end."""
        task = asyncio.ensure_future(self._report())
        try:
            yield
        finally:
            task.cancel()
            with suppress(BusyError):
                await self.total()

    async def _report(self) -> None:
        while True:
            try:
                await self.total()
            except BusyError as error:
                _log.warning("%s", error)
            await asyncio.sleep(_EVERY_S)
