"""Correct a finished run: ``python pipelines/review.py RUN``.

A local page over the run's cells, a log of everything that reviewers say, the reviewed differential, sign-off, and
exports of what was reviewed.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from core.errors import SettingsError
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder
from pipelines.reviewing.cells import read_cells
from pipelines.reviewing.desk import Desk, run_identity
from pipelines.reviewing.exports.export import export
from pipelines.reviewing.log import ReviewLog, local_database
from pipelines.reviewing.pictures import Pictures
from pipelines.reviewing.review import Review
from pipelines.reviewing.server import serve_page
from pipelines.reviewing.settings import ReviewSettings
from pipelines.reviewing.sources import SourceImages
from pipelines.reviewing.state import FIRST, SECOND
from runtime.command import FAILED, run_command
from runtime.progress import say

if TYPE_CHECKING:
    from pipelines.classification.record import RunRecord
    from pipelines.classification.storage import Folder

__all__ = ["ReviewSettings", "main", "review"]


_READINGS = {"first": FIRST, "second": SECOND}


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
    try:
        if settings.export and settings.out:
            return _export(settings, work, run, record, slides)
        if not slides.is_folder():
            say(f"{slides.shown} is not there: the run's own small pictures are shown (--slides says where it is)")
        desk = Desk(
            work,
            run,
            record,
            Pictures(run, SourceImages(run, slides), work.state),
            _READINGS[settings.reading],
            settings.reviewer,
        )
        serve_page(desk, settings.host, settings.port, settings.token or secrets.token_urlsafe(24))
        desk.write_outcome()
    finally:
        log.close()
    return 0


def _export(settings: ReviewSettings, work: Review, run: RunFolder, record: RunRecord, slides: Folder) -> int:
    """Write an export and say what is in it; fail where something is missing."""
    kind, out = settings.export, settings.out
    if kind is None or out is None:
        return 0
    made = export(kind, work.state, run, record, slides, out, which=settings.only, image_prefix=settings.image_prefix)
    say(f"{made.cells:,} cells of {made.images:,} images as {kind}: {out}")
    for reason, count in made.passed_over.items():
        say(f"{count:,} passed over: {reason}")
    if made.left_out:
        say(f"error: {len(made.left_out):,} images or cells could not be exported; {out / 'left_out.csv'} says why")
    return FAILED if made.left_out else 0


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
