"""Threads that decode and draw, and stop working for a request that nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pool", "Stop", "StoppedError"]

_Result = TypeVar("_Result")


class StoppedError(Exception):
    """The work was given up, because nobody waits for its result."""


class Stop:
    """A sign from the event loop to a thread that nobody waits for its result any more."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask the thread to stop at its next check."""
        self._asked = True

    def check(self) -> None:
        """Go on, or stop here; called by the work before each of its steps.

        Raises:
            StoppedError: The work was asked to stop.
        """
        if self._asked:
            raise StoppedError


class _Job:
    """A piece of work on its way through the pool."""

    def __init__(self, work: Callable[[Stop], Any]) -> None:
        self.work, self.stop = work, Stop()
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.running = self.replaced = False


class Pool:
    """Runs work in a fixed number of threads.

    Work whose caller was cancelled is never begun. Where it runs already, it stops at its next `Stop.check`; until
    then another thread takes its place, so that a file which keeps a decoder busy for a minute does not keep the
    callers after it waiting. The number of such extra threads is limited, too.

    Args:
        size: Number of pieces of work that run at once.
        spares: Largest number of threads that may still be busy with work that was given up.
    """

    def __init__(self, size: int, spares: int) -> None:
        self._spares = spares
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        for _ in range(size):
            self._start_thread()

    async def run(self, work: Callable[[Stop], _Result]) -> _Result:
        """Return what the work returns.

        Args:
            work: Function to call in a thread; it gets the sign to check between its steps.

        Raises:
            Exception: What the work raised.
        """
        job = _Job(work)
        self._jobs.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.stop.ask()
            self._replace(job)
            raise

    def _start_thread(self) -> None:
        threading.Thread(target=self._serve_jobs, name="decode", daemon=True).start()

    def _replace(self, job: _Job) -> None:
        """Start another thread instead of the one that is still busy with a job that was given up."""
        with self._lock:
            if not job.running or self._spares == 0:
                return
            self._spares -= 1
            job.replaced = True
        self._start_thread()

    def _serve_jobs(self) -> None:
        while True:
            job = self._jobs.get()
            with self._lock:
                job.running = True
            result, error = _try(job)
            try:
                job.future.get_loop().call_soon_threadsafe(_deliver, job.future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            with self._lock:
                job.running = False
                if job.replaced:
                    self._spares += 1
                    return


def _try(job: _Job) -> tuple[Any, BaseException | None]:
    try:
        job.stop.check()
        return job.work(job.stop), None
    except Exception as error:  # noqa: BLE001 - it belongs to the caller, and the thread must go on
        return None, error


def _deliver(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
