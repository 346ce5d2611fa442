"""The bundle for OpenVINO: the same answers, without PyTorch, or a refusal."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from core.errors import BundleError, SettingsError
from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.overlay import encode_jpeg
from core.model.bundle import load_bundle
from core.model.exported import FOLDER, ExportedBundle, load_exported
from core.model.opening import choose_engine, open_bundle
from core.model.predictor import Predictor
from core.model.record import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable


PROJECT = Path(__file__).resolve().parents[3]
FIELD = encode_jpeg(draw_smear(list(CLASS_NAMES), np.random.default_rng(5))[0])


@pytest.fixture
def copy(exported_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))


def test_both_engines_say_the_same_of_the_same_cells(exported_bundle: Path) -> None:
    reference, fast = load_bundle(exported_bundle), load_exported(exported_bundle)
    assert (fast.id, fast.class_names, fast.record) == (reference.id, reference.class_names, reference.record)
    ours, theirs = Predictor(reference, "cpu", 1), Predictor(fast, "cpu", 1)
    cells, others = ours.prepare_every(FIELD)[1], theirs.prepare_every(FIELD)[1]
    assert len(cells) == len(others) == 4
    for one, other in zip(cells, others, strict=True):
        np.testing.assert_allclose(other.box, one.box, atol=2)
    for one, other in zip(ours.predict(cells), theirs.predict(cells), strict=True):
        assert other.label == one.label
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=5e-3)
        assert one.cam is not None
        assert other.cam is not None
        assert other.cam.geometry == one.cam.geometry
        np.testing.assert_allclose(other.cam.values, one.cam.values, atol=0.05)
    assert theirs.predict(cells, gradcam=False)[0].cam is None


def test_a_batch_of_any_size_gives_what_single_images_give(exported_bundle: Path) -> None:
    engine = load_exported(exported_bundle).engine("cpu", 1)
    height, width = load_exported(exported_bundle).record.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (19, height, width, 3), np.uint8)
    whole, single = engine.answer(pixels, gradcam=True), [engine.answer(one[None], gradcam=True) for one in pixels]
    assert whole.maps is not None
    np.testing.assert_allclose(whole.logits, np.concatenate([one.logits for one in single]), atol=1e-3)
    np.testing.assert_allclose(
        whole.maps, np.concatenate([one.maps for one in single if one.maps is not None]), atol=1e-3
    )
    assert whole.features.shape == (19, single[0].features.shape[1])
    assert engine.answer(pixels, gradcam=False).maps is None


def test_fields_of_many_sizes_are_searched(exported_bundle: Path) -> None:
    """Each size has a network of its own, up to a number of them."""
    search, reference = (load(exported_bundle).cell_search() for load in (load_exported, load_bundle))
    smear = draw_smear(["MONOCYTE"], np.random.default_rng(0))[0]
    for extra in range(0, 400, 33):
        rgb = np.pad(smear, ((0, extra), (0, 0), (0, 0)), mode="reflect")
        found, expected = search.prepare_every(rgb), reference.prepare_every(rgb)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.box, other.box, atol=3)


def test_nothing_of_torch_is_loaded(exported_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "field.jpg").write_bytes(FIELD)
    script = f"""
import sys
for name in ("torch", "torchvision", "timm", "sklearn"):
    sys.modules[name] = None
from pathlib import Path
from core.model.opening import open_bundle
from core.model.predictor import Predictor
predictor = Predictor(open_bundle(Path({str(exported_bundle)!r}), "openvino"), "cpu", 1)
cells = predictor.prepare_every(Path("field.jpg").read_bytes())[1]
print(*(one.label for one in predictor.predict(cells)))
"""
    environment = {"PYTHONPATH": str(PROJECT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    predictor = Predictor(load_bundle(exported_bundle), "cpu")
    assert done.stdout.split() == [one.label for one in predictor.predict(predictor.prepare_every(FIELD)[1])]


def test_it_can_be_sent_to_a_worker(exported_bundle: Path) -> None:
    bundle = pickle.loads(pickle.dumps(load_exported(exported_bundle)))
    assert len(Predictor(bundle, "cpu", 1).prepare_every(FIELD)[1]) == 4
    search = pickle.loads(pickle.dumps(bundle.cell_search()))
    assert len(search.prepare_every(draw_smear(["MONOCYTE"], np.random.default_rng(0))[0])) == 1


def test_the_machine_decides_where_nobody_does(
    exported_bundle: Path, field_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_engine(exported_bundle, "auto", "cpu") == "openvino"
    assert choose_engine(exported_bundle, "auto", "cuda:0") == "torch"
    assert choose_engine(exported_bundle, "torch", "cpu") == "torch"
    assert choose_engine(field_bundle, "auto", "cpu") == "torch"
    assert isinstance(open_bundle(exported_bundle, device="cpu"), ExportedBundle)
    monkeypatch.setattr("core.model.opening.find_spec", lambda _name: None)
    assert choose_engine(exported_bundle, "auto", "cpu") == "torch"


def test_a_bundle_that_was_not_exported_says_how(field_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"export\.py"):
        open_bundle(field_bundle, "openvino")


def test_a_gpu_is_not_for_it(exported_bundle: Path) -> None:
    with pytest.raises(SettingsError, match="--engine torch"):
        load_exported(exported_bundle).engine("cuda")


def test_without_the_package_a_sentence_says_so(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SettingsError, match="pip install"):
        load_exported(exported_bundle).engine("cpu")


@pytest.mark.parametrize("name", ["model.bin", "finder.xml", "probe.safetensors"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    place = copy / FOLDER / name
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(BundleError, match="not the file"):
        load_exported(copy)
    place.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        load_exported(copy)


def test_answers_that_are_not_pytorchs_are_refused(exported_bundle: Path) -> None:
    bundle = load_exported(exported_bundle)
    confidence = bundle.record.confidence.model_copy(update={"temperature": 1e-3})
    other = replace(bundle.read, record=bundle.record.model_copy(update={"confidence": confidence}))
    with pytest.raises(BundleError, match="differ from PyTorch"):
        replace(bundle, read=other).engine("cpu")


@pytest.mark.parametrize("content", [b"", b"<net", b"<?xml version='1.0'?><net name='x' version='11'></net>"])
def test_a_foreign_network_is_refused(exported_bundle: Path, content: bytes) -> None:
    bundle = load_exported(exported_bundle)
    with pytest.raises(BundleError):
        replace(bundle, files=bundle.files | {"model.xml": content}).engine("cpu")


def test_an_export_changes_the_identity_and_nothing_else(exported_bundle: Path, field_bundle: Path) -> None:
    before, after = load_bundle(field_bundle), load_bundle(exported_bundle)
    assert after.id != before.id
    assert (exported_bundle / WEIGHTS).read_bytes() == (field_bundle / WEIGHTS).read_bytes()
    old, new = (json.loads((folder / CONFIG).read_text()) for folder in (field_bundle, exported_bundle))
    assert new["leukoray"].pop("export")["agreement"] == 1.0
    old["leukoray"].pop("export")
    assert new == old


@pytest.mark.parametrize("options", [{"engine": "openvino", "out": "x.onnx"}, {}])
def test_options_that_contradict_each_other_are_refused(
    exported_bundle: Path, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.export import ExportSettings, export

    monkeypatch.chdir(tmp_path)
    given: Callable[..., ExportSettings] = ExportSettings.model_validate
    with pytest.raises(SettingsError, match="--out"):
        export(given({"bundle": exported_bundle} | options))
