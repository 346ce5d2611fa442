"""The deployment that takes requests: the FastAPI application and its surroundings."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from ray import serve as ray_serve
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from core import __version__
from core.errors import LeukorayError
from core.model.card import RESEARCH_ONLY
from core.settings import describe_problems
from runtime.web import add_file
from serve import v1, v2
from serve.counters import SharedCounters
from serve.errors import RequestError, error_response
from serve.gate import Gate
from serve.metrics import Metrics, render
from serve.priority import lower_priority
from serve.registry import RegistryClient
from serve.remote import RemoteClassifier
from serve.service import Service

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp

    from serve.registry import AnyRegistry
    from serve.service import AnyClassifier
    from serve.settings import ServeSettings

__all__ = ["Ingress", "build_application"]

_PAGE = {
    "/": ("serve", "index.html", "text/html; charset=utf-8"),
    "/assets/page.js": ("serve", "page.js", "text/javascript; charset=utf-8"),
    "/assets/page.css": ("serve", "page.css", "text/css; charset=utf-8"),
    "/assets/icon.svg": ("runtime", "icon.svg", "image/svg+xml"),
}
_NICENESS = 10
_PHRASES = {404: ("not-found", "There is nothing at this address."), 405: ("method", "The method is not allowed here.")}

operations = APIRouter(tags=["operations"])


class Ingress:
    """The front of the split layout: takes requests, decodes images, asks the classifier, renders.

    Args:
        settings: Settings of the service.
        classifier: Handle of the deployment that holds the network.
    """

    def __init__(self, settings: ServeSettings, classifier: DeploymentHandle) -> None:
        self._settings, self._classifier = settings, classifier

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the application inside the replica.

        `ray.serve.ingress` documents this name for applications that need the replica's own arguments; the builder
        function that it also takes gets none.
        """
        if self._settings.lower_priority:
            lower_priority(_NICENESS)
        registry = RegistryClient(ray_serve.get_replica_context().app_name)
        classifier = RemoteClassifier(self._classifier, self._settings.retry_after_s)
        return build_application(self._settings, classifier, registry)


def build_application(settings: ServeSettings, classifier: AnyClassifier, registry: AnyRegistry) -> FastAPI:
    """Put the application together.

    Args:
        settings: Settings of the service.
        classifier: What holds the network.
        registry: Registry that adds up the counters of all ingresses.

    Raises:
        SettingsError: The keys cannot be read.
    """
    metrics = Metrics()
    counters = SharedCounters(metrics, registry)
    app = FastAPIOffline(
        lifespan=counters.reporting,
        title="Leukoray",
        version=__version__,
        description=f"Classifies white blood cells in microscope images. {RESEARCH_ONLY}",
        redoc_url=None,
        static_url="/docs/assets",
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
    )
    app.state.service = Service(settings, classifier, metrics)
    app.state.counters = counters
    for router in (v1.router, v2.router, operations):
        app.include_router(router)
    for path, (package, name, media_type) in _PAGE.items():
        add_file(app, path, files(package).joinpath("page", name), media_type)
    for kind in (LeukorayError, HTTPException, RequestValidationError):  # the Gate answers for all others
        app.add_exception_handler(kind, _to_response)
    keys = settings.keys()
    app.add_middleware(Gate, keys=keys, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "Inference-Header-Content-Length"],
        )
    _complete_document(app, keys=bool(keys))
    return app


@operations.get("/healthz", summary="Whether the process runs", response_model=None)
async def healthz() -> Response:
    """Answer that it does."""
    return JSONResponse({"status": "alive"})


@operations.get("/readyz", summary="Whether images can be sent", response_model=None, responses={503: v1.ERRORS[503]})
async def readyz(request: Request) -> Response:
    """Ask the classifier, which is warm before it answers."""
    model, _ = await request.app.state.service.describe()
    return JSONResponse({"status": "ready", "bundle": model.id})


@operations.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_model=None,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **{status: v1.ERRORS[status] for status in (401, 503)},
    },
)
async def metrics(request: Request) -> Response:
    """Sum up the counters of all ingress replicas, whichever of them answers."""
    content, media_type = render(await request.app.state.counters.total())
    return Response(content, headers={"Content-Type": media_type})


async def _to_response(request: Request, error: Exception) -> Response:
    """Turn an error that was raised on purpose into the documented body."""
    path = request.url.path
    if isinstance(error, LeukorayError):
        return error_response(error, path)
    if isinstance(error, RequestValidationError):
        return error_response(RequestError("malformed", describe_problems(error.errors())[0]), path)
    if isinstance(error, HTTPException):
        code, sentence = _PHRASES.get(error.status_code, ("refused", str(error.detail)))
        return error_response(RequestError(code, sentence, error.status_code, error.headers), path)
    raise error


def _complete_document(app: FastAPI, *, keys: bool) -> None:
    """Add to the OpenAPI document what FastAPI does not know: the protocol's request, and that a key is needed."""
    document: dict[str, Any] = app.openapi()
    document["components"]["schemas"] |= v2.DEFINITIONS
    if keys:
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        document["security"] = [{"key": []}, {"bearer": []}]
