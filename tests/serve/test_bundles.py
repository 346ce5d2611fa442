"""Which bundle serves: the one that was accepted last, wherever and whenever a classifier starts."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from local_service import LocalRegistry, local_classifier

from core.errors import BundleError
from core.model.bundle import load_bundle, save_bundle
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

    from serve.classifier import Classifier


def write_bundle(small_bundle: Path, folder: Path, seed: int) -> Path:
    """Save the small bundle with other weights."""
    first = load_bundle(small_bundle)
    torch.manual_seed(seed)
    with torch.no_grad():
        first.network.get_classifier().bias.add_(torch.randn(len(first.class_names)))
    save_bundle(folder, first.network, first.class_names, first.record, None, "# Another\n")
    return folder


@pytest.fixture
def settings(small_bundle: Path) -> ServeSettings:
    return ServeSettings(bundle=small_bundle, device="cpu", batch_size=1)


@pytest.fixture
def second(small_bundle: Path, tmp_path: Path) -> Path:
    return write_bundle(small_bundle, tmp_path / "second", 99)


@pytest.fixture
def damaged(second: Path, tmp_path: Path) -> Path:
    shutil.copytree(second, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return tmp_path / "damaged"


def named(folder: Path) -> dict[str, Any]:
    return {"bundle": str(folder)}


def change(classifier: Classifier, folder: Path) -> None:
    asyncio.run(classifier.reconfigure(named(folder)))


def served(classifier: Classifier) -> str:
    return asyncio.run(classifier.describe())[0].id


def refused(classifier: Classifier) -> str:
    return (asyncio.run(classifier.describe())[1] or {}).get("bundle", "")


def test_a_replica_that_starts_while_the_config_names_a_refused_bundle(
    settings: ServeSettings, second: Path, damaged: Path
) -> None:
    registry, accepted = LocalRegistry(), load_bundle(second).id
    first = local_classifier(settings, registry)
    change(first, second)
    change(first, damaged)
    assert (served(first), refused(first)) == (accepted, str(damaged))
    for _ in range(2):  # a restart, and one more
        started = local_classifier(settings, registry, named(damaged))
        assert (served(started), refused(started)) == (accepted, str(damaged))


def test_replicas_that_refuse_at_the_same_time_agree(settings: ServeSettings, second: Path, damaged: Path) -> None:
    registry = LocalRegistry()
    classifiers = [local_classifier(settings, registry) for _ in range(2)]

    async def all_change(folder: Path) -> None:
        await asyncio.gather(*(one.reconfigure(named(folder)) for one in classifiers))
        await asyncio.gather(*(one.check_health() for one in classifiers))

    asyncio.run(all_change(second))
    asyncio.run(all_change(damaged))
    assert {served(one) for one in classifiers} == {load_bundle(second).id}
    assert {refused(one) for one in classifiers} == {str(damaged)}


def test_a_repaired_bundle_is_not_taken_by_a_restart_alone(
    settings: ServeSettings, second: Path, damaged: Path, small_bundle: Path
) -> None:
    registry = LocalRegistry()
    first = local_classifier(settings, registry)
    change(first, damaged)
    shutil.copy(second / "model.safetensors", damaged / "model.safetensors")
    started = local_classifier(settings, registry, named(damaged))
    assert served(started) == load_bundle(small_bundle).id
    change(first, damaged)  # asked for again, it is
    asyncio.run(started.check_health())
    assert served(started) == served(first) == load_bundle(second).id
    assert refused(started) == ""


def test_a_replica_that_missed_a_change_follows_the_others(settings: ServeSettings, second: Path) -> None:
    registry = LocalRegistry()
    first, late = local_classifier(settings, registry), local_classifier(settings, registry)
    change(first, second)
    asyncio.run(late.check_health())
    assert served(late) == load_bundle(second).id


def test_a_folder_that_was_changed_is_not_mixed_in(settings: ServeSettings, small_bundle: Path, second: Path) -> None:
    registry, before = LocalRegistry(), load_bundle(second).id
    first = local_classifier(settings, registry, named(second))
    shutil.rmtree(second)
    write_bundle(small_bundle, second, 5)
    with pytest.raises(BundleError, match="was changed after it had been accepted"):
        local_classifier(settings, registry, named(second))
    asyncio.run(first.check_health())
    assert served(first) == before


def test_a_folder_that_was_changed_serves_where_nobody_else_does(
    settings: ServeSettings, small_bundle: Path, second: Path
) -> None:
    now = 0.0
    registry = LocalRegistry(lambda: now)
    local_classifier(settings, registry, named(second))
    shutil.rmtree(second)
    write_bundle(small_bundle, second, 5)
    now = 60.0
    assert served(local_classifier(settings, registry, named(second))) == load_bundle(second).id


def test_nothing_but_the_accepted_bundle_stands_in_for_a_refused_one(
    settings: ServeSettings, small_bundle: Path, second: Path, damaged: Path
) -> None:
    now = 0.0
    registry = LocalRegistry(lambda: now)
    first = local_classifier(settings, registry, named(second))
    change(first, damaged)
    shutil.rmtree(second)
    write_bundle(small_bundle, second, 5)
    now = 60.0
    with pytest.raises(BundleError, match="folder of its own"):
        local_classifier(settings, registry, named(damaged))


def test_a_registry_that_was_lost_is_told_again(settings: ServeSettings, second: Path, damaged: Path) -> None:
    first = local_classifier(settings, LocalRegistry(), named(second))
    registry = LocalRegistry()
    first.bundles._registry = registry

    async def both() -> Classifier:
        late = local_classifier_unstarted(settings, registry)
        starting = asyncio.ensure_future(late.reconfigure(named(damaged)))
        await asyncio.sleep(0.2)
        await first.check_health()
        await starting
        return late

    assert served(asyncio.run(both())) == load_bundle(second).id


def local_classifier_unstarted(settings: ServeSettings, registry: LocalRegistry) -> Classifier:
    from serve.classifier import Classifier

    return Classifier(settings, registry)


def test_a_service_that_begins_with_a_refused_bundle_serves_the_one_in_its_settings(
    settings: ServeSettings, small_bundle: Path, damaged: Path
) -> None:
    started = local_classifier(settings, LocalRegistry(), named(damaged))
    assert (served(started), refused(started)) == (load_bundle(small_bundle).id, str(damaged))
