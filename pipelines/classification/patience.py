"""Storage that fails for a passing reason is tried again, with growing pauses, for a while."""

from __future__ import annotations

import errno
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patience", "is_full", "is_passing"]

_Result = TypeVar("_Result")

# fmt: off
_PASSING = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
    errno.ENFILE, errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM, errno.ENOTCONN, errno.EPIPE, errno.EREMOTEIO,
    errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT,
})
# fmt: on
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PASSING_TEXT = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|INTERNAL_ERROR|REQUEST_TIMEOUT"
    r"|THROTTLING|REQUEST_EXPIRED|REQUEST_TIME_TOO_SKEWED)"
    r"|HTTP status (5\d\d|408|429)|Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL)"
    r"|curlCode|SlowDown|ServerBusy|OperationTimedOut|[Cc]onnection (reset|refused|closed|timed out)"
)
"""What pyarrow writes where an object store gives no error number: S3's codes, HTTP's, gRPC's and Azure's."""
_FULL_TEXT = re.compile(r"QuotaExceeded|StorageFull|XMinioStorageFull|InsufficientStorage|HTTP status 507")


def is_full(error: OSError) -> bool:
    """Whether there is no room left to write to, which waiting does not change."""
    return error.errno in _FULL or (error.errno is None and bool(_FULL_TEXT.search(str(error))))


def is_passing(error: OSError) -> bool:
    """Whether the same call may succeed a little later: the network, a busy store, a limit that others use up.

    The error number decides; where there is none, as with pyarrow's object stores, the text does. What concerns
    the file itself (it is missing, may not be read, is a folder) is not passing, and neither is a full disk.
    """
    if is_full(error):
        return False
    if error.errno is not None:
        return error.errno in _PASSING
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(_PASSING_TEXT.search(str(error)))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a failing call is tried again.

    Attributes:
        limit_s: Seconds from the first failure until the last attempt.
        first_s: Seconds of the first pause; each pause is twice as long as the one before.
        longest_s: Seconds of the longest pause.
    """

    limit_s: float = 30.0
    first_s: float = 0.2
    longest_s: float = 5.0

    def retry(self, call: Callable[[], _Result]) -> _Result:
        """Return what `call` returns; where it fails for a passing reason, try it again.

        Raises:
            OSError: What `call` raised at last, or at once where the reason does not pass.
        """
        pause, deadline = self.first_s, None
        while True:
            try:
                return call()
            except OSError as error:  # noqa: PERF203 - the loop is there for the exception
                now = time.monotonic()
                deadline = now + self.limit_s if deadline is None else deadline
                if now >= deadline or not is_passing(error):
                    raise
                time.sleep(min(pause, deadline - now))
                pause = min(2 * pause, self.longest_s)
