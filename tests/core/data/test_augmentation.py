"""Random views: the same from the same generator, and each amount does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.data.augment import augment
from core.data.augmentation import Augmentation
from core.images.drawings import draw_field

NOTHING = {
    "horizontal_flip": False,
    "vertical_flip": False,
    "rotation": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
}


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    rng = np.random.default_rng(0)
    fields = [draw_field("NEUTROPHIL", rng)[60:188, 90:218] for _ in range(6)]
    return torch.from_numpy(np.stack(fields))


def views(pixels: torch.Tensor, seed: int = 0, side: int = 128, **amounts: object) -> torch.Tensor:
    augmentation = Augmentation.model_validate(NOTHING | amounts)
    return augment(augmentation, pixels, side, side, torch.Generator().manual_seed(seed))


def test_nothing_changes_nothing(pixels: torch.Tensor) -> None:
    torch.testing.assert_close(views(pixels), pixels.permute(0, 3, 1, 2).float(), atol=0.02, rtol=0)


def test_the_margin_is_cut_off(pixels: torch.Tensor) -> None:
    inner = pixels[:, 16:112, 16:112].permute(0, 3, 1, 2).float()
    torch.testing.assert_close(views(pixels, side=96, margin=4 / 3), inner, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "amounts",
    [
        {"rotation": 180},
        {"horizontal_flip": True},
        {"scale": 0.2},
        {"shift": 0.1},
        {"brightness": 0.3},
        {"contrast": 0.3},
        {"saturation": 0.5},
        {"hue": 0.1},
        {"density": 0.4},
        {"stain": 0.2},
        {"illumination": 0.2},
        {"blur": 2, "blur_share": 1},
        {"noise": 20},
    ],
)
def test_each_amount_changes_the_images_and_repeats_from_its_seed(
    pixels: torch.Tensor, amounts: dict[str, float]
) -> None:
    first = views(pixels, 1, **amounts)
    assert first.shape == (6, 3, 128, 128)
    assert first.min() >= 0
    assert first.max() <= 255
    torch.testing.assert_close(first, views(pixels, 1, **amounts), atol=0, rtol=0)
    assert (first - views(pixels, 2, **amounts)).abs().mean() > 0.5
    assert (first - views(pixels)).abs().mean() > 0.5


def test_flips_mirror(pixels: torch.Tensor) -> None:
    plain = views(pixels)
    mirrored = views(pixels, 3, horizontal_flip=True)
    flipped: list[bool] = []
    for one, other in zip(plain, mirrored, strict=True):
        distances = [float((one - picture).abs().mean()) for picture in (other, other.flip(2))]
        assert min(distances) < 0.05
        flipped.append(distances[1] < distances[0])
    assert 0 < sum(flipped) < 6


def test_density_darkens_and_lightens_without_changing_white(pixels: torch.Tensor) -> None:
    white = torch.full_like(pixels, 255)
    torch.testing.assert_close(views(white, density=0.5), torch.full((6, 3, 128, 128), 255.0), atol=0.01, rtol=0)
    means = views(pixels, density=0.5).mean(dim=(1, 2, 3)) - views(pixels).mean(dim=(1, 2, 3))
    assert means.min() < 0 < means.max()


def test_blur_keeps_the_mean_and_takes_the_detail(pixels: torch.Tensor) -> None:
    plain, blurred = views(pixels), views(pixels, blur=2.5, blur_share=1)
    torch.testing.assert_close(blurred.mean(), plain.mean(), atol=0.5, rtol=0)
    detail = [(picture[..., 1:] - picture[..., :-1]).abs().mean() for picture in (plain, blurred)]
    assert detail[1] < detail[0]


def test_mild_views_change_by_a_third(pixels: torch.Tensor) -> None:
    many = pixels.repeat(20, 1, 1, 1)
    plain = many.permute(0, 3, 1, 2).float().mean((1, 2, 3))
    change = {
        share: (views(many, brightness=0.3, mild_share=share).mean((1, 2, 3)) / plain - 1).abs()
        for share in (0.0, 0.5, 1.0)
    }
    assert change[1.0].max() <= 0.1 + 1e-3
    assert change[0.0].max() > 0.15
    assert change[1.0].median() < change[0.5].median() < change[0.0].median()
