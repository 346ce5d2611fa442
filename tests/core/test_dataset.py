from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.dataset import (
    load_images,
    read_class_folders,
    read_groups,
    read_linked_groups,
    split_by_source,
)
from core.errors import DataError
from core.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of twelve images, three views of each of four sources."""
    root = tmp_path / "TRAIN"
    rows = ["path,source"]
    for name in ("A", "B"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            cv2.imwrite(str(root / name / f"{number}.png"), np.full((20, 30, 3), number * 20, np.uint8))
            rows.append(f"TRAIN/{name}/{number}.png,{name}{number // 3}")
    (tmp_path / "groups.csv").write_text("\n".join(rows) + "\n")
    return root


def test_classes_are_the_sorted_folders(folders: Path) -> None:
    data = read_class_folders(folders)
    assert data.class_names == ("A", "B")
    assert data.counts() == {"A": 12, "B": 12}
    assert data.source_counts() == {"A": 0, "B": 0}


def test_no_source_is_on_both_sides(folders: Path) -> None:
    data = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"))
    assert data.source_counts() == {"A": 4, "B": 4}
    for seed in range(5):
        train, validation = split_by_source(data, 0.25, seed)
        assert not {s.source for s in train.samples} & {s.source for s in validation.samples}
        assert len(train.samples) + len(validation.samples) == 24
        assert validation.counts() == {"A": 3, "B": 3}


def test_linked_sources_stay_together_and_unknown_ones_stay_out(folders: Path) -> None:
    (folders.parent / "linked.csv").write_text("source,same_as\nA1,A0\nB3,\n")
    linked = read_linked_groups(folders.parent / "linked.csv")
    data = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"), linked)
    assert data.source_counts() == {"A": 3, "B": 3}
    train, validation = split_by_source(data, 0.34, 0)
    assert len(train.samples) + len(validation.samples) == 21


def test_unreadable_images_are_left_out_with_a_reason(folders: Path) -> None:
    (folders / "A" / "bad.jpg").write_bytes(b"nothing")
    loaded = load_images(read_class_folders(folders).samples, Preprocessing(height=32, width=48))
    assert loaded.pixels.shape == (24, 32, 48, 3)
    assert [(item.path.name, item.code) for item in loaded.unreadable] == [("bad.jpg", "not-an-image")]
    assert len(loaded.samples) == len(loaded.labels) == len(loaded.sources) == 24


def test_the_margin_keeps_the_scale(folders: Path) -> None:
    loaded = load_images(read_class_folders(folders).samples[:2], Preprocessing(height=32, width=48), margin=1.5)
    assert loaded.pixels.shape == (2, 48, 72, 3)


def test_the_fingerprint_sees_every_file(folders: Path) -> None:
    before = read_class_folders(folders).fingerprint
    (folders / "A" / "0.png").rename(folders / "A" / "first.png")
    assert read_class_folders(folders).fingerprint != before


def test_wrong_folders_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds the classes themselves"):
        read_class_folders_with_empty(folders.parent)
    with pytest.raises(DataError, match="no known class: B"):
        read_class_folders(folders, ["A", "C"])


def read_class_folders_with_empty(root: Path) -> None:
    (root / "EMPTY").mkdir()
    read_class_folders(root)


def test_groups_that_fit_no_image_are_refused(folders: Path) -> None:
    with pytest.raises(DataError, match="No path"):
        read_class_folders(folders).with_groups({"elsewhere/x.png": "s"})
    (folders.parent / "wrong.csv").write_text("file,field\na,b\n")
    with pytest.raises(DataError, match="columns path and source"):
        read_groups(folders.parent / "wrong.csv")


def test_a_class_with_one_source_cannot_be_split(folders: Path) -> None:
    groups = read_groups(folders.parent / "groups.csv")
    data = read_class_folders(folders).with_groups({path: "A0" if "/A/" in path else s for path, s in groups.items()})
    with pytest.raises(DataError, match="single source"):
        split_by_source(data, 0.2, 0)


def test_the_real_data_has_the_published_counts(blood_cells: Path) -> None:
    data = read_class_folders(blood_cells / "images" / "TRAIN").with_groups(read_groups(blood_cells / "sources.csv"))
    assert sum(data.counts().values()) == 9_957
    assert data.source_counts() == {"EOSINOPHIL": 75, "LYMPHOCYTE": 27, "MONOCYTE": 16, "NEUTROPHIL": 159}
