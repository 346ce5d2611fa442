"""What every request passes: keys, headers, errors as documented, the access log, the clock."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.datastructures import Headers, MutableHeaders

from runtime.web import PAGE, STRICT, add_security_headers
from serve.errors import RequestError, error_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.metrics import Metrics

__all__ = ["Gate"]

_OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
_OPEN_UNDER = ("/assets/", "/docs/", "/v2/health/")
_DOCS = PAGE.replace("script-src 'self'", "script-src 'self' 'unsafe-inline'").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)
_POLICIES = {"/": PAGE, "/docs": _DOCS}
_CLIENT_GONE = 499
"""Status in the log where the client went away before there was an answer."""

_UNFORESEEN = RequestError("internal", "The service failed; its log says why.", 500)
_LONGEST_ID = 128
_log = logging.getLogger("ray.serve")


class _Identity(NamedTuple):
    """The name of a request in the log and in the header ``X-Request-ID``."""

    id: str
    given: bool


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        keys: Keys of which a caller needs one; none: open to all.
        metrics: Counters of this ingress.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = _CLIENT_GONE
        identity = _identify(scope)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                add_security_headers(headers, _POLICIES.get(scope["path"], STRICT))
                if not identity.given:
                    headers["x-request-id"] = identity.id
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (self._app if refusal is None else refusal)(scope, receive, watched)
        except Exception as error:
            _log.exception("request %s failed", identity.id, exc_info=error)
            if status != _CLIENT_GONE:  # the answer has begun: all that is left is to close the connection
                raise
            await error_response(_UNFORESEEN, scope["path"])(scope, receive, watched)
        finally:
            self._log_request(scope, identity.id, status, time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return what answers a caller without a key."""
        path = scope["path"]
        if not self._digests or path in _OPEN or path.startswith(_OPEN_UNDER):
            return None
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        digest = hashlib.sha256(given.encode()).digest()
        # All keys are compared, so that the time says nothing of which one was near.
        if sum(hmac.compare_digest(digest, known) for known in self._digests):
            return None
        error = RequestError(
            "no-key",
            "A key is needed, in the header X-API-Key or as Authorization: Bearer." if not given else "Unknown key.",
            401,
            {"WWW-Authenticate": "Bearer"},
        )
        return error_response(error, path)

    def _log_request(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(route, str(status)).observe(seconds)
        line: dict[str, Any] = {
            "event": "request",
            "id": identity,
            "method": scope["method"][:16],
            "path": route if route != "none" else scope["path"][:128],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "bytes": scope.get("leukoray.bytes", 0),
            "images": scope.get("leukoray.images", 0),
        }
        _log.info(json.dumps(line))


def _identify(scope: Scope) -> _Identity:
    """Return the request's own name, or a new one.

    Ray Serve gives one to a request that has none, and puts the header on the answer wherever there is one.
    """
    given = Headers(scope=scope).get("x-request-id", "")[:_LONGEST_ID]
    return _Identity(given, given=True) if given else _Identity(uuid.uuid4().hex, given=False)
