"""Progress: a bar with rate and time left on a terminal, plain lines in a job's log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


__all__ = ["Progress", "say"]


class Progress:
    """Counts things done; use it as a context manager.

    Args:
        total: How many there are.
        unit: What they are, in the plural.
        done: How many were done before; they do not count for the rate.
        every: Seconds between lines where there is no terminal.
    """

    def __init__(self, total: int, unit: str, *, done: int = 0, every: float = 10.0) -> None:
        self._total, self._unit, self._done, self._before = total, unit, done, done
        self._every, self._started = every, time.monotonic()
        self._last = self._started
        self._bar = (
            tqdm(total=total, initial=done, unit=f" {unit}", dynamic_ncols=True, smoothing=0.1)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._before:
            self._print()

    def advance(self, count: int = 1) -> None:
        """Count `count` more."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._print()

    def _print(self) -> None:
        seconds = max(1e-9, time.monotonic() - self._started)
        rate = (self._done - self._before) / seconds
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        ending = f"{left:,.0f} s left" if self._done < self._total else f"in {seconds:,.1f} s"
        line = f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {ending}"
        print(line, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Tell the user something, on standard error."""
    print(text, file=sys.stderr, flush=True)
