"""The application without Ray: the real ingress in front of the real classifier, in one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from serve.classifier import Classifier
from serve.ingress import build_application

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastapi import FastAPI

    from serve.settings import ServeSettings


class Method:
    """What ``handle.method`` is: ``remote`` gives something to await or to cancel."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self._function(*arguments))


class Handle:
    """What a deployment handle is to the ingress."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def options(self, **_: Any) -> Handle:
        return self

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self.classifier, name))


def local_application(settings: ServeSettings) -> tuple[FastAPI, Classifier]:
    classifier = Classifier(settings)
    return build_application(settings, Handle(classifier)), classifier  # pyright: ignore[reportArgumentType]


def talk(app: FastAPI, conversation: Any) -> Any:
    """Run an async function with a client of the application."""

    async def main() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://leukoray") as client:
            return await conversation(client)

    coroutine: Coroutine[Any, Any, Any] = main()
    return asyncio.run(coroutine)
