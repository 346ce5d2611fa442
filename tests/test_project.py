"""The project as a package: what is shipped and what is not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PYPROJECT = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")


def test_packages_are_listed_and_typed() -> None:
    (listed,) = re.findall(r"^include = \[(.*\*.*)\]$", PYPROJECT, re.MULTILINE)
    assert re.findall(r'"(\w+)\*"', listed) == ["core", "runtime", "pipelines", "serve", "tuning"]
    for folder in {
        path.parent for name in ("core", "runtime", "pipelines") for path in PROJECT.glob(f"{name}/**/*.py")
    }:
        assert (folder / "__init__.py").is_file()
    assert (PROJECT / "core" / "py.typed").is_file()


@pytest.mark.parametrize("name", ["torch", "torchvision", "ray", "opencv-python-headless", "scikit-learn", "numpy"])
def test_what_was_tested_is_pinned(name: str) -> None:
    constraints = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{name}==\d", constraints, re.MULTILINE)
    assert "torch==2.13.0" not in constraints
    assert "@" not in constraints
    assert "://" not in constraints


def test_every_make_target_says_what_it_does() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert targets == described >= {"demo", "test", "check", "bench", "help"}


PACKAGES = ("core", "runtime", "pipelines", "tuning", "serve", "tools")
MODULES = sorted(path for package in PACKAGES for path in PROJECT.glob(f"{package}/**/*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_functions_stay_small_and_docstrings_are_sentences(path: Path) -> None:
    """No function has over 80 lines, and no docstring or help text begins in the middle of a thought ("Of the ...")."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first, *rest = (ast.get_docstring(node) or "").splitlines() or [""]
            assert not re.match(r"Of |Says ", first), first
            clipped = [line for line in rest if re.match(r" {4}\w+: (Of|To|By|From|At|Whose|Says|As|Which) ", line)]
            assert clipped == []
        if isinstance(node, ast.keyword) and node.arg == "description" and isinstance(node.value, ast.Constant):
            assert not str(node.value.value).startswith("of "), node.value.value


@pytest.mark.parametrize("path", [*sorted(PROJECT.glob("pipelines/*.py")), PROJECT / "tuning" / "search.py"])
def test_a_command_is_settings_main_and_steps(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "modules", ["pipelines.classify, pipelines.classification.worker", "serve.run, serve.app, serve.classifier"]
)
def test_commands_and_workers_start_without_torch(modules: str) -> None:
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
