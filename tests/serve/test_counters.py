"""The counters of several ingresses: one page, whichever of them answers, that never falls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import httpx
import pytest
from hostile import encoded, picture
from local_service import LocalRegistry, local_classifier
from prometheus_client.parser import text_string_to_metric_families

from serve.ingress import build_application
from serve.metrics import Metrics, add_up, render
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

GOOD = encoded(picture(), "JPEG")


def values(page: str) -> dict[tuple[str, ...], float]:
    """Read a page as Prometheus does."""
    families = text_string_to_metric_families(page)
    return {
        (sample.name, *sorted(map(str, sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_scrapes_of_two_ingresses_never_fall(small_bundle: Path) -> None:
    settings = ServeSettings(bundle=small_bundle, device="cpu", batch_size=2)
    registry = LocalRegistry()
    classifier = local_classifier(settings, registry)
    apps = [build_application(settings, classifier, registry) for _ in range(2)]

    async def main() -> list[dict[tuple[str, ...], float]]:
        clients = [httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") for app in apps]
        pages: list[dict[tuple[str, ...], float]] = []
        for turn in range(6):
            for _ in range(1 + turn % 2):
                await clients[turn % 2].post("/v1/classify", content=GOOD)
            pages += [values((await client.get("/metrics")).text) for client in clients]
        return pages

    pages = asyncio.run(main())
    for before, after in itertools.pairwise(pages):
        fallen = [name for name, value in before.items() if after.get(name, -1.0) < value]
        assert fallen == []
    total = sum(value for name, value in pages[-1].items() if name[0] == "leukoray_images_total")
    assert total == 9


def test_an_ingress_reports_while_it_runs_and_at_its_end() -> None:
    from serve.counters import SharedCounters

    registry, metrics = LocalRegistry(), Metrics()

    async def main() -> float:
        counters = SharedCounters(metrics, registry)
        async with counters.reporting(None):
            await asyncio.sleep(0.05)
            metrics.refused.inc()
        other = SharedCounters(Metrics(), registry)
        page = render(await other.total())[0].decode()
        return values(page)["leukoray_refused_requests_total",]

    assert asyncio.run(main()) == 1.0


def test_what_a_replica_counted_outlives_it_and_how_it_stood_does_not() -> None:
    clock = [0.0]
    registry = LocalRegistry(lambda: clock[0])
    gone, lives = Metrics(), Metrics()
    for metrics in (gone, lives):
        metrics.refused.inc(2)
        metrics.waiting.set(3)

    def total() -> tuple[float, float]:
        found = values(render(registry.count("lives", lives.snapshot()))[0].decode())
        return found["leukoray_refused_requests_total",], found["leukoray_waiting_images",]

    registry.count("gone", gone.snapshot())
    assert total() == (4.0, 6.0)
    for now in (60.0, 4_000.0, 9_000.0):
        clock[0] = now
        assert total() == (4.0, 3.0)


def test_sums_are_of_equal_labels() -> None:
    one, two = Metrics(), Metrics()
    one.images.labels("MONOCYTE", "none").inc()
    two.images.labels("MONOCYTE", "none").inc(2)
    two.images.labels("MONOCYTE", "low-confidence").inc()
    two.batches.observe(3)
    found = values(render(add_up([one.snapshot(), two.snapshot()]))[0].decode())
    assert found["leukoray_images_total", "('flag', 'none')", "('label', 'MONOCYTE')"] == 3
    assert found["leukoray_images_total", "('flag', 'low-confidence')", "('label', 'MONOCYTE')"] == 1
    assert found["leukoray_batch_size_bucket", "('le', '4.0')"] == 1


@pytest.mark.usefixtures("cluster")
def test_a_registry_that_dies_is_made_again() -> None:
    import ray

    from serve.registry import Accepted, Refused, RegistryClient, remove_registry

    name, accepted = "application-of-a-test", Accepted("/models/a", "a")

    async def main() -> None:
        first, second = RegistryClient(name), RegistryClient(name)
        await first.call("accept", "one", accepted)
        await first.call("refuse", "one", Refused("/models/b", "damaged"))
        state = await second.call("read", "two")
        assert (state.accepted, state.refused.bundle, state.served_elsewhere) == (accepted, "/models/b", {"a"})
        ray.kill(first._actor)
        with contextlib.suppress(ray.exceptions.RayActorError):  # the order to die is on its way
            while True:
                await first._actor.__ray_ready__.remote()
        assert (await second.call("read", "two")).accepted is None
        assert (await first.call("report", "one", accepted)).accepted == accepted
        assert (await second.call("read", "two")).accepted == accepted
        counters = Metrics()
        counters.refused.inc()
        await first.call("count", "one", counters.snapshot())
        page = render(await second.call("count", "two", counters.snapshot()))[0].decode()
        assert values(page)["leukoray_refused_requests_total",] == 2

    try:
        asyncio.run(main())
    finally:
        remove_registry(name)
    with pytest.raises(ValueError, match="registry-of"):
        ray.get_actor(f"registry-of-{name}", namespace="leukoray")
