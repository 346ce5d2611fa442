"""The joint layout: ingress and classifier in one process, so that no call between processes stands in an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.classifier import Classifier
from serve.ingress import build_application

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Joint"]


class Joint(Classifier):
    """A classifier that takes the requests itself: decodes, classifies, renders; scaled as a whole."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the application inside the replica (`serve.ingress.Ingress`)."""
        return build_application(self._settings, self, self._registry)
