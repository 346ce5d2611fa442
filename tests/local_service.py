"""The application without Ray: the joint layout, in one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from serve.classifier import Classifier
from serve.ingress import build_application
from serve.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastapi import FastAPI

    from serve.settings import ServeSettings


class LocalRegistry(Registry):
    """The registry in this process."""

    async def call(self, method: str, *arguments: object) -> Any:
        return getattr(self, method)(*arguments)


def local_classifier(
    settings: ServeSettings, registry: LocalRegistry | None = None, config: dict[str, Any] | None = None
) -> Classifier:
    """A classifier as Serve starts it."""
    classifier = Classifier(settings, registry or LocalRegistry())
    classifier.bundles._patience_s = 0.0
    asyncio.run(classifier.reconfigure(config))
    return classifier


def local_application(settings: ServeSettings) -> tuple[FastAPI, Classifier]:
    classifier = local_classifier(settings)
    return build_application(settings, classifier, LocalRegistry()), classifier


def talk(app: FastAPI, conversation: Any) -> Any:
    """Run an async function with a client of the application."""

    async def main() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://leukoray") as client:
            return await conversation(client)

    coroutine: Coroutine[Any, Any, Any] = main()
    return asyncio.run(coroutine)
