from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import encoded, picture

from core.errors import DataError
from pipelines.classification.slides import Entry, list_slides
from pipelines.classification.storage import open_folder

PROJECT = Path(__file__).resolve().parents[2]


def listed(root: Path) -> dict[tuple[str, str], Entry]:
    return {(entry.slide, entry.image): entry for entry in list_slides(open_folder(str(root))) if entry}


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_is_a_slide_and_loose_images_belong_to_the_top(tmp_path: Path) -> None:
    root = tmp_path / "batch-7"
    for name in ("a/1.jpg", "a/deep/er/2.PNG", "b/1.jpg", "loose.tif"):
        touch(root / name)
    assert set(listed(root)) == {("a", "1.jpg"), ("a", "deep/er/2.PNG"), ("b", "1.jpg"), ("batch-7", "loose.tif")}


def test_a_slide_named_like_the_folder_does_not_collide_with_loose_images(tmp_path: Path) -> None:
    root = tmp_path / "S"
    touch(root / "S" / "1.jpg")
    touch(root / "1.jpg")
    assert len(listed(root)) == 2


def test_what_is_no_image_is_left_alone_and_counted(tmp_path: Path) -> None:
    for name in ("a/notes.txt", "a/Thumbs.db", "a/table.csv", "a/.hidden.jpg", ".cache/1.jpg"):
        touch(tmp_path / name)
    entries = list(list_slides(open_folder(str(tmp_path))))
    assert entries == [None] * 5


def test_an_image_without_an_ending_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "cell", encoded(picture(), "JPEG"))
    touch(tmp_path / "a" / "cell.dat", encoded(picture(), "WEBP"))
    assert {image for _, image in listed(tmp_path)} == {"cell", "cell.dat"}


def test_things_that_are_no_files_are_listed_with_a_reason(tmp_path: Path) -> None:
    slide = tmp_path / "a"
    touch(slide / "x.png" / "inside.jpg")
    (slide / "loop.jpg").symlink_to(slide / "loop.jpg")
    (slide / "gone.jpg").symlink_to(slide / "nowhere.jpg")
    (slide / "back").symlink_to(slide)
    (slide / "up").symlink_to(tmp_path)
    os.mkfifo(slide / "pipe.jpg")
    entries = {image: entry.code for (_, image), entry in listed(tmp_path).items()}
    assert entries == {
        "x.png": "not-a-file",
        "x.png/inside.jpg": "",
        "loop.jpg": "symlink-loop",
        "gone.jpg": "not-found",
        "back": "symlink-loop",
        "up": "symlink-loop",
        "pipe.jpg": "not-a-file",
    }


def test_a_link_to_another_slide_is_not_listed_twice(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert {(entry.slide, entry.image, entry.code) for entry in listed(tmp_path).values()} == {
        ("a", "1.jpg", ""),
        (tmp_path.name, "b", "linked-twice"),
    }


def test_no_depth_of_folders_is_too_deep(tmp_path: Path) -> None:
    deep = tmp_path / "s" / "/".join(["d"] * 700)
    touch(deep / "1.jpg")
    assert [image for _, image in listed(tmp_path)] == ["/".join([*["d"] * 700, "1.jpg"])]


def test_links_to_files_and_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "1.jpg")
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "linked").symlink_to(tmp_path / "store")
    touch(slides / "b" / "x.txt")
    (slides / "b" / "one.jpg").symlink_to(tmp_path / "store" / "1.jpg")
    assert set(listed(slides)) == {("linked", "1.jpg"), ("b", "one.jpg")}


def test_the_order_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/10.jpg", "a/9.jpg", "b/1.jpg"):
        touch(tmp_path / name)
    assert list(listed(tmp_path)) == list(listed(tmp_path)) == sorted(listed(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(list_slides(open_folder(str(tmp_path / "nowhere"))))
    with pytest.raises(DataError, match="cannot be opened"):
        open_folder("nosuch://bucket/slides")


def test_a_uri_lists_what_the_path_lists(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/deep/2.png"):
        touch(tmp_path / name)
    by_uri = {(entry.slide, entry.image) for entry in list_slides(open_folder(f"file://{tmp_path}")) if entry}
    assert by_uri == set(listed(tmp_path))


def test_an_object_store_lists_what_a_disk_lists(tmp_path: Path) -> None:
    from pipelines.classification.storage import Folder

    for name in ("s/a/1.jpg", "s/b/deep/2.png", "s/loose.bmp", "s/a/notes.txt", "s/a/.hidden.png"):
        touch(tmp_path / name)
    disk = open_folder(str(tmp_path / "s"))
    store = Folder(disk.filesystem, disk.path, local=False)
    found = [entry for entry in list_slides(store) if entry]
    assert {(entry.slide, entry.image) for entry in found} == set(listed(tmp_path / "s"))
    assert all(Path(entry.path.decode()).is_file() for entry in found)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_what_may_not_be_read_is_listed_with_a_reason(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)
    touch(tmp_path / "a" / "closed.jpg", encoded(picture(), "JPEG")).chmod(0)
    touch(tmp_path / "closed" / "1.jpg").parent.chmod(0)
    script = (
        "import os, sys, pyarrow.dataset\n"
        "from pipelines.classification.slides import list_slides\n"
        "from pipelines.classification.storage import open_folder\n"
        "from pipelines.classification.worker import _describe_os_error, _read\n"
        "folder = open_folder(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "for entry in list_slides(folder):\n"
        "    code = entry.code\n"
        "    try:\n"
        "        code or _read(folder, entry.path)\n"
        "    except OSError as error:\n"
        "        code = _describe_os_error(error, folder)[0]\n"
        "    print(entry.image or entry.slide, code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert "closed.jpg permission-denied" in lines
    assert "closed permission-denied" in lines
