"""Correct a finished run: ``python pipelines/review.py RUN``.

A local page over the run's cells, a log of everything that reviewers say, the reviewed differential, sign-off, and
exports of what was reviewed.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import CliPositionalArg

from core.errors import SettingsError
from core.settings import Settings
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder
from pipelines.reviewing.cells import read_cells
from pipelines.reviewing.desk import Desk, run_identity
from pipelines.reviewing.exports.export import ExportKind, write_export
from pipelines.reviewing.log import ReviewLog, local_database
from pipelines.reviewing.pictures import Pictures
from pipelines.reviewing.review import Review
from pipelines.reviewing.server import serve_page
from pipelines.reviewing.sources import SourceImages
from pipelines.reviewing.state import FIRST, SECOND
from runtime.command import run_command
from runtime.progress import say

__all__ = ["ReviewSettings", "main", "review"]


_READINGS = {"first": FIRST, "second": SECOND}


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
    token: str = Field("", max_length=200, description="token of the address; otherwise a new one", repr=False)
    export: ExportKind | None = Field(None, description="instead of the page: write what was reviewed in this format")
    out: Path | None = Field(None, description="new folder for --export")
    only: Literal["reviewed", "all"] = Field(
        "reviewed", description="cells to export: those that a person has said something of or signed off, or all"
    )

    @model_validator(mode="after")
    def _check_export(self) -> ReviewSettings:
        if (self.export is None) != (self.out is None):
            raise ValueError("--export and --out go together")
        return self


def review(settings: ReviewSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The run or the options cannot be used.
    """
    run = RunFolder(open_folder(settings.run))
    if not run.exists:
        raise SettingsError("no-run", f"{run.folder.shown} holds no run of classify.py.")
    record = run.read_record()
    cells = read_cells(run, record)
    log = ReviewLog(_database(settings, run), run_identity(record), record.bundle.id)
    work = Review(cells, log, settings.further)
    slides = open_folder(settings.slides or record.arguments.slides)
    sources = SourceImages(run, slides, open_folder(record.arguments.slides).path, cells)
    try:
        if settings.export and settings.out:
            return write_export(settings.export, work, sources, record, settings.out, settings.only)
        if not slides.is_folder():
            say(f"{slides.shown} is not there: the run's own small pictures are shown (--slides says where it is)")
        desk = Desk(
            work, run, record, Pictures(run, sources, work.state), _READINGS[settings.reading], settings.reviewer
        )
        serve_page(desk, settings.host, settings.port, settings.token or secrets.token_urlsafe(24))
        desk.write_outcome()
    finally:
        log.close()
    return 0


def _database(settings: ReviewSettings, run: RunFolder) -> str:
    if settings.database:
        return settings.database
    if not run.folder.local:
        raise SettingsError(
            "no-database", f"{run.folder.shown} is no folder of this machine, where SQLite could be; give --database."
        )
    return local_database(Path(run.folder.path) / "review")


def main() -> int:
    """Entry point of the command."""
    return run_command(ReviewSettings, review)


if __name__ == "__main__":
    sys.exit(main())
