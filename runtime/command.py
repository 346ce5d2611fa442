"""A settings model as a command line: parse, run, and turn errors into a sentence and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict

from core.errors import LeukorayError, SettingsError
from core.settings import Settings, describe_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["FAILED", "USAGE", "refuse_existing", "run_command"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_COMMAND_LINE = SettingsConfigDict(
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
    cli_enforce_required=True,
    cli_avoid_json=True,
    cli_parse_none_str="not given",
)

_Model = TypeVar("_Model", bound=Settings)


def run_command(model: type[_Model], work: Callable[[_Model], int], argv: Sequence[str] | None = None) -> int:
    """Parse the command line into `model`, call `work`, return the exit code.

    Args:
        model: Settings model of the command; its docstring and field descriptions are the help text.
        work: Function that does the command's work and returns the exit code.
        argv: Arguments; by default the process's own.

    Returns:
        What `work` returns; 2 for a usage error or an input that cannot be used; 130 where interrupted.
    """
    try:
        settings = _parse(model, list(sys.argv[1:] if argv is None else argv))
    except ValidationError as error:
        for problem in describe_problems(error.errors(), prefix="--"):
            print(f"error: {problem}", file=sys.stderr)
        return USAGE
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work(settings)
    except (LeukorayError, OSError, UnicodeError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; continue with --resume" if "resume" in model.model_fields else "stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse_existing(out: Path) -> None:
    """Refuse an output folder that exists and is not empty, so that no command overwrites what it did not write.

    Raises:
        SettingsError: With code ``out-exists``.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError("out-exists", f"{out} exists already; choose another folder, or remove it yourself.")


def _parse(model: type[_Model], arguments: list[str]) -> _Model:
    """Read the command line, and nothing but the command line: no variable of the environment is an option."""

    def sources(
        _cls: type[BaseSettings], _settings: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    contents: dict[str, object] = {
        "__doc__": model.__doc__,
        "__module__": model.__module__,
        "model_config": _COMMAND_LINE,
        "settings_customise_sources": classmethod(sources),
    }
    command = type(model.__name__, (BaseSettings, model), contents)
    parsed = CliApp.run(command, cli_args=arguments)
    return model.model_validate({name: getattr(parsed, name) for name in parsed.model_fields_set})


def _interrupt(_number: int, _frame: object) -> None:
    """Let SIGTERM, what `ray job stop` sends, end a run the way Ctrl-C does."""
    raise KeyboardInterrupt
