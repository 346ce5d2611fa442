"""What the service counts, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from serve.messages import Answer

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The counters of one ingress replica.

    Ray exports its own, of every replica, on each node's metrics port.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        common = {"namespace": "leukoray", "registry": self._registry}
        self.requests = Histogram(
            "request_seconds", "From the first byte to the last", ("route", "status"), buckets=_SECONDS, **common
        )
        self.images = Counter("images", "Classified images", ("label", "flag"), **common)
        self.unusable = Counter("unusable_images", "Images that cannot be used", ("code",), **common)
        self.confidence = Histogram("confidence", "Largest probability", ("label",), buckets=_SHARES, **common)
        self.batches = Histogram("batch_size", "Size of the batch, once per image", buckets=_BATCHES, **common)
        self.forward = Histogram("forward_seconds", "Forward pass, once per image", buckets=_SECONDS, **common)
        self.refused = Counter("refused_requests", "Requests for which there was no room", **common)
        self.waiting = Gauge("waiting_images", "Images accepted and not answered yet", **common)

    def observe(self, answer: Answer) -> None:
        """Count one classified image."""
        prediction = answer.prediction
        if prediction is None:
            return
        self.images.labels(prediction.label, prediction.flag or "none").inc()
        self.confidence.labels(prediction.label).observe(prediction.confidence)
        self.batches.observe(answer.batch_size)
        self.forward.observe(answer.seconds)

    def expose(self) -> tuple[bytes, str]:
        """Return everything in Prometheus's text format, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
