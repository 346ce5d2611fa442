"""Files and requests that nobody should have to meet: a documented refusal, and the next good one is answered."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from hostile import encoded, hostile_contents, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = encoded(picture(), "JPEG")


@pytest.fixture(autouse=True)
def the_next_good_request_is_answered(request: pytest.FixtureRequest) -> Iterator[None]:
    client = request.getfixturevalue("remote" if "remote" in request.fixturenames else "client")
    yield
    answer = client.post("/v1/classify", content=GOOD, headers={"content-type": "image/jpeg"})
    assert answer.status_code == 200, answer.text


def refused(answer: httpx.Response, *statuses: int) -> str:
    assert answer.status_code in statuses, answer.text
    error = answer.json()["error"]
    assert error["message"]
    return error["code"]


@pytest.mark.parametrize("name", sorted(hostile_contents()))
def test_hostile_files(client: httpx.Client, name: str) -> None:
    content, codes = hostile_contents()[name]
    assert refused(client.post("/v1/classify?gradcam=true", content=content), 422) in codes
    assert refused(client.post("/v1/gradcam", content=content), 422) in codes
    if content:
        (entry,) = client.post("/v1/classify", files={"image": (name, content)}).json()["results"]
        assert entry["error"]["code"] in codes


def test_wrong_types_and_methods(client: httpx.Client) -> None:
    assert refused(client.post("/v1/classify", content=GOOD, headers={"content-type": "text/plain"}), 415)
    assert refused(client.post("/v1/classify", content=b"{}", headers={"content-type": "application/json"}), 415)
    assert refused(client.post("/v1/classify", content=GOOD, headers={"content-encoding": "gzip"}), 415)
    assert refused(client.post("/v1/classify?gradcam=maybe", content=GOOD), 400) == "malformed"
    assert refused(client.post("/v1/gradcam?strength=nan", content=GOOD), 400) == "malformed"
    assert refused(client.get("/v1/classify"), 405)
    assert refused(client.get("/v1/../../etc/passwd"), 404)
    assert refused(client.get("/" + "a" * 5_000), 404)


def test_forms(client: httpx.Client) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"nonsense", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n", b"--x--\r\n"):
        assert refused(client.post("/v1/classify", content=body, headers=kind), 400)
    assert refused(client.post("/v1/classify", content=b"a", headers={"content-type": "multipart/form-data"}), 400)
    assert refused(client.post("/v1/classify", data={"gradcam": "true"}, files={"a": GOOD}), 400) == "bad-form"
    many = [("a", (str(number), GOOD[:200])) for number in range(9)]
    assert refused(client.post("/v1/classify", files=many), 413) == "too-many-images"
    crowd = [("a", (str(number), b"")) for number in range(3_000)]
    assert refused(client.post("/v1/classify", files=crowd), 413) == "too-many-images"


def test_hostile_files_over_a_socket(remote: httpx.Client) -> None:
    for name in ("cut.tif", "bomb-real.png", "empty.jpg"):
        content, codes = hostile_contents()[name]
        assert refused(remote.post("/v1/gradcam", content=content), 422) in codes


def test_bodies_that_are_too_large(remote: httpx.Client) -> None:
    assert refused(remote.post("/v1/classify", content=b"\xff\xd8" + b"0" * 3_000_000), 413) == "body-too-large"

    def chunks() -> Iterator[bytes]:
        for _ in range(2_000):
            yield b"0" * 65_536

    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the connection is closed while it still sends
        assert refused(remote.post("/v1/classify", content=chunks()), 413) == "body-too-large"


def raw(remote: httpx.Client, data: bytes, *, wait: float = 10.0, close: bool = False) -> bytes:
    """Send bytes over a socket of its own; return the answer."""
    where = urlsplit(str(remote.base_url))
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=wait) as connection:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := connection.recv(65_536):
                answer += part
                head, found, body = answer.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if found and length and len(body) >= int(length[0][15:]):
                    break
    return answer


def head(*lines: str) -> bytes:
    return "\r\n".join(("POST /v1/classify HTTP/1.1", "Host: x", "Content-Type: image/jpeg", *lines, "", "")).encode()


def test_slow_and_lying_bodies(remote: httpx.Client) -> None:
    begun = time.monotonic()
    answer = raw(remote, head("Content-Length: 1000") + b"\xff\xd8")
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body-too-slow"
    assert 2 < time.monotonic() - begun < 8
    assert raw(remote, head("Content-Length: 99999999999999999999")).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    assert raw(remote, head("Content-Length: -1")).startswith(b"HTTP/1.1 400")
    assert raw(remote, head("Content-Length: abc")).startswith(b"HTTP/1.1 400")
    assert raw(remote, head("Content-Length: 10") + GOOD).startswith(b"HTTP/1.1 4")
    assert raw(remote, head("Transfer-Encoding: chunked") + b"zz\r\n").startswith(b"HTTP/1.1 4")
    assert b"HTTP/1.1 2" not in raw(remote, head("Content-Length: 1000") + b"\xff", close=True)


def test_nonsense_instead_of_http(remote: httpx.Client) -> None:
    assert raw(remote, b"\x16\x03\x01\x02\x00" * 50).startswith(b"HTTP/1.1 400")
    assert raw(remote, b"GET\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_huge_headers_do_not_make_it_grow(remote: httpx.Client) -> None:
    process = listener(remote)
    before = process.memory_info().rss
    answer = raw(remote, head("X: " + "a" * 20_000_000), wait=5)
    assert not answer.startswith(b"HTTP/1.1 5")
    for _ in range(5):
        raw(remote, head(*(f"X-{number}: {'b' * 1000}" for number in range(500))), wait=4)
    time.sleep(1)
    assert process.memory_info().rss - before < 150_000_000


def test_endless_chunks_do_not_make_it_grow(remote: httpx.Client) -> None:
    process = listener(remote)
    before = process.memory_info().rss
    for _ in range(20):
        with contextlib.suppress(OSError):
            raw(remote, head("Transfer-Encoding: chunked") + (b"10000\r\n" + b"0" * 65_536 + b"\r\n") * 200)
    assert process.memory_info().rss - before < 150_000_000


def test_callers_that_go_away(remote: httpx.Client) -> None:
    for _ in range(40):
        where = urlsplit(str(remote.base_url))
        connection = socket.create_connection((where.hostname or "", where.port or 0))
        connection.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD)
        connection.close()
    until = time.monotonic() + 5
    while "leukoray_waiting_images 0.0" not in remote.get("/metrics").text:
        assert time.monotonic() < until, "slots were lost"
        time.sleep(0.1)
    assert remote.post("/v1/classify", content=GOOD).status_code == 200


def listener(remote: httpx.Client) -> psutil.Process:
    port = urlsplit(str(remote.base_url)).port
    for connection in psutil.net_connections("tcp4"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    pytest.fail("nobody listens")
