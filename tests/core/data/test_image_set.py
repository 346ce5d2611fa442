"""Images in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.data.class_folders import read_class_folders
from core.data.image_set import OUTLIER, join_images, load_images
from core.finding.search import CellSearch
from core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path


def test_unreadable_images_are_left_out_with_a_reason(folders: Path) -> None:
    (folders / "A" / "bad.jpg").write_bytes(b"nothing")
    loaded = load_images(read_class_folders(folders).samples, CellSearch(Preprocessing(height=32, width=48)))
    assert loaded.pixels.shape == (24, 32, 48, 3)
    assert [(item.path.name, item.code) for item in loaded.unreadable] == [("bad.jpg", "not-an-image")]
    assert len(loaded.samples) == len(loaded.labels) == len(loaded.sources) == 24


def test_the_margin_keeps_the_scale(folders: Path) -> None:
    loaded = load_images(
        read_class_folders(folders).samples[:2], CellSearch(Preprocessing(height=32, width=48)), margin=1.5
    )
    assert loaded.pixels.shape == (2, 48, 72, 3)


def test_joined_sets_keep_their_sources_apart(folders: Path) -> None:
    loaded = load_images(
        read_class_folders(folders).samples, CellSearch(Preprocessing(height=32, width=32)), margin=1.25
    )
    joined = join_images([loaded, loaded], (1.0, 2.0))
    assert joined.pixels.shape == (48, 40, 40, 3)
    assert joined.inputs.shape == (48, 32, 32, 3)
    assert joined.sources.unique().numel() == 48
    assert joined.domains is not None
    assert joined.domains.tolist() == [0] * 24 + [1] * 24
    part = joined.select([30, 2])
    assert part.labels.tolist() == [joined.labels[30], joined.labels[2]]
    assert part.inputs.shape == (2, 32, 32, 3)
    assert OUTLIER not in joined.labels
