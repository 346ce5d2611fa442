"""A GPU that computes nothing: torch's fake tensors know where they are, and refuse what a card would refuse.

What is copied back from it is zeros. Where parts of a computation are on different devices, torch raises what it
raises on a machine with a GPU, so that the path over the card is walked also where there is none.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pretended_gpu"]


@contextmanager
def pretended_gpu(free: int = 1 << 33) -> Iterator[None]:
    """Let torch see one GPU with so many free bytes inside the block."""
    cuda = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda: True,
        "mem_get_info": lambda _device=None: (free, 1 << 33),
        "get_device_capability": lambda _device=None: (9, 0),
        "empty_cache": lambda: None,
    }
    with (
        mock.patch.object(FakeTensorMode, "avoid_device_init", True),  # of a GPU that torch is about to believe in
        FakeTensorMode() as fake,
        _OnlyOnTheCard(fake),
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.object(torch.Tensor, "backward", _backward),
    ):
        yield


class _OnlyOnTheCard(TorchDispatchMode):
    """Computes for real what is on the CPU, and hands to the mode below it what is on the card."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(_of_the_card(part) for part in tree_leaves((args, kwargs))):
            with _disable_current_modes():
                return function(*args, **kwargs)
        if function is torch.ops.aten._local_scalar_dense.default:
            return 0
        args, kwargs = tree_map_only(torch.Tensor, self._as_fake, (args, kwargs))
        result = function(*args, **kwargs)
        if isinstance(result, FakeTensor) and result.device.type == "cpu":
            with _disable_current_modes():
                return torch.zeros(result.shape, dtype=result.dtype)
        return result

    def _as_fake(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)


def _of_the_card(part: object) -> bool:
    return isinstance(part, FakeTensor) or (isinstance(part, torch.device) and part.type == "cuda")


def _backward(loss: torch.Tensor) -> None:
    """Give every parameter that the loss depends on a gradient; torch's engine wants a card that it can ask."""
    assert loss.device.type == "cuda"
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)
        nodes += [following for following, _ in node.next_functions]
