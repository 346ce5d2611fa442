"""Early features of one image take on the statistics of another's, while the network trains and no longer."""

from __future__ import annotations

import pytest
import torch

from core.errors import SettingsError
from core.model.network import build_network
from core.training.mixstyle import mixed_styles


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(architecture: str, *, train: bool, seed: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    network = build_network(4, architecture=architecture, size=(64, 64)).train(train)
    batch = torch.rand(6, 3, 64, 64, generator=drawn(1)) * torch.linspace(0.2, 2, 6).view(-1, 1, 1, 1)
    seen: list[torch.Tensor] = []
    stage = dict(network.named_modules())[str(network.feature_info[0]["module"])]  # type: ignore[index,union-attr]
    with mixed_styles(network, 0.3, drawn(seed)):
        hook = stage.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
        network(batch)
        hook.remove()
    network(batch)
    assert not stage._forward_hooks
    return seen


@pytest.mark.parametrize("architecture", ["resnet18", "test_efficientnet"])
def test_statistics_are_mixed_and_the_pattern_stays(architecture: str) -> None:
    (plain,) = outputs(architecture, train=False)
    results = [outputs(architecture, train=True, seed=seed)[0] for seed in range(8)]
    assert any(not torch.equal(one, results[0]) for one in results)  # some batches are mixed, some are not
    torch.manual_seed(0)
    for result in results:
        assert torch.isfinite(result).all()
        assert result.shape == plain.shape


def test_in_evaluation_nothing_is_mixed() -> None:
    one, other = outputs("test_efficientnet", train=False)[0], outputs("test_efficientnet", train=False, seed=9)[0]
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_each_map_keeps_its_pattern() -> None:
    network = torch.nn.Module()
    network.stage = torch.nn.Identity()
    network.feature_info = [{"module": "stage", "reduction": 4}]  # type: ignore[assignment]
    maps = torch.randn(5, 3, 8, 8, generator=drawn(2)) * torch.arange(1, 6).view(-1, 1, 1, 1)
    mixed = maps
    with mixed_styles(network, 0.3, drawn(0)):
        for _ in range(20):
            mixed = network.stage(maps)
            if not torch.equal(mixed, maps):
                break
    assert not torch.equal(mixed, maps)

    def pattern(part: torch.Tensor) -> torch.Tensor:
        return (part - part.mean((2, 3), keepdim=True)) / part.std((2, 3), keepdim=True)

    torch.testing.assert_close(pattern(mixed), pattern(maps), atol=1e-4, rtol=1e-3)
    deviations = mixed.std((2, 3))
    assert (deviations >= maps.std((2, 3)).min(0).values - 1e-3).all()
    assert (deviations <= maps.std((2, 3)).max(0).values + 1e-3).all()


def test_no_strength_changes_nothing_and_needs_no_stages() -> None:
    with mixed_styles(torch.nn.Linear(2, 2), 0.0, drawn(0)):
        pass
    with pytest.raises(SettingsError, match="no early stages"), mixed_styles(torch.nn.Linear(2, 2), 0.1, drawn(0)):
        pass
