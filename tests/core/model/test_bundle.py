from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from core.errors import BundleError
from core.model.bundle import load_bundle, save_bundle, write_metrics
from core.model.card import write_card
from core.model.torch_engine import forward

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_metrics_of_others_are_no_reason_to_refuse_a_bundle(copy: Path) -> None:
    (copy / "metrics.json").write_text('{"note": "random weights"}')
    assert load_bundle(copy).metrics is None
    (copy / "metrics.json").unlink()
    assert load_bundle(copy).metrics is None


def test_metrics_are_read_as_they_were_written(shipped: Path, copy: Path) -> None:
    metrics = load_bundle(shipped).metrics
    assert metrics
    write_metrics(copy, metrics)
    assert load_bundle(copy).metrics == metrics
    assert (copy / "metrics.json").read_bytes() == (shipped / "metrics.json").read_bytes()


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_bundle, tmp_path / "copy")


def test_a_bundle_survives_the_trip_to_disk(small_bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(small_bundle)
    again = save_bundle(tmp_path / "again", first.network, first.class_names, first.record, first.metrics, "# card\n")
    assert again.class_names == first.class_names
    assert again.record.preprocessing == first.record.preprocessing
    for name, value in first.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value, atol=0, rtol=0)


def test_the_identity_covers_weights_and_config(copy: Path, small_bundle: Path) -> None:
    assert load_bundle(copy).id == load_bundle(small_bundle).id
    config = json.loads((copy / "config.json").read_text())
    config["leukoray"]["confidence"]["temperature"] = 1.5
    (copy / "config.json").write_text(json.dumps(config))
    assert load_bundle(copy).id != load_bundle(small_bundle).id


def test_timm_reads_the_same_logits(small_bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm

        theirs = timm.create_model(f"local-dir:{small_bundle}", pretrained=True).eval()
    ours = load_bundle(small_bundle)
    batch = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(batch), forward(ours.network, batch).logits, atol=1e-5, rtol=1e-5)
    assert theirs.pretrained_cfg["label_names"] == list(ours.class_names)


def _config(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return apply


def _flip_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 0xFF
    (folder / "model.safetensors").write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no folder": (shutil.rmtree, "bundle-missing", "does not exist"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "bundle-missing", "model.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "bundle-missing", "config.json"),
    "config cut off": (lambda folder: (folder / "config.json").write_text('{"arch'), "bundle-damaged", "not JSON"),
    "weights cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        "bundle-damaged",
        "model.safetensors",
    ),
    "one byte flipped": (_flip_byte, "bundle-damaged", "model.safetensors"),
    "of timm alone": (_config(lambda config: config.pop("leukoray")), "bundle-foreign", "not made by Leukoray"),
    "another network": (_config(lambda config: config.update(architecture="vit")), "bundle-foreign", "vit"),
    "a class too few": (_config(lambda config: config["label_names"].pop()), "bundle-damaged", "label_names"),
    "unknown field": (_config(lambda config: config["leukoray"].update(more=1)), "bundle-damaged", "more"),
    "metrics damaged": (lambda folder: (folder / "metrics.json").write_text("{"), "bundle-damaged", "metrics.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_bundle_is_refused_in_one_sentence(damage: str, copy: Path) -> None:
    apply, code, words = DAMAGES[damage]
    apply(copy)
    with pytest.raises(BundleError) as caught:
        load_bundle(copy)
    assert caught.value.code == code
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_weights_that_are_not_numbers_are_refused(small_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(small_bundle)
    with torch.no_grad():
        bundle.network.get_classifier().bias[0] = float("nan")
    with pytest.raises(BundleError, match="not numbers"):
        save_bundle(tmp_path / "nan", bundle.network, bundle.class_names, bundle.record, None, "")


def test_an_existing_bundle_is_not_overwritten(copy: Path) -> None:
    bundle = load_bundle(copy)
    with pytest.raises(BundleError, match="not empty"):
        save_bundle(copy, bundle.network, bundle.class_names, bundle.record, None, "")


def test_the_shipped_bundle_is_small_and_whole(shipped: Path) -> None:
    bundle = load_bundle(shipped)
    assert sum(path.stat().st_size for path in shipped.rglob("*")) <= 25_000_000
    assert bundle.class_names == ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
    assert bundle.metrics
    validation = bundle.metrics.validation.image
    confusion = np.array(validation.confusion)
    assert confusion.sum() == validation.n
    assert np.trace(confusion) / confusion.sum() == pytest.approx(validation.accuracy.value)
    assert list(bundle.metrics.evaluations) == ["TEST", "TEST_SIMPLE", "Barcelona test", "Tehran"]
    card = (shipped / "README.md").read_text()
    assert card == write_card("blood-cells", bundle.class_names, bundle.record, bundle.metrics, bundle.architecture)
    assert f"{validation.accuracy.value:.3f}" in card
    assert "For Research Use Only. Not for use in diagnostic procedures." in card
