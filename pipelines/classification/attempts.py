"""How often workers died, so that neither a file nor a machine can end them for ever.

Ray starts a dead worker again and gives it the same part again, without end and without a word. Two ledgers in the
run's folder survive such deaths: one of each part, which finds the file that kills its worker, and one of each
worker, which ends the run when nothing helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import Field, ValidationError

from core.errors import LeukorayError
from core.settings import Settings

if TYPE_CHECKING:
    from pipelines.classification.storage import Folder

__all__ = ["MOST_DEATHS", "PartAttempts", "PartLedger", "WorkerLedger", "WorkerStarts"]

_Ledger = TypeVar("_Ledger", "PartLedger", "WorkerLedger")

MOST_DEATHS = 5
"""Deaths of one worker in a row, with nothing achieved between them, that end a run."""

_CAREFUL_FROM, _GIVE_UP_AT = 3, 12


class PartLedger(Settings):
    """What is on record of one part."""

    number: int = Field(0, ge=0, description="attempts that began")
    deaths: dict[int, int] = Field({}, description="deaths while a file was decoded, by the file's place in the part")
    decoding: int | None = Field(None, description="place of the file that is being decoded")


class WorkerLedger(Settings):
    """What is on record of one worker."""

    starts: int = Field(0, ge=0, description="starts since it last achieved something")


class PartAttempts:
    """How often a part was begun: a part that keeps killing its worker is worked through file by file.

    From the third attempt on, each file's place is on record while it is decoded; a file that was on record at two
    deaths is left out.

    Args:
        folder: Folder of the run.
        part: Number of the part.

    Raises:
        LeukorayError: With code ``worker-dies`` where even that does not help.
    """

    def __init__(self, folder: Folder, part: int) -> None:
        self._folder, self._name = folder, f".work/attempts/part-{part:08d}.json"
        before = _read(folder, self._name, PartLedger)
        deaths = dict(before.deaths)
        if before.decoding is not None:
            deaths[before.decoding] = deaths.get(before.decoding, 0) + 1
        self.poison = frozenset(place for place, count in deaths.items() if count > 1)
        self.found_poison = self.poison != {place for place, count in before.deaths.items() if count > 1}
        self._ledger = PartLedger(number=before.number + 1, deaths=deaths)
        if self._ledger.number > _GIVE_UP_AT:
            raise _worker_dies(f"Part {part} ended its worker {before.number} times")
        self.note(None)

    @property
    def careful(self) -> bool:
        """Whether to decode one file at a time."""
        return self._ledger.number >= _CAREFUL_FROM

    def note(self, decoding: int | None) -> None:
        """Put on record which file is being decoded, if any."""
        self._ledger = self._ledger.model_copy(update={"decoding": decoding})
        self._folder.write(self._name, self._ledger.model_dump_json().encode())

    def finish(self) -> None:
        """Forget the ledger; the part is written."""
        self._folder.delete(self._name)


class WorkerStarts:
    """How often a worker was started without achieving anything: a finished part, or a file found to be deadly.

    Args:
        folder: Folder of the run.
        worker: Identifier that the worker keeps when Ray starts it again.

    Raises:
        LeukorayError: With code ``worker-dies`` where it died too often in a row.
    """

    def __init__(self, folder: Folder, worker: str) -> None:
        self._folder, self._name = folder, f".work/starts/{worker}.json"
        deaths = _read(folder, self._name, WorkerLedger).starts
        if deaths >= MOST_DEATHS:
            raise _worker_dies(f"A worker ended {deaths} times in a row without finishing anything")
        folder.write(self._name, WorkerLedger(starts=deaths + 1).model_dump_json().encode())
        self._counts = True

    def achieve(self) -> None:
        """Count from the beginning again: something was achieved."""
        if self._counts:
            self._folder.delete(self._name)
            self._counts = False


def _read(folder: Folder, name: str, ledger: type[_Ledger]) -> _Ledger:
    """Read a ledger; an empty one where there is none, or where it cannot be understood."""
    if not folder.exists(name):
        return ledger()
    try:
        return ledger.model_validate_json(folder.read(name))
    except ValidationError:
        return ledger()


def _worker_dies(what: str) -> LeukorayError:
    return LeukorayError(
        "worker-dies",
        f"{what}; there may be too little memory. What is done is kept; lower --workers or --batch-size, and continue"
        " with --resume.",
    )
