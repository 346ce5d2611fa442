"""Storage that fails: for a passing reason, for good, or because it is full."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from pipelines.classification import slides
from pipelines.classification.patience import Patience, is_passing
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import StorageError, open_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = Patience(limit_s=0.3, first_s=0.01)
PASSING = [
    "EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "EINTR", "EIO", "EMFILE", "ENETUNREACH", "ENFILE",
    "EPIPE", "ESTALE", "ETIMEDOUT",
]  # fmt: skip
LASTING = ["ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "ENOSPC", "EDQUOT", "EROFS", "ELOOP"]


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_told_by_its_number(name: str) -> None:
    assert is_passing(OSError(getattr(errno, name), "x"))


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_told_by_its_number(name: str) -> None:
    assert not is_passing(OSError(getattr(errno, name), "AWS Error SLOW_DOWN in a file name"))


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        (
            "When reading information for key 'a' in bucket 'b': AWS Error SLOW_DOWN during HeadObject operation: x",
            True,
        ),
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56, Failure when receiving data", True),
        ("AWS Error SERVICE_UNAVAILABLE during ListObjectsV2 operation", True),
        ("AWS Error INTERNAL_FAILURE during PutObject operation", True),
        ("AWS Error REQUEST_TIMEOUT during PutObject operation", True),
        ("AWS Error UNKNOWN (HTTP status 503) during GetObject operation: Unable to parse", True),
        ("AWS Error UNKNOWN (HTTP status 429) during GetObject operation", True),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", True),
        ("AWS Error ACCESS_DENIED during GetObject operation: Access Denied.", False),
        ("AWS Error NO_SUCH_KEY during GetObject operation", False),
        ("AWS Error RESOURCE_NOT_FOUND during HeadObject operation: No response body.", False),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation", False),
        ("AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2 operation", False),
        ("Cannot open for reading: path '/root' is a directory", False),
    ],
)
def test_an_object_store_tells_by_its_text(text: str, passing: bool) -> None:
    assert is_passing(OSError(text)) == passing


class Failing:
    """Fails so many times, then works."""

    def __init__(self, times: float, error: OSError, call: Callable[..., object]) -> None:
        self.left, self.error, self.call, self.calls = times, error, call, 0

    def __call__(self, *arguments: object, **options: object) -> object:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return self.call(*arguments, **options)


def test_every_call_is_tried_again_and_then_stops_with_a_sentence(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path), QUICK)
    folder.write("a/b.json", b"1")

    class Wrapped:
        """The file system, whose every call fails a few times."""

        def __init__(self, times: float) -> None:
            self.times, self.methods = times, {}

        def __getattr__(self, name: str) -> object:
            error = OSError("AWS Error SLOW_DOWN during X operation")
            return self.methods.setdefault(name, Failing(self.times, error, getattr(folder.filesystem, name)))

    def calls(times: float) -> list[Callable[[], object]]:
        def fresh() -> object:
            return dataclasses.replace(folder, filesystem=Wrapped(times), local=False)  # type: ignore[arg-type]

        return [
            lambda: fresh().exists("a"),  # type: ignore[attr-defined]
            lambda: fresh().is_folder(),  # type: ignore[attr-defined]
            lambda: fresh().has_content(),  # type: ignore[attr-defined]
            lambda: fresh().read("a/b.json"),  # type: ignore[attr-defined]
            lambda: fresh().read_path(f"{tmp_path}/a/b.json".encode(), 9),  # type: ignore[attr-defined]
            lambda: list(fresh().files("a", ".json")),  # type: ignore[attr-defined]
            lambda: fresh().children(str(tmp_path)),  # type: ignore[attr-defined]
            lambda: list(list_slides(fresh())),  # type: ignore[arg-type]
            lambda: fresh().write("a/c", b"2"),  # type: ignore[attr-defined]
            lambda: fresh().write_plain("a/d", b"2"),  # type: ignore[attr-defined]
        ]

    for again, never in zip(calls(2), calls(1e9), strict=True):
        assert again() not in (False, [])
        with pytest.raises(StorageError, match=r"after 0.3 s of trying.*SLOW_DOWN.*--resume") as caught:
            never()
        assert caught.value.code == "storage-fails"
        assert str(tmp_path) in caught.value.message
    assert folder.read("a/c") == folder.read("a/d") == b"2"


@pytest.mark.parametrize("call", ["stat", "scandir"])
def test_listing_a_disk_that_fails_for_a_while_misses_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    folder = open_folder(str(tmp_path), QUICK)
    error = OSError(errno.EIO, "Input/output error")
    with monkeypatch.context() as patch:
        patch.setattr(slides.os, call, Failing(3, error, getattr(os, call)))
        found = [(entry.slide, entry.image, entry.code) for entry in list_slides(folder) if entry]
    assert found == [("a", "1.jpg", ""), ("b", "2.jpg", "")]
    with monkeypatch.context() as patch:
        patch.setattr(slides.os, call, Failing(1e9, error, getattr(os, call)))
        with pytest.raises(StorageError, match="Input/output error"):
            list(list_slides(folder))


def test_pauses_grow_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("pipelines.classification.patience.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("pipelines.classification.patience.time.sleep", sleep)
    with pytest.raises(OSError, match="x"):
        Patience().retry(Failing(1e9, OSError(errno.EIO, "x"), print))
    assert pauses[:5] == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert max(pauses) == 5.0
    assert sum(pauses) == pytest.approx(30.0)


def test_what_lasts_is_not_tried_again(tmp_path: Path) -> None:
    call = Failing(1e9, PermissionError(errno.EACCES, "no"), print)
    with pytest.raises(PermissionError):
        Patience().retry(call)
    assert call.calls == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path / "disk")], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_a_full_disk_is_one_sentence_at_once_and_leaves_no_litter(small_disk: Path) -> None:
    folder = open_folder(str(small_disk), Patience())
    folder.write("a/kept", b"k")
    for write in (folder.write, folder.write_plain):
        with pytest.raises(StorageError, match=r"the disk is full.*--resume") as caught:
            write("a/large", bytes(400_000))
        assert caught.value.code == "disk-full"
        assert str(small_disk / "a" / "large") in caught.value.message
        assert [path.name for path in (small_disk / "a").iterdir()] == ["kept"]


def test_only_the_litter_of_dead_processes_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {
        f".run.json.{dead.pid}.tmp": False,
        f"predictions/.part-00000001.parquet.{dead.pid}.tmp": False,
        f".run.json.{os.getpid()}.tmp": True,
        "mine.tmp": True,
        ".hidden.tmp": True,
        f"x.{dead.pid}.tmp": True,
    }
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    open_folder(str(tmp_path)).delete_unfinished()
    assert {name: (tmp_path / name).exists() for name in names} == names
