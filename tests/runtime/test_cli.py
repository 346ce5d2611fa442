"""The console script: one name for all commands."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from runtime.cli import main

COMMANDS = [
    "classify",
    "train",
    "train-finder",
    "adapt",
    "review",
    "evaluate",
    "compare",
    "audit",
    "export",
    "search",
    "serve",
    "demo",
]


def test_help_lists_every_command_and_each_can_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([\w-]+) +\w", capsys.readouterr().out, re.MULTILINE)
    assert listed == COMMANDS
    found = {entry.name: entry for entry in entry_points(group="leukoray.commands")}
    assert set(found) == set(COMMANDS)
    assert all(callable(entry.load()) for entry in found.values())


def test_a_command_gets_its_arguments_and_its_own_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["leukoray"])
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: leukoray audit ")
    assert "--pictures" in text


def test_no_command_and_an_unknown_one_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["clasify"]) == 2
    assert "there is no command 'clasify'; there are classify, train" in capsys.readouterr().err


def test_the_script_is_installed_and_quick_to_help() -> None:
    script = Path(sys.executable).parent / "leukoray"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert re.fullmatch(r"leukoray \d+\.\d+\.\d+\n", done.stdout)
