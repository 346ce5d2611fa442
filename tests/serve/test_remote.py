"""The classifier of the split layout: what Ray says of it becomes what a caller is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentID

from serve.errors import BusyError
from serve.messages import Answer
from serve.remote import RemoteClassifier


class Method:
    """What ``handle.method`` is: ``remote`` gives something to await or to cancel."""

    def __init__(self, outcome: object) -> None:
        self.outcome, self.cancelled = outcome, False

    def remote(self, *_: object) -> Method:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> object:
        if self.outcome is None:
            await asyncio.sleep(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Handle:
    """What a deployment handle is to the ingress."""

    def __init__(self, outcome: object) -> None:
        self.classify = self.describe = Method(outcome)

    def options(self, **_: object) -> Handle:
        return self


def remote(outcome: object) -> tuple[RemoteClassifier, Method]:
    handle: Any = Handle(outcome)
    return RemoteClassifier(handle, 7), handle.classify


def test_an_answer_is_passed_on() -> None:
    item: Any = None
    answer = Answer(None, batch_size=3)
    assert asyncio.run(remote(answer)[0].classify(item)) is answer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), 429),
        (DeploymentUnavailableError(DeploymentID("Classifier", "leukoray")), 503),
        (RayActorError(), 503),
    ],
)
def test_what_ray_says_becomes_a_sentence(error: Exception, status: int) -> None:
    item: Any = None
    with pytest.raises(BusyError) as caught:
        asyncio.run(remote(error)[0].classify(item))
    assert caught.value.status == status
    assert caught.value.headers["Retry-After"] == "7"


def test_nobody_waits_for_what_a_cancelled_caller_asked_for() -> None:
    classifier, method = remote(None)

    async def give_up() -> None:
        item: Any = None
        await asyncio.wait_for(classifier.classify(item), 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up())
    assert method.cancelled


def test_a_classifier_that_never_says_what_it_serves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.remote._READY_S", 0.05)
    with pytest.raises(BusyError, match="TimeoutError"):
        asyncio.run(remote(None)[0].describe())
