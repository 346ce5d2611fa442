"""Clients of the service: of the application in this process, and of the service over a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from local_service import local_application
from service import LIMITS
from starlette.testclient import TestClient

from serve.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def application_client(small_bundle: Path) -> Iterator[httpx.Client]:
    limits = {name.replace("-", "_"): value for name, value in LIMITS.items()}
    app, _ = local_application(ServeSettings(bundle=small_bundle, device="cpu", batch_size=4, **limits))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(application_client: httpx.Client) -> httpx.Client:
    """A client of the whole application with the real network, without Ray and sockets: what needs neither is quick."""
    return application_client


@pytest.fixture
def remote(served: str) -> Iterator[httpx.Client]:
    """A client of the service that runs in processes of its own."""
    with httpx.Client(base_url=served, timeout=30) as client:
        yield client
