"""The project as a package: what is shipped and what is not."""

from __future__ import annotations

import re
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


def test_functions_stay_small() -> None:
    import ast

    for path in (
        path
        for package in ("core", "runtime", "pipelines", "tuning", "serve", "tools")
        for path in PROJECT.glob(f"{package}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path.name}: {node.name}"
