"""The base of every settings model: typo-proof, immutable, and the same everywhere."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Settings"]


class Settings(BaseModel):
    """Settings that refuse unknown fields and cannot change after they are made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
