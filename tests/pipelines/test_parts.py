"""The pieces of a run that need no cluster: names, records, plans, progress, command lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hostile import odd_contents
from pydantic import Field

from core.errors import SettingsError
from core.settings import Settings
from pipelines.classification.run_folder import RunFolder, overlay_path
from pipelines.classification.slides import Entry
from pipelines.classification.storage import open_folder
from pipelines.classification.summary import Slide, slides_csv
from runtime.cluster import plan_workers
from runtime.command import run_command
from runtime.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a.jpg", "gradcam/s/a.jpg"),
        ("a.JPEG", "gradcam/s/a.JPEG"),
        ("deep/a.jpg", "gradcam/s/deep/a.jpg"),
        ("a.png", "gradcam/s/a.png.jpg"),
        ("a.png.jpg", "gradcam/s/a.png.jpg.jpg"),
        ("a.jpg.jpg", "gradcam/s/a.jpg.jpg.jpg"),
    ],
)
def test_an_overlay_is_at_the_images_own_path(image: str, expected: str) -> None:
    assert overlay_path("s", image) == expected


def test_no_two_images_share_an_overlay() -> None:
    names = [*odd_contents(), "cell", "cell.jpg", "cell.png", "cell.png.jpg", "z" * 251 + ".png", "z" * 250 + ".jpeg"]
    paths = [overlay_path("s", name) for name in names]
    assert len(set(paths)) == len(set(names))
    assert all(len(part.encode()) <= 255 for path in paths for part in path.split("/"))


@pytest.mark.parametrize("image", ["../../etc/passwd.jpg", "..", "a/../../b.png", "./x.jpg"])
def test_no_overlay_leaves_the_run(image: str) -> None:
    assert not {"", ".", ".."} & set(overlay_path("..", image).split("/"))


def test_the_list_of_images_survives_the_trip(tmp_path: Path) -> None:
    run = RunFolder(open_folder(str(tmp_path)))
    entries = [Entry("s", f"{number}.jpg", bytes([255, number])) for number in range(10)]
    assert run.manifest_counts() is None
    assert run.write_manifest(iter(entries), 4) == {"parts": 3, "images": 10}
    assert run.manifest_counts() == {"parts": 3, "images": 10}
    assert [entry for part in range(3) for entry in run.read_manifest(part)] == entries
    assert run.unfinished_parts(3) == [0, 1, 2]


def test_cpu_workers_leave_a_logical_cpu_free() -> None:
    plan = plan_workers([{"CPU": 2.0}])
    assert (plan.workers, plan.cpus, plan.gpus, plan.threads, plan.device) == (2, 0.5, 0.0, 1, "cpu")
    large = plan_workers([{"CPU": 64.0}, {"CPU": 16.0}])
    assert large.workers == 80
    assert large.workers * large.cpus <= 80 - 2
    assert plan_workers([{"CPU": 1.0}]).cpus <= 0.5


def test_one_worker_per_gpu() -> None:
    plan = plan_workers([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 32.0}])
    assert (plan.workers, plan.gpus, plan.device) == (2, 1.0, "cuda")
    assert plan.loaders > 1
    shared = plan_workers([{"CPU": 16.0, "GPU": 1.0}], gpus=0.25)
    assert shared.workers == 4


def test_a_gpu_can_be_left_alone() -> None:
    assert plan_workers([{"CPU": 4.0, "GPU": 1.0}], gpus=0).device == "cpu"


def test_a_single_worker_gets_the_threads() -> None:
    assert plan_workers([{"CPU": 16.0}], workers=1).threads == 15


@pytest.mark.parametrize(
    "wanted", [{"gpus": 1.0}, {"workers": 9, "cpus": 1.0}, {"cpus": 3.0}, {"workers": 4, "gpus": 1.0}]
)
def test_what_the_cluster_can_never_start_is_refused(wanted: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"Lower|no node"):
        plan_workers([{"CPU": 2.0}], **wanted)  # type: ignore[arg-type]


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(4, "images", done=1, every=0.0) as progress:
        for _ in range(3):
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("2 of 4 images, ")
    assert lines[0].endswith("s left")
    assert "\r" not in "".join(lines)
    assert lines[-1].startswith("4 of 4 images")


class Sample(Settings):
    """A command."""

    size: int = Field(3, ge=1, description="a number")


def test_a_wrong_option_is_a_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Sample, lambda settings: settings.size, ["--size", "5"]) == 5
    assert run_command(Sample, lambda settings: settings.size, ["--size", "0"]) == 2
    assert "--size: Input should be greater than or equal to 1" in capsys.readouterr().err

    def refuse(_: Sample) -> int:
        raise SettingsError("no", "That cannot be.")

    assert run_command(Sample, refuse, []) == 2
    assert "error: That cannot be. [no]" in capsys.readouterr().err


def test_slides_csv_adds_up() -> None:
    slide = Slide("s, 1", counts=Counter({"A": 3, "B": 1}), n_errors=2)
    header, row = slides_csv([slide], ["A", "B"]).splitlines()
    assert header.startswith("slide,n,n_A,n_B,pct_A,pct_B,pct_A_low,pct_A_high,")
    assert row.startswith('"s, 1",4,3,1,75.00,25.00,19.41,99.37,')
    assert row.endswith(",0,2")
