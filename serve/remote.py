"""The classifier of the split layout, as an ingress sees it: in another process."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from serve.errors import BusyError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from serve.messages import Answer, Item, Model

__all__ = ["RemoteClassifier"]

_READY_S = 3.0


class RemoteClassifier:
    """Asks the classifiers of the application.

    Args:
        handle: Handle of the deployment that holds the network.
        retry_after_s: Seconds after which a caller who is refused may come back.
    """

    def __init__(self, handle: DeploymentHandle, retry_after_s: int) -> None:
        # By gRPC with plain pickle, a third of what a call of an actor costs; both ends are our own processes. There
        # is no public name for the choice of gRPC; tests/serve/test_private_names.py says when this one goes.
        self._handle = handle.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._retry_after_s = retry_after_s

    async def describe(self) -> tuple[Model, dict[str, str] | None]:
        """Ask which bundle is served, and which was refused last.

        Raises:
            BusyError: With status 503 where no classifier answers.
        """
        model, refused = await self._ask(self._handle.describe.remote(), _READY_S)
        _on_one_thread()
        return model, refused

    async def classify(self, item: Item) -> Answer:
        """Ask about one cell.

        Raises:
            BusyError: With status 429 where the classifiers are full, or 503 where none answers.
        """
        answer: Answer = await self._ask(self._handle.classify.remote(item))
        if answer.successor is not None:
            _on_one_thread()
        return answer

    async def _ask(self, response: Any, timeout_s: float | None = None) -> Any:  # noqa: ANN401
        """Await a deployment's response; nobody waits for what a cancelled caller asked for."""
        try:
            return await (response if timeout_s is None else asyncio.wait_for(response, timeout_s))
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise BusyError("The classifiers are full; come back later.", self._retry_after_s) from None
        except (asyncio.TimeoutError, DeploymentUnavailableError, RayServeException, RayError) as error:
            reason = type(error).__name__
            raise BusyError(f"No classifier answers ({reason}).", self._retry_after_s, 503) from error


def _on_one_thread() -> None:
    """Let a learned finder run in the thread that calls it, of which there are as many as decoders."""
    if "torch" in sys.modules:  # it came with the model, whose finder runs in it
        sys.modules["torch"].set_num_threads(1)
