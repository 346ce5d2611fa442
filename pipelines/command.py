"""A settings model as a command line: parse, run, and turn errors into a sentence and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError
from pydantic_settings import CliApp

from core.errors import LeukorayError
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FAILED", "USAGE", "run_command"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_Model = TypeVar("_Model", bound=Settings)


def run_command(model: type[_Model], work: Callable[[_Model], int], argv: Sequence[str] | None = None) -> int:
    """Parse the command line into `model`, call `work`, return the exit code.

    Args:
        model: The command's settings; its docstring and field descriptions are the help text.
        work: The command.
        argv: Arguments; by default the process's own.

    Returns:
        What `work` returns; 2 for a usage error or an input that cannot be used; 130 where interrupted.
    """
    try:
        settings = CliApp.run(model, cli_args=list(sys.argv[1:] if argv is None else argv))
    except ValidationError as error:
        for problem in error.errors():
            name = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: {name}: {problem['msg']}", file=sys.stderr)
        return USAGE
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work(settings)
    except LeukorayError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; continue with --resume", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: object) -> None:
    """Let SIGTERM, what `ray job stop` sends, end a run the way Ctrl-C does."""
    raise KeyboardInterrupt
