"""The learned finder: on drawn fields, in bundles, in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from core.errors import BundleError, SettingsError
from core.evaluation.detection import match_field, recall_precision
from core.finding.marked import MarkedField, MarkedFile
from core.finding.network import FinderNetwork
from core.finding.record import FINDER, FinderRecord
from core.finding.search import CellSearch
from core.finding.torch_finder import TorchFinder
from core.images.cells import Box, CellFinder
from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.preprocessing import Preprocessing
from core.model.bundle import load_bundle
from core.training.finder import FinderConfig, FinderTrainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.images.drawings import DrawnCell

PREPROCESSING = Preprocessing(height=64, width=64, cell=CellFinder())


@pytest.fixture(scope="module")
def finder(shipped: Path) -> TorchFinder:
    found = load_bundle(shipped).finder
    assert found is not None
    return found


def smear(count: int, seed: int, **options: object) -> tuple[NDArray[np.uint8], list[DrawnCell]]:
    rng = np.random.default_rng(seed)
    return draw_smear(rng.choice(CLASS_NAMES, count).tolist(), rng, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("count", "size"), [(0, (640, 480)), (1, (640, 480)), (2, (640, 480)), (8, (960, 720)), (40, (1800, 1400))]
)
def test_drawn_cells_are_counted_right(finder: TorchFinder, count: int, size: tuple[int, int]) -> None:
    rgb, cells = smear(count, count + 1, width=size[0], height=size[1])
    found = finder.find(rgb)
    assert len(found) == count
    assert recall_precision([match_field(found, [Box(*cell.box) for cell in cells])]) == (1.0, 1.0)


def test_cells_that_touch_and_cells_at_the_border_are_each_one(finder: TorchFinder) -> None:
    centres = [(200.0, 240.0), (264.0, 250.0), (8.0, 100.0), (500.0, 470.0)]
    rgb, cells = draw_smear(
        ["NEUTROPHIL", "EOSINOPHIL", "NEUTROPHIL", "EOSINOPHIL"], np.random.default_rng(4), centres=centres
    )
    found = finder.find(rgb)
    assert recall_precision([match_field(found, [Box(*cell.box) for cell in cells])]) == (1.0, 1.0)


def test_the_main_cell_is_prepared_and_others_are_counted(finder: TorchFinder) -> None:
    rgb, cells = smear(3, 7)
    search = CellSearch(PREPROCESSING, finder.cutting_out())
    main, every = search.prepare(rgb), search.prepare_every(rgb)
    assert main.found
    assert main.others == 2
    assert [one.others for one in every] == [0, 0, 0]
    assert main.score == max(one.score or 0 for one in every)
    assert all(one.pixels.shape == (64, 64, 3) for one in every)
    assert len({one.cell for one in every}) == len(cells)


def test_a_network_that_learned_from_colours_gets_what_they_find(finder: TorchFinder) -> None:
    rgb, _ = smear(3, 7)
    beside = TorchFinder(finder.network, finder.record.model_copy(update={"cuts_out": False}))
    plain, main = CellSearch(PREPROCESSING).prepare(rgb), CellSearch(PREPROCESSING, beside).prepare(rgb)
    assert main.box == plain.box
    assert (main.pixels == plain.pixels).all()
    assert main.others == 2
    one, _ = smear(1, 5)
    assert CellSearch(PREPROCESSING, beside).prepare(one).others == 0


def test_a_picture_without_cells_has_none(finder: TorchFinder) -> None:
    rgb, _ = smear(0, 3)
    search = CellSearch(PREPROCESSING, finder)
    assert search.prepare_every(rgb) == []
    assert search.prepare_every(np.full((300, 400, 3), 225, np.uint8)) == []


def test_without_a_finder_there_is_at_most_one_cell() -> None:
    rgb, _ = smear(3, 7)
    (one,) = CellSearch(PREPROCESSING).prepare_every(rgb)
    assert one.cell is not None
    assert one.score is None


def test_a_cell_that_the_edge_hides_says_so(finder: TorchFinder) -> None:
    rgb, _ = draw_smear(["NEUTROPHIL"], np.random.default_rng(1), centres=[(-12.0, 240.0)])
    (one,) = CellSearch(PREPROCESSING, finder).prepare_every(rgb)
    assert one.hidden


def test_one_image_can_be_searched_from_several_threads(finder: TorchFinder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rgb, _ = smear(3, 7)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: finder.find(rgb), range(8)))
    assert all(result == results[0] for result in results)


def test_a_bundle_carries_its_finder(field_bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(field_bundle)
    assert first.finder is not None
    assert first.record.finder is not None
    assert first.record.finder.sha256
    rgb, _ = smear(2, 5)
    assert first.finder.find(rgb) == load_bundle(field_bundle).finder.find(rgb)
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(field_bundle, copy)
    (copy / FINDER).write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"finder\.safetensors is not the file"):
        load_bundle(copy)
    (copy / FINDER).unlink()
    with pytest.raises(BundleError, match=r"finder\.safetensors cannot be read"):
        load_bundle(copy)


def drawn_fields(count: int) -> list[MarkedField]:
    fields: list[MarkedField] = []
    for seed in range(count):
        rgb, cells = smear(2, 100 + seed, width=400, height=300)
        boxes = np.array([cell.box for cell in cells], np.float32)
        fields.append(MarkedField(MarkedFile(Path(f"{seed}.png"), "drawn", str(seed), ()), rgb, boxes, exact=True))
    return fields


def config(**changes: object) -> FinderConfig:
    return FinderConfig.model_validate({"steps": 4, "batch_size": 2, "side": 64} | changes)


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.training.finder._SAVED_EVERY", 2)
    fields = drawn_fields(3)
    undisturbed = FinderTrainer(fields, config())
    undisturbed.fit()
    checkpoint = tmp_path / "finder.safetensors"

    def kill(step: int, _loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FinderTrainer(fields, config(), checkpoint=checkpoint).fit(kill)
    continued = FinderTrainer(fields, config(), checkpoint=checkpoint)
    assert continued.resume()
    assert continued.step == 2
    continued.fit()
    for name, value in undisturbed.network.state_dict().items():
        assert torch.equal(value, continued.network.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "finder.safetensors"
    FinderTrainer(drawn_fields(1), config(steps=1), checkpoint=checkpoint).fit()
    with pytest.raises(SettingsError, match="other settings"):
        FinderTrainer(drawn_fields(1), config(steps=2), checkpoint=checkpoint).resume()


def test_a_checkpoint_of_other_boxes_or_shares_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "finder.safetensors"
    (field,) = drawn_fields(1)
    FinderTrainer([field], config(steps=1), {"drawn": 1.0}, checkpoint=checkpoint).fit()
    assert FinderTrainer([field], config(steps=1), {"drawn": 1.0}, checkpoint=checkpoint).resume()
    moved = replace(field, boxes=field.boxes + 1)
    for fields, shares in (([moved], {"drawn": 1.0}), ([field], {"drawn": 0.5})):
        with pytest.raises(SettingsError, match="other data"):
            FinderTrainer(fields, config(steps=1), shares, checkpoint=checkpoint).resume()


@pytest.mark.slow
def test_a_finder_learns_drawn_cells_from_nothing() -> None:
    trainer = FinderTrainer(drawn_fields(12), config(steps=250, batch_size=8, side=128, averaging=0.97))
    trainer.fit()
    finder = TorchFinder(trainer.network, FinderRecord.model_validate({"side": 192, "threshold": 0.3}))
    matches = []
    for seed in range(10):
        rgb, cells = smear(2, 500 + seed, width=400, height=300)
        matches.append(match_field(finder.find(rgb), [Box(*cell.box) for cell in cells]))
    recall, precision = recall_precision(matches)
    assert recall > 0.8
    assert precision > 0.8


def test_a_random_finder_finds_hardly_anything() -> None:
    torch.manual_seed(0)
    assert TorchFinder(FinderNetwork().eval(), FinderRecord.model_validate({})).find(smear(2, 1)[0]) == []
