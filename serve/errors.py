"""What a caller is told: the status that belongs to each error, and its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from core.errors import ImageError, LeukorayError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BusyError", "RequestError", "error_response", "status_of"]


class RequestError(LeukorayError):
    """A request that is not answered with a result.

    Attributes:
        status: HTTP status.
        headers: Headers of the response.
    """

    def __init__(self, code: str, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, str, int, dict[str, str]]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Survive the trip between Ray processes, which pickle exceptions."""
        return type(self), (self.code, self.message, self.status, self.headers)


class BusyError(RequestError):
    """There is no room now; ``Retry-After`` says when to come back."""

    def __init__(self, message: str, retry_after_s: int, status: int = 429) -> None:
        super().__init__(
            "busy" if status == 429 else "unavailable", message, status, {"Retry-After": str(retry_after_s)}
        )

    def __reduce__(self) -> tuple[type[BusyError], tuple[str, int, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Survive the trip between Ray processes, which pickle exceptions."""
        return type(self), (self.message, int(self.headers["Retry-After"]), self.status)


def status_of(error: LeukorayError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return 422 if isinstance(error, ImageError) else 500


def error_response(error: LeukorayError, path: str) -> JSONResponse:
    """Render an error as the route's family documents it: an object, or a sentence under ``/v2``."""
    headers = error.headers if isinstance(error, RequestError) else {}
    content = (
        {"error": error.message}
        if path.startswith("/v2")
        else {"error": {"code": error.code, "message": error.message}}
    )
    return JSONResponse(content, status_of(error), dict(headers))
