"""Which bundle a classifier serves: the one that was accepted last, wherever and whenever the classifier starts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from core.errors import BundleError, LeukorayError
from core.settings import Settings
from serve.registry import Accepted, Refused, RegistryError, SharedState

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.model.predictor import Predictor
    from serve.messages import Model
    from serve.registry import AnyRegistry

__all__ = ["Loaded", "ModelConfig", "ServedBundles"]

_PATIENCE_S = 12.0
_PAUSE_S = 0.5
_UNUSABLE = (LeukorayError, ValidationError, OSError, RuntimeError, ValueError, MemoryError)
_log = logging.getLogger("ray.serve")


class ModelConfig(Settings):
    """The Classifier's ``user_config``: what may change while it serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path | None = Field(None, description="folder of the model to switch to; none: the one in the settings")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle that was loaded and has proved that it works.

    Attributes:
        folder: Folder that it was read from.
        model: What the rest of the service needs to know of it.
        predictor: Predictor that uses it.
    """

    folder: Path
    model: Model
    predictor: Predictor

    @property
    def accepted(self) -> Accepted:
        """The same, as the registry knows it."""
        return Accepted(str(self.folder), self.model.id)


class ServedBundles:
    """The bundles that one classifier holds: the one it serves, and the one before.

    Several classifiers, and one that starts while the config names a bundle that was refused, agree through the
    registry. The bundle before stays loaded, for the images that were prepared for it.

    Args:
        load: Function that loads and checks a bundle; called in a thread.
        default: Folder of the bundle that is served where the config names none.
        registry: Registry of the application.
        replica: Name of this classifier, unlike that of any other.
        patience_s: Seconds to wait, at the start, for others to say which bundle was accepted, where the one that the
            config names is refused.
    """

    def __init__(
        self,
        load: Callable[[Path], Loaded],
        default: Path,
        registry: AnyRegistry,
        replica: str,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._load, self._default, self._registry, self._replica = load, default, registry, replica
        self._patience_s = patience_s
        self._loaded: list[Loaded] = []
        self._changing = asyncio.Lock()
        self.refused: Refused | None = None

    @property
    def current(self) -> Loaded:
        """The bundle that is served.

        Raises:
            BundleError: With code ``no-bundle`` before `change` has been called.
        """
        if not self._loaded:
            raise BundleError("no-bundle", "The classifier has no bundle yet; wait until it is ready.")
        return self._loaded[0]

    def find(self, bundle: str) -> Loaded | None:
        """Return the bundle with this identity, where this classifier still holds it."""
        return next((loaded for loaded in self._loaded if loaded.model.id == bundle), None)

    async def change(self, user_config: dict[str, Any] | None) -> None:
        """Switch to the bundle that the config names; where it cannot be used, serve the one accepted last.

        Raises:
            LeukorayError: A classifier that starts can serve neither.
        """
        async with self._changing:
            state: SharedState = await self._registry.call("read", self._replica)
            name = str((user_config or {}).get("bundle") or self._default)
            if not self._loaded and state.accepted and state.refused and state.refused.bundle == name:
                self.refused = state.refused
                await self._follow(state.accepted)
                return
            try:
                wanted = ModelConfig.model_validate(user_config or {}).bundle or self._default
                loaded = await asyncio.to_thread(self._load, wanted)
            except _UNUSABLE as error:
                await self._refuse(Refused(name, str(error)))
                return
            self._check_unchanged(loaded, state)
            self.refused = None
            self._serve(loaded)
            await self._registry.call("accept", self._replica, loaded.accepted)

    async def agree(self) -> None:
        """Report what is served, and switch where another bundle was accepted since; called every few seconds.

        Raises:
            LeukorayError: This classifier cannot serve the bundle that the others serve.
        """
        if not self._loaded:
            await self.change({})
        if self._changing.locked():
            return
        async with self._changing:
            try:
                state: SharedState = await self._registry.call("report", self._replica, self.current.accepted)
            except RegistryError as error:
                _log.warning("%s", error)
                return
            self.refused = state.refused
            if state.accepted is not None:
                await self._follow(state.accepted)

    def _check_unchanged(self, loaded: Loaded, state: SharedState) -> None:
        """Refuse, at the start, a folder in which other classifiers found another bundle that they still serve."""
        accepted = state.accepted
        starts_late = not self._loaded and accepted is not None and accepted.id in state.served_elsewhere
        if starts_late and accepted is not None and accepted.folder == str(loaded.folder):
            _check_identity(loaded, accepted)

    async def _refuse(self, refused: Refused) -> None:
        state: SharedState = await self._registry.call("refuse", self._replica, refused)
        self.refused = refused
        _log.error("bundle %s refused, the one accepted last serves on: %s", refused.bundle, refused.reason)
        if not self._loaded:
            await self._fall_back(state)

    async def _fall_back(self, state: SharedState) -> None:
        """Serve, at the start, what was accepted last; the bundle of the settings where nothing was."""
        until = asyncio.get_running_loop().time() + self._patience_s
        while state.accepted is None and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_PAUSE_S)  # a registry that was lost is told again by those who serve
            state = await self._registry.call("read", self._replica)
        if state.accepted is None:
            loaded = await asyncio.to_thread(self._load, self._default)
            state = await self._registry.call("report", self._replica, loaded.accepted)
            if state.accepted == loaded.accepted:
                self._serve(loaded)
                return
        if state.accepted is not None:
            await self._follow(state.accepted)

    async def _follow(self, accepted: Accepted) -> None:
        """Serve the bundle that was accepted, and no other.

        Raises:
            BundleError: With code ``bundle-changed`` where its folder holds another one by now.
        """
        if self._loaded and self.current.model.id == accepted.id:
            return
        loaded = self.find(accepted.id)
        if loaded is None:
            loaded = await asyncio.to_thread(self._load, Path(accepted.folder))
            _check_identity(loaded, accepted)
        self._serve(loaded)

    def _serve(self, loaded: Loaded) -> None:
        if not self._loaded or loaded.model.id != self.current.model.id:
            self._loaded = [loaded, *self._loaded[:1]]
            _log.warning("bundle %s serves now", loaded.model.id)


def _check_identity(loaded: Loaded, accepted: Accepted) -> None:
    if loaded.model.id != accepted.id:
        raise BundleError(
            "bundle-changed",
            f"The bundle in {accepted.folder} was changed after it had been accepted ({accepted.id[:12]} then,"
            f" {loaded.model.id[:12]} now); give the new one a folder of its own and name that in user_config.",
        )
