"""The record of the run in progress, written to ``run.json`` as it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from core.errors import LeukorayError
from core.settings import time_stamp
from runtime.progress import say

if TYPE_CHECKING:
    from pipelines.classification.record import RunRecord, RunSession
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder

__all__ = ["Journal"]


class Journal:
    """Keeps a run's record and writes it whole.

    Args:
        run: Folder of the run.
        record: Record as it stands.
    """

    def __init__(self, run: RunFolder, record: RunRecord) -> None:
        self._run = run
        self.record = record

    @property
    def session(self) -> RunSession:
        """The current start of the command."""
        return self.record.sessions[-1]

    def write(self, **changes: object) -> None:
        """Change fields of the record and replace ``run.json``."""
        self.record = self.record.model_copy(update={**changes, "updated": time_stamp()})
        self._run.write_record(self.record)

    def write_session(self, session: RunSession) -> None:
        """Put the current session's new numbers in the place of the old ones."""
        self.write(sessions=(*self.record.sessions[:-1], session))

    def fail(self, error: BaseException, *folders: Folder) -> str:
        """Put on record that the run stopped, once, without trying for long: the storage itself may have failed.

        Args:
            error: What ended the run.
            folders: Folders whose secrets must not be shown.

        Returns:
            Why it stopped, in one line without secrets.
        """
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        for folder in folders:
            reason = folder.location.scrub(reason)
        self._run = replace(self._run, folder=self._run.folder.impatient())
        before = self.record.state
        try:
            self.write(state="stopped" if isinstance(error, KeyboardInterrupt) else "failed", error=reason)
        except (LeukorayError, OSError):
            say(f"{self._run.folder.show('run.json')} cannot be written either, and may still say {before!r}.")
        return reason
