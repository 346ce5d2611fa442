"""Class folders: what is a data set and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.data.class_folders import read_class_folders, read_splits
from core.data.folds import folds_by_source
from core.data.groups import read_groups, read_linked_groups
from core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_classes_are_the_sorted_folders(folders: Path) -> None:
    data = read_class_folders(folders)
    assert data.class_names == ("A", "B")
    assert data.counts() == {"A": 12, "B": 12}
    assert data.source_counts() == {"A": 0, "B": 0}


def test_linked_sources_stay_together_and_unknown_ones_stay_out(folders: Path) -> None:
    (folders.parent / "linked.csv").write_text("source,same_as\nA1,A0\nB3,\n")
    linked = read_linked_groups(folders.parent / "linked.csv")
    data = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"), linked)
    assert data.source_counts() == {"A": 3, "B": 3}
    train, validation = folds_by_source(data, 3, 0)[0]
    assert len(train.samples) + len(validation.samples) == 21


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


def test_halves_are_apart_and_whole(folders: Path) -> None:
    data = read_class_folders(folders)
    even, odd = data.half("even"), data.half("odd")
    assert even.counts() == odd.counts() == {"A": 6, "B": 6}
    assert {s.path for s in even.samples} | {s.path for s in odd.samples} == {s.path for s in data.samples}


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


def test_the_real_data_has_the_published_counts(blood_cells: Path) -> None:
    data = read_class_folders(blood_cells / "images" / "TRAIN").with_groups(read_groups(blood_cells / "sources.csv"))
    assert sum(data.counts().values()) == 9_957
    assert data.source_counts() == {"EOSINOPHIL": 75, "LYMPHOCYTE": 27, "MONOCYTE": 16, "NEUTROPHIL": 159}


@pytest.mark.parametrize("name", ["Band neutrophil (früh)", "Blast, atypical", "T+B", "A&B", "fru\u0308h", "3.5", "形"])
def test_names_as_people_write_them_are_classes(folders: Path, name: str) -> None:
    (folders / "B").rename(folders / name)
    assert name in read_class_folders(folders).class_names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("A=B", r"'A=B' cannot be .* it has equals sign; use letters, digits, spaces and - _ \. , \+ & \( \)"),
        ("früh<b>", "'früh<b>' cannot .* it has less-than sign, greater-than sign"),
        ("x" * 65, "more than 64 bytes; shorten"),
        ("accuracy", "tables use this word"),
        ("--", "needs a letter or a digit"),
        (" a", "no space at its ends"),
        ("a\tb", "it has u\\+0009"),
    ],
)
def test_names_that_tables_or_pages_cannot_hold_are_refused_by_what_is_wrong(
    folders: Path, name: str, problem: str
) -> None:
    (folders / "B").rename(folders / name)
    with pytest.raises(DataError, match=problem) as refused:
        read_class_folders(folders)
    assert refused.value.code == "bad-class-name"
