"""The joint layout: ingress and classifier in one process, so that no call between processes stands in an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve as ray_serve

from serve.classifier import Classifier
from serve.ingress import build_application
from serve.registry import RegistryClient

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from serve.settings import ServeSettings

__all__ = ["Joint"]


class Joint(Classifier):
    """A classifier that takes the requests itself: decodes, classifies, renders; scaled as a whole.

    Args:
        settings: Settings of the service.

    Raises:
        LeukorayError: The device cannot be used.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._registry = RegistryClient(ray_serve.get_replica_context().app_name)
        super().__init__(settings, self._registry)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the application inside the replica (`serve.ingress.Ingress`)."""
        return build_application(self._settings, self, self._registry)
