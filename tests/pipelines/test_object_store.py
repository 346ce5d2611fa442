"""Runs from an object store into an object store, by S3's own protocol: names, outages, secrets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import SECRET, ObjectStore
from pyarrow.fs import FileSelector, FileType

from core.errors import LeukorayError, SettingsError
from pipelines.classification.record import RunRecord
from pipelines.classification.storage import open_folder
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from pipelines.classification.storage import Folder

pytestmark = pytest.mark.usefixtures("in_this_process")
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    draw_slides(root / "slides", 20, broken=False)
    return root / "slides"


@pytest.fixture
def store(drawn: Path) -> Iterator[ObjectStore]:
    """A store that holds twelve images of three slides, in a folder whose name needs care."""
    with ObjectStore() as store:
        lab = open_folder(store.uri("lab") + "&allow_bucket_creation=true")
        lab.filesystem.create_dir("lab")
        for path in sorted(drawn.glob("*/cell-000[0-3].jpg")):
            lab.write(f"my slides #1 100%/{path.parent.name}/{path.name}", path.read_bytes())
        yield store


def settings(store: ObjectStore, model: Path, **options: object) -> ClassifySettings:
    slides, out = store.uri("lab/my slides #1 100%"), store.uri("lab/run#1")
    return ClassifySettings.model_validate({"slides": slides, "out": out, "model": model, "part_size": 4} | options)


def run_of(store: ObjectStore) -> Folder:
    return open_folder(store.uri("lab/run#1"))


def rows(run: Folder, kind: str = "predictions") -> pd.DataFrame:
    tables = [pq.read_table(io.BytesIO(run.read(f"{kind}/{name}"))) for name in run.files(kind, ".parquet")]
    return pa.concat_tables(tables).to_pandas().sort_values(["slide", "image"], ignore_index=True)


def record_of(run: Folder) -> RunRecord:
    return RunRecord.model_validate_json(run.read("run.json"))


def everything(folder: Folder) -> dict[str, bytes]:
    """Every object below a folder."""
    found = folder.filesystem.get_file_info(FileSelector(folder.path, recursive=True))
    names = [info.path[len(folder.path) + 1 :] for info in found if info.type == FileType.File]
    return {name: folder.read(name) for name in names}


def test_names_stand_as_they_are_and_the_rows_are_those_of_a_disk(
    store: ObjectStore, drawn: Path, small_bundle: Path, tmp_path: Path
) -> None:
    assert classify(settings(store, small_bundle)) == 0
    local = ClassifySettings(slides=str(drawn), out=str(tmp_path / "run"), model=small_bundle)
    assert classify(local) == 0
    on_disk = pq.read_table(tmp_path / "run" / "predictions").to_pandas()
    on_disk = on_disk[on_disk["image"].str.match("cell-000[0-3]")].sort_values(["slide", "image"], ignore_index=True)
    stored = rows(run_of(store))
    assert len(stored) == 12
    assert stored["label"].equals(on_disk["label"])
    assert stored["gradcam"].equals(on_disk["gradcam"])
    assert {"run.json", "slides.csv", "report/index.html"} <= everything(run_of(store)).keys()


LISTING, CLASSIFYING, REPORTING = 30, 70, 200
"""Requests after which a run is at this step; it makes about 250."""


@pytest.mark.parametrize(
    ("how", "after"),
    [
        ("reset", CLASSIFYING),
        *(
            pytest.param(how, after, marks=pytest.mark.slow)
            for how, after in [("503", LISTING), ("503", CLASSIFYING), ("503", REPORTING), ("reset", REPORTING)]
        ),
    ],
)
def test_an_outage_in_the_middle_costs_no_image(store: ObjectStore, small_bundle: Path, how: str, after: int) -> None:
    store.fail(how, after=after, seconds=4)
    assert classify(settings(store, small_bundle)) == 0
    assert store.refused > 1
    assert len(rows(run_of(store))) == 12
    assert len(rows(run_of(store), "errors")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["503", "reset"])
def test_an_outage_that_lasts_leaves_the_run_to_be_continued(store: ObjectStore, small_bundle: Path, how: str) -> None:
    store.fail(how, after=CLASSIFYING, seconds=3600)
    with pytest.raises(LeukorayError, match="--resume") as caught:
        classify(settings(store, small_bundle, patience=1))
    assert caught.value.code == "storage-fails"
    assert SECRET not in str(caught.value)
    store.fail("", after=0, seconds=0)
    assert record_of(run_of(store)).state != "finished"
    assert classify(settings(store, small_bundle, resume=True)) == 0
    assert record_of(run_of(store)).state == "finished"
    assert len(rows(run_of(store))) == 12
    assert len(rows(run_of(store), "errors")) == 0


def test_no_secret_is_written_or_said(
    store: ObjectStore, small_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab = open_folder(store.uri("lab"))
    lab.write("my slides #1 100%/broken/a.jpg", b"no image")
    assert classify(settings(store, small_bundle, max_error_rate=1)) == 0
    assert classify(settings(store, small_bundle, max_error_rate=1, resume=True)) == 0
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert "***@lab/run#1" in said.out + said.err
    objects = everything(run_of(store))
    assert len(objects) > 20
    assert not [name for name, data in objects.items() if SECRET.encode() in data]
    assert b"***@lab/my slides" in objects["run.json"]


def test_credentials_in_a_uri_are_refused_where_a_cluster_records_them(
    store: ObjectStore, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"\*\*\*@lab/my slides #1 100%.*AWS_PROFILE") as caught:
        classify(settings(store, small_bundle))
    assert caught.value.code == "secret-in-uri"
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "TESTKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    slides, out = (store.uri(place, credentials="") for place in ("lab/my slides #1 100%", "lab/run"))
    assert classify(settings(store, small_bundle, slides=slides, out=out)) == 0


@pytest.mark.slow
def test_ray_writes_no_secret_either(store: ObjectStore, small_bundle: Path) -> None:
    """The command itself, on a cluster of its own, whose logs are read afterwards."""
    with tempfile.TemporaryDirectory(prefix="lr", dir="/tmp") as folder:
        command = [sys.executable, "pipelines/classify.py", store.uri("lab/my slides #1 100%")]
        command += ["--out", store.uri("lab/run#1"), "--model", str(small_bundle), "--part-size", "4"]
        environment = {**os.environ, "RAY_TMPDIR": folder}
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "12 cells" in done.stderr + done.stdout
        logs = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert any(path.name == "gcs_server.out" for path in logs)
        assert not [path for path in logs if SECRET.encode() in path.read_bytes()]
    assert SECRET not in done.stdout + done.stderr
    assert not [name for name, data in everything(run_of(store)).items() if SECRET.encode() in data]
