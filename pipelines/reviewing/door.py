"""Who comes in: the token of the printed address, the page's own origin, JSON of a sensible size; nobody else."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from runtime.web import PAGE, STRICT, add_security_headers

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MOST_BYTES", "Door", "refusal"]

MOST_BYTES = 1 << 20
_SAFE = {"GET", "HEAD"}
_ASK = "Open the address that `leukoray review` printed; it holds a token that lets you in."


def refusal(status: int, code: str, message: str, **further: object) -> JSONResponse:
    """Return an error as all of Leukoray's services give it."""
    return JSONResponse({"error": {"code": code, "message": message, **further}}, status)


class Door:
    """ASGI middleware around the review's application.

    Args:
        app: The application.
        token: What the printed address holds.
        hosts: Names under which the server may be asked, in lower case, without ports; none: any.
        cookie: Name of the cookie that keeps the token; of this server's port, since cookies know no ports.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str], cookie: str) -> None:
        self._app, self._token, self._hosts, self._cookie = app, token, frozenset(hosts), cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message), PAGE if scope["path"] == "/" else STRICT)
            await send(message)

        answer = self._answer(scope)
        if answer is None and scope["method"] not in _SAFE:
            body = await _read(receive)
            if body is None:
                answer = refusal(413, "too-large", f"A request has at most {MOST_BYTES:,} bytes.")
            else:
                receive = _again(body)
        await (answer or self._app)(scope, receive, with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return what answers a request that does not come in; None where it may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return refusal(421, "wrong-host", "This server is not called that.")
        if scope["path"] == "/" and scope["method"] == "GET":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if given:
                return self._let_in(given)
        if not self._knows(headers):
            page = scope["path"] == "/"
            return PlainTextResponse(_ASK, 401) if page else refusal(401, "no-token", _ASK)
        return None if scope["method"] in _SAFE else _check_origin(headers, host)

    def _let_in(self, given: str) -> Response:
        """Keep the token in a cookie and take it out of the address."""
        if not self._is_token(given):
            return PlainTextResponse(f"The token in the address is not this server's. {_ASK}", 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(bearer.strip())
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return kept is not None and self._is_token(kept.value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _check_origin(headers: Headers, host: str) -> Response | None:
    """Refuse what another site lets a browser send, and what is no JSON."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return refusal(403, "foreign-origin", "Another site may not do that.")
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return refusal(403, "foreign-origin", "Another site may not do that.")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return refusal(415, "not-json", "Send application/json.")
    return None


async def _read(receive: Receive) -> bytes | None:
    """Return a request's body; None where it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BYTES or message["type"] == "http.disconnect":
            return None
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes) -> Receive:
    """Return what gives the application a body that was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
