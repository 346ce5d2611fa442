"""What the service counts, for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from serve.messages import Answer

__all__ = ["Family", "Metrics", "Snapshot", "add_up", "render"]

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples.

    Attributes:
        name: Name of the metric.
        documentation: Sentence that says what is counted.
        type: ``counter``, ``gauge`` or ``histogram``.
        samples: Value of each sample, by its name and its sorted labels.
    """

    name: str
    documentation: str
    type: str
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of one ingress replica at one moment, or a sum of such.

    Attributes:
        families: The metrics.
    """

    families: tuple[Family, ...] = ()

    def without_gauges(self) -> Snapshot:
        """Return what remains true of a replica that is gone: what it has counted, not how it stands."""
        return Snapshot(tuple(family for family in self.families if family.type != "gauge"))


class _Page(Collector):
    """Counters in the form that Prometheus's own library renders."""

    def __init__(self, counters: Snapshot) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for family in self._counters.families:
            metric = Metric(family.name, family.documentation, family.type)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


class Metrics:
    """The counters of one ingress replica."""

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

    def snapshot(self) -> Snapshot:
        """Return all counters as they stand, without the times at which each began."""
        families: list[Family] = []
        for metric in self._registry.collect():
            samples = {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in metric.samples
                if not sample.name.endswith("_created")
            }
            families.append(Family(metric.name, metric.documentation, metric.type, samples))
        return Snapshot(tuple(families))


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of the counters of several replicas."""
    families: dict[str, Family] = {}
    for family in (family for snapshot in snapshots for family in snapshot.families):
        known = families.setdefault(family.name, Family(family.name, family.documentation, family.type, {}))
        for sample, value in family.samples.items():
            known.samples[sample] = known.samples.get(sample, 0.0) + value
    return Snapshot(tuple(families.values()))


def render(counters: Snapshot) -> tuple[bytes, str]:
    """Return counters in Prometheus's text format, and its media type."""
    page = CollectorRegistry()
    page.register(_Page(counters))
    return generate_latest(page), CONTENT_TYPE_LATEST
