"""An object store that speaks S3, on loopback, whose failures a test decides."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

SECRET = "wJalrXUtnFEMIsecretSECRETsecretEXAMPLEKEY"


class ObjectStore:
    """S3 by moto, in a thread; answers nothing useful during an outage.

    Attributes:
        requests: How many requests came, refused ones included.
        refused: How many of them met an outage.
    """

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._how, self._after, self._seconds, self._until = "", 0, 0.0, 0.0
        self.requests = self.refused = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        httpx.post(f"http://127.0.0.1:{self._server.server_port}/moto-api/reset").raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def uri(self, place: str, credentials: str = f"TESTKEY:{SECRET}@") -> str:
        """A place in the store, as a person writes it."""
        port = self._server.server_port
        return f"s3://{credentials}{place}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"

    def fail(self, how: str, *, after: int, seconds: float) -> None:
        """After so many more requests, and from then on for so long, answer 503 or reset the connection."""
        self._how, self._after, self._seconds, self._until = how, self.requests + after, seconds, 0.0

    def _fails_now(self) -> str:
        if not self._how or self.requests <= self._after:
            return ""
        self._until = self._until or time.monotonic() + self._seconds
        return self._how if time.monotonic() < self._until else ""

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        self.requests += 1
        if how := self._fails_now():
            self.refused += 1
            if how == "reset":
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionResetError  # which werkzeug takes for a client that is gone
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return iter([body])
        return self._application(environ, start_response)
