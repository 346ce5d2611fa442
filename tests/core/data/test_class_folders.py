from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.data.class_folders import read_class_folders, read_splits
from core.data.folds import folds_by_source
from core.data.groups import read_groups, read_linked_groups
from core.data.image_set import OUTLIER, join_images, load_images
from core.errors import DataError
from core.images.preprocessing import Preprocessing

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
        train, validation = folds_by_source(data, 4, seed)[0]
        assert not {s.source for s in train.samples} & {s.source for s in validation.samples}
        assert len(train.samples) + len(validation.samples) == 24
        assert validation.counts() == {"A": 3, "B": 3}


def test_linked_sources_stay_together_and_unknown_ones_stay_out(folders: Path) -> None:
    (folders.parent / "linked.csv").write_text("source,same_as\nA1,A0\nB3,\n")
    linked = read_linked_groups(folders.parent / "linked.csv")
    data = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"), linked)
    assert data.source_counts() == {"A": 3, "B": 3}
    train, validation = folds_by_source(data, 3, 0)[0]
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
    with pytest.raises(DataError, match="no image"):
        read_class_folders(folders).with_groups({"elsewhere/x.png": "s"})
    (folders.parent / "wrong.csv").write_text("file,field\na,b\n")
    with pytest.raises(DataError, match="columns path and source"):
        read_groups(folders.parent / "wrong.csv")


def test_sources_by_folder_and_by_name(folders: Path) -> None:
    (folders / "A" / "smear-1").mkdir()
    (folders / "A" / "1.png").rename(folders / "A" / "smear-1" / "1.png")
    data = read_class_folders(folders)
    by_folder = {s.path.name: s.source for s in data.with_sources("folder:1").samples if s.source}
    assert by_folder == {"1.png": "smear-1"}
    by_name = data.with_sources(r"name:^(\d)")
    assert {sample.source for sample in by_name.samples} == set("0123456789")
    by_file = data.with_sources(str(folders.parent / "groups.csv"))
    assert by_file.source_counts() == {"A": 4, "B": 4}
    for wrong in ("folder:x", "folder:0", "name:("):
        with pytest.raises(DataError, match=r"folder level|regular expression"):
            data.with_sources(wrong)
    with pytest.raises(DataError, match="no image"):
        data.with_sources("name:zzz")


def test_folds_divide_the_sources(folders: Path) -> None:
    data = read_class_folders(folders).with_sources(str(folders.parent / "groups.csv"))
    folds = folds_by_source(data, 4, 0)
    assert len(folds) == 4
    kept_out = [sample.path for _, validation in folds for sample in validation.samples]
    assert sorted(kept_out) == sorted(sample.path for sample in data.samples)
    for train, validation in folds:
        assert not {s.source for s in train.samples} & {s.source for s in validation.samples}


def test_halves_are_apart_and_whole(folders: Path) -> None:
    data = read_class_folders(folders)
    even, odd = data.half("even"), data.half("odd")
    assert even.counts() == odd.counts() == {"A": 6, "B": 6}
    assert {s.path for s in even.samples} | {s.path for s in odd.samples} == {s.path for s in data.samples}


def test_linked_groups_are_followed_to_their_end(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("source,same_as\na,b\nb,c\nd,\n")
    assert read_linked_groups(tmp_path / "l.csv") == {"a": "c", "b": "c", "d": ""}
    (tmp_path / "l.csv").write_text("source,same_as\na,b\nb,a\n")
    with pytest.raises(DataError, match="back to itself"):
        read_linked_groups(tmp_path / "l.csv")


def test_splits_are_told_from_classes(folders: Path) -> None:
    assert list(read_splits(folders)) == [""]
    (folders.parent / "groups.csv").rename(folders.parent.parent / "groups.csv")
    (folders.parent / "TEST" / "A").mkdir(parents=True)
    (folders / "A" / "0.png").rename(folders.parent / "TEST" / "A" / "0.png")
    splits = read_splits(folders.parent)
    assert {name: data.counts() for name, data in splits.items()} == {
        "TEST": {"A": 1, "B": 0},
        "TRAIN": {"A": 11, "B": 12},
    }


def test_joined_sets_keep_their_sources_apart(folders: Path) -> None:
    loaded = load_images(read_class_folders(folders).samples, Preprocessing(height=32, width=32), margin=1.25)
    joined = join_images([loaded, loaded])
    assert joined.pixels.shape == (48, 40, 40, 3)
    assert joined.inputs.shape == (48, 32, 32, 3)
    assert joined.sources.unique().numel() == 48
    assert joined.domains is not None
    assert joined.domains.tolist() == [0] * 24 + [1] * 24
    part = joined.select([30, 2])
    assert part.labels.tolist() == [joined.labels[30], joined.labels[2]]
    assert part.inputs.shape == (2, 32, 32, 3)
    assert OUTLIER not in joined.labels


def test_a_class_with_one_source_cannot_be_split(folders: Path) -> None:
    groups = read_groups(folders.parent / "groups.csv")
    data = read_class_folders(folders).with_groups({path: "A0" if "/A/" in path else s for path, s in groups.items()})
    with pytest.raises(DataError, match="single source"):
        folds_by_source(data, 5, 0)


def test_the_real_data_has_the_published_counts(blood_cells: Path) -> None:
    data = read_class_folders(blood_cells / "images" / "TRAIN").with_groups(read_groups(blood_cells / "sources.csv"))
    assert sum(data.counts().values()) == 9_957
    assert data.source_counts() == {"EOSINOPHIL": 75, "LYMPHOCYTE": 27, "MONOCYTE": 16, "NEUTROPHIL": 159}
