"""What has to hold before a run may write into its folder: a new run, or one that is continued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import SettingsError
from pipelines.classification.record import RunArguments, RunRecord
from pipelines.classification.slides import no_such_slides

if TYPE_CHECKING:
    from pipelines.classification.record import RunBundle
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder

__all__ = ["open_run"]


def open_run(source: Folder, run: RunFolder, arguments: RunArguments, bundle: RunBundle, *, resume: bool) -> RunRecord:
    """Return the record of a run that may begin or go on; nothing is written.

    Args:
        source: Folder of slides.
        run: Folder of the run.
        arguments: Options that decide the rows.
        bundle: Bundle that will classify.
        resume: Whether a run that exists may be continued.

    Raises:
        DataError: With code ``not-found`` where there is no folder of slides.
        SettingsError: With code ``run-inside-slides``, ``run-not-empty``, ``run-exists``, ``run-mismatch`` or
            ``run-damaged``.
    """
    if not source.is_folder():
        raise no_such_slides(source)
    inside = run.folder.path == source.path or run.folder.path.startswith(source.path + "/")
    if inside and type(run.folder.filesystem) is type(source.filesystem):
        raise SettingsError("run-inside-slides", "RUN lies inside SLIDES, so its overlays would be taken for slides.")
    if not run.exists:
        if not run.is_empty:
            where = run.folder.shown
            raise SettingsError("run-not-empty", f"{where} is not empty and holds no run; choose another folder.")
        return RunRecord.begin(arguments, bundle)
    record = run.read_record()
    if run.read_list() is None:  # nothing is there to continue
        return RunRecord.begin(arguments, bundle)
    if not resume:
        raise SettingsError(
            "run-exists",
            f"{run.folder.shown} holds a run already; continue it with --resume, or choose another folder.",
        )
    _check_same(run.folder.shown, record, arguments, bundle)
    return record


def _check_same(where: str, record: RunRecord, arguments: RunArguments, bundle: RunBundle) -> None:
    """Refuse to mix another bundle, or other options, into a run."""
    if record.bundle.id != bundle.id:
        raise SettingsError("run-mismatch", f"The run in {where} was made with another bundle; it is not mixed.")
    for name in RunArguments.model_fields:
        before, given = getattr(record.arguments, name), getattr(arguments, name)
        if before != given:
            raise SettingsError(
                "run-mismatch",
                f"The run in {where} was made with {name} = {before!r}, not {given!r}; give the same options, or"
                " choose another folder.",
            )
