"""Settings from arguments, environment and command line."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import SettingsError
from runtime.command import run_command
from serve.run import StandaloneSettings, serve
from serve.settings import ServeSettings, read_settings

PROJECT = Path(__file__).resolve().parents[2]


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEUKORAY_SERVE_BATCH_SIZE", "3")
    monkeypatch.setenv("LEUKORAY_SERVE_API_KEYS", "0123456789abcdef, fedcba9876543210")
    assert read_settings({}).batch_size == 3
    assert read_settings({}).api_keys == ("0123456789abcdef", "fedcba9876543210")
    assert read_settings({"batch_size": "5"}).batch_size == 5


@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": 0},
        {"batchsize": 3},
        {"timeout_s": "nan"},
        {"api_keys": "short"},
        {"max_queue": 4, "max_images": 8},
        {"replicas": 3, "max_replicas": 2},
        {"layout": "joint", "ingress_replicas": 2},
        {"max_body_bytes": 2_000_000_000},
        {"model_name": "a/b"},
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(given)
    assert "0123" not in str(caught.value)


def test_unknown_variables_and_key_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in (None, "", "short\n"):
        if content is not None:
            (tmp_path / "keys").write_text(content)
        with pytest.raises(SettingsError, match="keys"):
            ServeSettings(api_keys_file=tmp_path / "keys").keys()
    monkeypatch.setenv("LEUKORAY_SERVE_BATCHSIZE", "3")
    with pytest.raises(SettingsError, match="BATCHSIZE"):
        read_settings({})


def test_keys_are_never_shown() -> None:
    assert "0123456789abcdef" not in repr(ServeSettings(api_keys=("0123456789abcdef",)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "99999"], "--port"),
        (["--batch-size", "none"], "--batch-size"),
        (["--host", "203.0.113.7"], "--port"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_the_command_says_which_option_is_wrong(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run_command(StandaloneSettings, serve, arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert run_command(StandaloneSettings, serve, ["--bundle", "/nowhere", "--port", str(port)]) == 2
    assert "There is no bundle at /nowhere" in capsys.readouterr().err


def test_the_ingress_needs_no_torch() -> None:
    code = "import sys, serve.ingress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
