"""The statistics of batch norms, taken from other images and mixed with the old ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.errors import SettingsError
from core.model.adaptation import adapt_statistics
from core.model.network import build_network


def norm_of(network: nn.Module) -> nn.BatchNorm2d:
    """The first norm, whose input depends on no other norm."""
    return next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(4).eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 64, 64, generator=generator) * 3 + 1 for _ in range(3)]


def test_the_mixed_statistics_are_what_the_share_says(network: nn.Module, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        seen = network.conv1(torch.cat(batches))
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    for share in (0.0, 0.3, 1.0):
        norm = norm_of(adapt_statistics(network, batches, share))
        torch.testing.assert_close(norm.running_mean, share * mean, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(norm.running_var, (1 - share) + share * variance, atol=1e-3, rtol=2e-2)


def test_nothing_else_changes_and_the_network_given_stays_as_it_is(
    network: nn.Module, batches: list[torch.Tensor]
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapted = adapt_statistics(network, batches, 0.5)
    changed = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("running_" in name for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in adapted.modules())
    assert norm_of(adapted).momentum == norm_of(network).momentum


def test_a_share_of_nothing_gives_the_same_answers(network: nn.Module, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(adapt_statistics(network, batches, 0.0)(batches[0]), network(batches[0]))


def test_a_network_without_batch_norm_is_refused() -> None:
    network = build_network(4, architecture="test_vit")
    with pytest.raises(SettingsError, match="no batch norms") as caught:
        adapt_statistics(network, [torch.zeros(2, 3, 64, 64)], 0.5)
    assert caught.value.code == "no-batch-norm"
