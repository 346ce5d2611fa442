from __future__ import annotations

import copy
import warnings
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from core.errors import SettingsError
from core.images.decoder import decode
from core.model.bundle import Bundle, load_bundle
from core.model.engine import normalise_maps
from core.model.gradcam import autograd_gradcam, one_pass_gradcam
from core.model.torch_engine import forward

if TYPE_CHECKING:
    from pathlib import Path


def batch_of(bundle: Bundle, images: list[np.ndarray]) -> torch.Tensor:
    preprocessing = bundle.record.preprocessing
    pixels = np.stack([preprocessing.prepare(rgb).pixels for rgb in images])
    return preprocessing.normalise(torch.from_numpy(pixels))


@pytest.fixture(scope="module")
def real(shipped: Path, blood_cells: Path) -> tuple[Bundle, torch.Tensor]:
    """The shipped bundle and twelve real images, three of each class."""
    bundle = load_bundle(shipped)
    files = [
        path
        for folder in sorted((blood_cells / "images" / "TRAIN").iterdir())
        for path in islice(sorted(folder.iterdir()), 0, 1500, 500)
    ]
    return bundle, batch_of(bundle, [decode(path.read_bytes()).rgb for path in files])


def last_layer(network: torch.nn.Module) -> torch.nn.Module:
    """The module whose output is pooled: of ResNet18, or of EfficientNet."""
    return network.get_submodule("layer4" if hasattr(network, "layer4") else "bn2")


def assert_equal_maps(bundle: Bundle, batch: torch.Tensor) -> None:
    evidence = 0.0
    for label in range(len(bundle.class_names)):
        classes = torch.full((len(batch),), label)
        with torch.inference_mode():
            fast = one_pass_gradcam(
                forward(bundle.network, batch).feature_map, bundle.network.get_classifier().weight, classes
            )
        reference = autograd_gradcam(bundle.network, batch, classes, last_layer(bundle.network))
        evidence = max(evidence, float(reference.max()))
        torch.testing.assert_close(fast, reference, atol=1e-5, rtol=0)
        ours, theirs = (normalise_maps(maps.detach().numpy()) for maps in (fast, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    assert evidence > 0


def test_one_pass_equals_autograd_for_every_class(bundle: Bundle, fields: list[np.ndarray]) -> None:
    assert_equal_maps(bundle, batch_of(bundle, fields))


def test_one_pass_equals_autograd_on_real_images(real: tuple[Bundle, torch.Tensor]) -> None:
    assert_equal_maps(*real)


def assert_agrees_with_package(bundle: Bundle, batch: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    size = tuple(batch.shape[2:])
    for label in range(len(bundle.class_names)):
        with GradCAM(bundle.network, [last_layer(bundle.network)]) as package:
            theirs = package(batch, [ClassifierOutputTarget(label)] * len(batch))
        classes = torch.full((len(batch),), label)
        with torch.inference_mode():
            ours = one_pass_gradcam(
                forward(bundle.network, batch).feature_map, bundle.network.get_classifier().weight, classes
            )
        enlarged = torch.nn.functional.interpolate(ours[:, None], size=size, mode="bilinear", align_corners=False)
        for mine, other in zip(enlarged[:, 0].numpy(), theirs, strict=True):
            if mine.max() > 0:  # the package stretches each map to [0, 1]; so is ours for the comparison
                stretched = (mine - mine.min()) / (mine.max() - mine.min())
                np.testing.assert_allclose(stretched, other, atol=2e-2)


def test_both_agree_with_the_grad_cam_package(bundle: Bundle, fields: list[np.ndarray]) -> None:
    assert_agrees_with_package(bundle, batch_of(bundle, fields))


def test_both_agree_with_the_grad_cam_package_on_real_images(real: tuple[Bundle, torch.Tensor]) -> None:
    assert_agrees_with_package(*real)


def test_the_mean_of_the_class_map_is_the_logit(bundle: Bundle, fields: list[np.ndarray]) -> None:
    with torch.inference_mode():
        outputs = forward(bundle.network, batch_of(bundle, fields))
        maps = torch.einsum("ck,nkhw->nchw", bundle.network.get_classifier().weight, outputs.feature_map)
        torch.testing.assert_close(
            maps.mean(dim=(2, 3)) + bundle.network.get_classifier().bias, outputs.logits, atol=1e-5, rtol=1e-4
        )


def test_autograd_leaves_the_network_as_it_was(bundle: Bundle, fields: list[np.ndarray]) -> None:
    network = bundle.network
    hooks, gradients = len(network.layer2._forward_hooks), [parameter.grad for parameter in network.parameters()]
    maps = autograd_gradcam(
        network, batch_of(bundle, fields), torch.zeros(len(fields), dtype=torch.long), network.layer2
    )
    assert maps.shape == (len(fields), 8, 8)
    assert not network.training
    assert len(network.layer2._forward_hooks) == hooks
    assert all(one.grad is other for one, other in zip(network.parameters(), gradients, strict=True))


def out_of_place(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of the network in which no ReLU works in place."""
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return plain


@pytest.mark.parametrize("name", ["bn1", "layer1.0.bn2", "layer2", "layer3.1.bn1"])
def test_autograd_is_right_at_a_layer_that_an_operation_in_place_follows(
    bundle: Bundle, fields: list[np.ndarray], name: str
) -> None:
    batch, classes = batch_of(bundle, fields[:2]), torch.arange(2)
    plain = out_of_place(bundle.network)
    expected = autograd_gradcam(plain, batch, classes, plain.get_submodule(name))
    found = autograd_gradcam(bundle.network, batch, classes, bundle.network.get_submodule(name))
    assert expected.max() > 0
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_autograd_is_right_where_a_sum_in_place_follows() -> None:
    """Blocks add their input in place: the layer before the sum is compared with a hand-made derivative."""

    class Adding(torch.nn.Module):
        def __init__(self, *, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head, self.in_place = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2), in_place

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            x = self.first(batch)
            if self.in_place:
                x += 2.0
            else:
                x = x + 2.0
            return self.head(torch.relu(x).mean(dim=(2, 3)))

    batch, classes = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    one, other = Adding(in_place=True).eval(), Adding(in_place=False).eval()
    torch.testing.assert_close(
        autograd_gradcam(one, batch, classes, one.first), autograd_gradcam(other, batch, classes, other.first)
    )


def test_autograd_in_inference_mode_says_so(bundle: Bundle, fields: list[np.ndarray]) -> None:
    batch = batch_of(bundle, fields[:1])
    with torch.inference_mode(), pytest.raises(SettingsError, match="inference_mode"):
        autograd_gradcam(bundle.network, batch, torch.zeros(1, dtype=torch.long), last_layer(bundle.network))


def test_a_map_without_evidence_stays_zero() -> None:
    maps = np.stack((np.zeros((3, 3), np.float32), np.arange(9, dtype=np.float32).reshape(3, 3)))
    scaled = normalise_maps(maps)
    assert np.abs(scaled[0]).max() == 0
    assert scaled[1].max() == 1
    assert np.isfinite(scaled).all()
