"""The console script ``leukoray``: one name for all commands, each the same as its own script.

The commands are entry points of the group ``leukoray.commands`` (see ``pyproject.toml``), so that this module needs to
know none of the packages above it, and only the command that is asked for is imported.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_GROUP = "leukoray.commands"
_USAGE_ERROR = 2
_SUMMARIES = {
    "classify": "classify a folder of slides, with heatmaps and a report",
    "train": "train on class folders and write a bundle",
    "train-finder": "train the finder of white cells on marked fields",
    "adapt": "adapt a bundle to the stain and camera of unlabelled slides",
    "review": "look through a finished run, correct it, sign it off, export what was reviewed",
    "evaluate": "measure a bundle on labelled images",
    "compare": "say what changed between two runs",
    "audit": "find views of one field, duplicates and conflicts in a data set",
    "export": "write a bundle as ONNX",
    "search": "search hyperparameters on Ray Tune",
    "serve": "answer over HTTP on Ray Serve",
    "demo": "draw three slides and classify them",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``leukoray COMMAND ARGUMENTS``.

    Args:
        argv: Command and arguments; by default the process's own.

    Returns:
        The command's exit code; 2 where there is no such command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_help())
        return 0 if arguments else _USAGE_ERROR
    if arguments[0] == "--version":
        print(f"leukoray {version('leukoray')}")
        return 0
    found = [entry for entry in entry_points(group=_GROUP) if entry.name == arguments[0]]
    if not found:
        print(f"error: there is no command {arguments[0]!r}; there are {', '.join(_SUMMARIES)}.", file=sys.stderr)
        return _USAGE_ERROR
    sys.argv = [f"leukoray {arguments[0]}", *arguments[1:]]
    return int(found[0].load()())


def _help() -> str:
    lines = [f"  {name:12} {summary}" for name, summary in _SUMMARIES.items()]
    return "\n".join(
        [
            "Find and classify white blood cells in microscope images, on Ray. For research use only.",
            "",
            "usage: leukoray COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "leukoray COMMAND --help lists a command's options.",
        ]
    )
