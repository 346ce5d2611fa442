"""The base of every settings model: typo-proof, immutable, and the same everywhere."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Settings", "describe_problems", "time_stamp"]


class Settings(BaseModel):
    """Settings that refuse unknown fields and cannot change after they are made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def describe_problems(problems: Iterable[Mapping[str, Any]], prefix: str = "") -> list[str]:
    """Say what pydantic found wrong, a line for each, by the field's name.

    Args:
        problems: What ``errors()`` of pydantic's ValidationError, or of FastAPI's, gives.
        prefix: Stands before each name; with it, names are written as on a command line.
    """
    lines: list[str] = []
    for problem in problems:
        name = ".".join(str(part) for part in problem["loc"])
        name = prefix + name.replace("_", "-") if prefix else name
        lines.append(f"{name}: {problem['msg']}" if problem["loc"] else problem["msg"])
    return lines


def time_stamp() -> str:
    """Return the time as records state it: ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
