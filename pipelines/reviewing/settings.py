"""The options of ``pipelines/review.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import CliPositionalArg

from core.settings import Settings
from pipelines.reviewing.exports.export import Kind

__all__ = ["ReviewSettings"]


class ReviewSettings(Settings):
    """Look through the cells of a finished run, correct them, sign the slides off, and export what was reviewed.

    Prints the address of a page, with a token that lets people in, and serves it until it is stopped. What people say
    is saved at once, in RUN/review or in a database; the model's rows are never changed.
    """

    run: CliPositionalArg[str] = Field(description="folder of a finished run of classify.py", repr=False)
    slides: str | None = Field(
        None, description="folder of the slides, where they are not in their old place", repr=False
    )
    reviewer: Annotated[str, StringConstraints(strip_whitespace=True, max_length=80)] = Field(
        "", description="name that everything is saved under; otherwise the page asks"
    )
    reading: Literal["first", "second"] = Field(
        "first", description="second: read blindly, without the model's and the first reading's answers"
    )
    further: list[Annotated[str, StringConstraints(pattern=r"^[^\s/\\,][^/\\,]{0,79}$")]] = Field(
        [], max_length=20, description="labels beside the bundle's classes, such as BASOPHIL"
    )
    database: str | None = Field(
        None, description="database for the log (postgresql://...); otherwise SQLite in RUN/review", repr=False
    )
    host: str = Field(
        "127.0.0.1", description="address to answer on; others than this machine's open it to the network"
    )
    port: int = Field(8100, ge=0, le=65535, description="port; 0: any free one")
    token: str = Field(
        "", pattern=r"^[A-Za-z0-9_.~-]{0,200}$", description="token of the address; otherwise a new one", repr=False
    )
    export: Kind | None = Field(None, description="instead of the page: write what was reviewed in this format")
    out: Path | None = Field(None, description="new folder for --export")
    image_prefix: str | None = Field(
        None, description="for label-studio: what stands before an image's path, such as https://images.lab/slides/"
    )
    only: Literal["reviewed", "all"] = Field(
        "reviewed", description="cells to export: those that a person has said something of or signed off, or all"
    )

    @model_validator(mode="after")
    def _check_export(self) -> ReviewSettings:
        if (self.export is None) != (self.out is None):
            raise ValueError("--export and --out go together")
        return self
