from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import DataError
from core.model.engine import forward
from core.model.network import build_network

PROJECT = Path(__file__).resolve().parents[3]


def test_the_seam_gives_what_torchvision_gives() -> None:
    network = build_network(4).eval()
    batch = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        outputs = forward(network, batch)
        torch.testing.assert_close(outputs.logits, network(batch))
    assert outputs.feature_map.shape == (2, 512, 3, 4)
    assert outputs.features.shape == (2, 512)


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
