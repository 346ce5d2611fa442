"""What all replicas of the service share, on whatever node they run, and whenever they start.

That is the bundle that was accepted last, the one that was refused last, and the counters of every ingress. It lives
in a small detached actor of Ray's, which outlives replicas and redeployments. Where the actor itself is lost, the
replicas make a new one and tell it what they know, within a few seconds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import RayActorError

from core import __version__
from core.errors import LeukorayError
from serve.metrics import Snapshot, add_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.actor import ActorHandle

__all__ = [
    "Accepted",
    "AnyRegistry",
    "Refused",
    "Registry",
    "RegistryClient",
    "RegistryError",
    "SharedState",
    "remove_registry",
]

_NAMESPACE = "leukoray"
_ALIVE_S = 20.0
_RETIRED_S = 3600.0
_IDLE_S = 600.0
_ANSWER_S = 30.0
_TRIES = 3


class RegistryError(LeukorayError):
    """The registry does not answer."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The bundle that was accepted last, which every classifier must serve.

    Attributes:
        folder: Path of its folder.
        id: Identity of the bundle that the folder held then.
    """

    folder: str
    id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that was asked for and could not be used.

    Attributes:
        bundle: The bundle as the config names it.
        reason: A sentence that says why.
    """

    bundle: str
    reason: str


@dataclass(frozen=True, slots=True)
class SharedState:
    """What a classifier is told.

    Attributes:
        accepted: The bundle to serve; None where no classifier has accepted one yet.
        refused: The bundle that was asked for last, where it was refused.
        served_elsewhere: Identities of the bundles that the other live classifiers serve.
    """

    accepted: Accepted | None
    refused: Refused | None
    served_elsewhere: frozenset[str]


class Registry:
    """The shared state itself; nothing in it waits or fails.

    Args:
        clock: Function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accepted: Accepted | None = None
        self._refused: Refused | None = None
        self._serving: dict[str, tuple[str, float]] = {}
        self._counters: dict[str, tuple[Snapshot, float]] = {}
        self._retired = Snapshot()
        self._used = clock()

    def read(self, replica: str) -> SharedState:
        """Return the state, as the classifier `replica` sees it."""
        now = self._used = self._clock()
        self._serving = {name: entry for name, entry in self._serving.items() if now - entry[1] < _ALIVE_S}
        elsewhere = frozenset(bundle for name, (bundle, _) in self._serving.items() if name != replica)
        return SharedState(self._accepted, self._refused, elsewhere)

    def accept(self, replica: str, accepted: Accepted) -> SharedState:
        """Remember the bundle that a classifier has loaded and checked; every other one follows."""
        self._accepted, self._refused = accepted, None
        return self.report(replica, accepted)

    def refuse(self, replica: str, refused: Refused) -> SharedState:
        """Remember a bundle that a classifier could not use."""
        self._refused = refused
        return self.read(replica)

    def report(self, replica: str, served: Accepted) -> SharedState:
        """Note what a classifier serves, which is accepted where nothing is yet."""
        self._serving[replica] = (served.id, self._clock())
        self._accepted = self._accepted or served
        return self.read(replica)

    def count(self, replica: str, counters: Snapshot) -> Snapshot:
        """Take the counters of an ingress, and return the sum over all ingresses that there ever were."""
        now = self._used = self._clock()
        self._counters[replica] = (counters, now)
        for name in [name for name, (_, at) in self._counters.items() if now - at > _RETIRED_S]:
            self._retired = add_up([self._retired, self._counters.pop(name)[0].without_gauges()])
        live = [one if now - at < _ALIVE_S else one.without_gauges() for one, at in self._counters.values()]
        return add_up([self._retired, *live])

    def idle_s(self) -> float:
        """Return the seconds since anybody last used the registry."""
        return self._clock() - self._used


class _RegistryActor(Registry):
    """The registry in a process of its own, which ends when nobody has used it for ten minutes."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=self._end_when_idle, daemon=True).start()

    def _end_when_idle(self) -> None:
        while self.idle_s() < _IDLE_S:
            time.sleep(_IDLE_S / 10)
        os._exit(0)  # ray.actor.exit_actor() works only within a call, and nobody calls any more


class AnyRegistry(Protocol):
    """Whatever passes calls on to a `Registry`."""

    async def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Return what the method of the registry returns."""
        ...


class _Lost:
    """No answer."""


class RegistryClient:
    """Calls the registry of an application; makes it where there is none.

    Args:
        application: Name of the application in Serve.
    """

    def __init__(self, application: str) -> None:
        self._name = _actor_name(application)
        self._actor: ActorHandle[Any] | None = None

    async def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Return what the method of the registry returns.

        Raises:
            RegistryError: With code ``no-registry`` where it does not answer.
        """
        for attempt in range(_TRIES):
            answer = await self._try(method, arguments)
            if not isinstance(answer, _Lost):
                return answer
            await asyncio.sleep(attempt)
        raise RegistryError("no-registry", "The registry of the service does not answer; see whether Ray is well.")

    async def _try(self, method: str, arguments: tuple[object, ...]) -> Any:  # noqa: ANN401
        try:
            return await asyncio.wait_for(self._ask(method, arguments), _ANSWER_S)
        except (RayActorError, ValueError, asyncio.TimeoutError):  # it has died, or is about to: a new one takes over
            self._actor = None
            return _Lost()

    async def _ask(self, method: str, arguments: tuple[object, ...]) -> Any:  # noqa: ANN401
        if self._actor is None:
            options = {"name": self._name, "namespace": _NAMESPACE, "lifetime": "detached", "get_if_exists": True}
            self._actor = ray.remote(_RegistryActor).options(**options, num_cpus=0).remote()
        return await getattr(self._actor, method).remote(*arguments)


def remove_registry(application: str) -> None:
    """End the registry of an application that was deleted, where there is one."""
    try:
        ray.kill(ray.get_actor(_actor_name(application), namespace=_NAMESPACE))
    except ValueError:
        return


def _actor_name(application: str) -> str:
    """Return the actor's name; another version of Leukoray has a registry of its own."""
    return f"registry-of-{application}-{__version__}"
