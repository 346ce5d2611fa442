"""The log of a review in a database: who said what of which cell, and when; rows are added, never changed.

Every run has a row of its own that a writer changes first, which makes writers wait for each other, in SQLite as in
PostgreSQL. Entries are therefore numbered 1, 2, ... in the order in which they became visible, and who has read up to
a number has missed none.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from core.errors import DataError, LeukorayError, SettingsError
from core.images.cells import Box
from pipelines.reviewing.cells import CellKey

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["LABELLING", "Action", "Entry", "NotSavedError", "ReviewLog", "Writer", "local_database"]

Action = Literal["label", "add", "undo", "note", "sign", "reopen"]
LABELLING = frozenset({"label", "add", "undo"})
"""Actions that change what a cell is."""

_BUSY_MS = 10_000
_metadata = sql.MetaData()
_runs = sql.Table(
    "review_runs",
    _metadata,
    sql.Column("run", sql.String(64), primary_key=True),
    sql.Column("last", sql.Integer, nullable=False),
)
_log = sql.Table(
    "review_log",
    _metadata,
    sql.Column("run", sql.String(64), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("request", sql.String(64), nullable=False),
    sql.Column("at", sql.String(40), nullable=False),
    sql.Column("reviewer", sql.Text, nullable=False),
    sql.Column("reading", sql.Integer, nullable=False),
    sql.Column("action", sql.String(16), nullable=False),
    sql.Column("slide", sql.Text, nullable=False),
    sql.Column("image", sql.Text, nullable=False),
    sql.Column("cell", sql.Integer, nullable=False),
    sql.Column("before", sql.Text, nullable=False),
    sql.Column("after", sql.Text, nullable=False),
    sql.Column("left", sql.Float),
    sql.Column("top", sql.Float),
    sql.Column("right", sql.Float),
    sql.Column("bottom", sql.Float),
    sql.Column("bundle", sql.String(64), nullable=False),
    sql.Column("note", sql.Text, nullable=False),
    sql.Column("undoes", sql.String(64)),
    sql.Index("review_log_requests", "run", "request"),
)


class NotSavedError(LeukorayError):
    """The database did not take what was to be saved; what it has is as before."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the log.

    Attributes:
        number: 1, 2, ... in the order in which entries were saved.
        request: What the caller calls the action; the same for all cells that one action changed.
        at: Time, ISO 8601, UTC.
        reviewer: Who.
        reading: 1, or 2 for a blind second reading.
        action: What was done.
        slide: Slide that it is about.
        image: Image of the cell; empty where it is about the slide.
        cell: Number of the cell in the image.
        before: Label before, or empty.
        after: Label after, or empty.
        left: Left edge of an added cell, in pixels of the upright image.
        top: Upper edge.
        right: Right edge.
        bottom: Lower edge.
        bundle: Bundle whose run it is about.
        note: What the reviewer wrote; of a sign-off also nothing else.
        undoes: The action that this one takes back.
    """

    number: int
    request: str
    at: str
    reviewer: str
    reading: int
    action: Action
    slide: str
    image: str = ""
    cell: int = 0
    before: str = ""
    after: str = ""
    left: float | None = None
    top: float | None = None
    right: float | None = None
    bottom: float | None = None
    bundle: str = ""
    note: str = ""
    undoes: str | None = None

    @property
    def key(self) -> CellKey:
        """The cell that it is about."""
        return CellKey(self.slide, self.image, self.cell)

    @property
    def box(self) -> Box | None:
        """The box of an added cell."""
        edges = (self.left, self.top, self.right, self.bottom)
        return None if None in edges else Box(*edges)  # type: ignore[arg-type]


_COLUMNS = tuple(field.name for field in fields(Entry))
_SELECT = sql.select(*(_log.c[name] for name in _COLUMNS)).order_by(_log.c.number)


def local_database(folder: Path) -> str:
    """Return the address of the database beside a run; its folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return sql.URL.create("sqlite", database=str(folder / "review.sqlite")).render_as_string(hide_password=False)


class ReviewLog:
    """The log of one run.

    Args:
        database: Address as SQLAlchemy takes it.
        run: What the run is called in the database.
        bundle: Bundle of the run, which every entry names.

    Raises:
        SettingsError: With code ``bad-database`` where it cannot be opened.
    """

    def __init__(self, database: str, run: str, bundle: str) -> None:
        self._run, self._bundle = run, bundle
        try:
            self._engine = sql.create_engine(_with_driver(database), pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _set_up_sqlite)
            _metadata.create_all(self._engine)
            self._begin_run()
        except (SQLAlchemyError, ImportError) as error:
            raise SettingsError("bad-database", f"The database cannot be used: {_reason(error)}.") from error

    def read_after(self, number: int) -> list[Entry]:
        """Return the entries with larger numbers, in order.

        Raises:
            DataError: With code ``database-fails``.
        """
        try:
            with self._engine.connect() as connection:
                return _read(connection, self._run, number)
        except SQLAlchemyError as error:
            raise DataError("database-fails", f"The review cannot be read: {_reason(error)}.") from error

    @contextmanager
    def writing(self) -> Generator[Writer]:
        """Keep other writers out while the block runs; what it adds is saved when the block ends.

        Raises:
            NotSavedError: With code ``not-saved``; nothing of the block is saved.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(sql.update(_runs).where(_runs.c.run == self._run).values(last=_runs.c.last))
                yield Writer(connection, self._run, self._bundle)
        except SQLAlchemyError as error:
            raise NotSavedError(
                "not-saved", f"The database did not take it ({_reason(error)}); nothing was saved. Try again."
            ) from error

    def close(self) -> None:
        """Close all connections; SQLite then folds its journal into the file."""
        self._engine.dispose()

    def _begin_run(self) -> None:
        try:
            with self._engine.begin() as connection:
                if connection.scalar(sql.select(_runs.c.last).where(_runs.c.run == self._run)) is None:
                    connection.execute(sql.insert(_runs).values(run=self._run, last=0))
        except sql.exc.IntegrityError:  # another process was first
            return


class Writer:
    """Reads and adds entries while nobody else can add any; `ReviewLog.writing` gives one."""

    def __init__(self, connection: sql.Connection, run: str, bundle: str) -> None:
        self._connection, self._run, self._bundle = connection, run, bundle

    def read_after(self, number: int) -> list[Entry]:
        """Return the entries with larger numbers, in order."""
        return _read(self._connection, self._run, number)

    def add(self, entries: Sequence[Entry]) -> list[Entry]:
        """Add entries and return them with their numbers, times and the bundle."""
        of_run = _runs.c.run == self._run
        last = self._connection.scalar(sql.select(_runs.c.last).where(of_run)) or 0
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        numbered = [
            replace(entry, number=number, at=moment, bundle=self._bundle)
            for number, entry in enumerate(entries, start=last + 1)
        ]
        rows = [dict(zip(_COLUMNS, astuple(entry), strict=True)) | {"run": self._run} for entry in numbered]
        self._connection.execute(sql.insert(_log), rows)
        self._connection.execute(sql.update(_runs).where(of_run).values(last=last + len(rows)))
        return numbered


def _read(connection: sql.Connection, run: str, number: int) -> list[Entry]:
    wanted = _SELECT.where(_log.c.run == run, _log.c.number > number)
    return [Entry(*row) for row in connection.execute(wanted)]


def _with_driver(database: str) -> sql.URL:
    """Return the address; PostgreSQL's with the driver that Leukoray's extra installs, where it names none."""
    address = sql.make_url(database)
    return address.set(drivername="postgresql+psycopg") if address.drivername == "postgresql" else address


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - of the database's driver
    """Let readers and a writer work at once, and let nothing be called saved before it is on the disk."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _reason(error: BaseException) -> str:
    """Return the driver's own words in one line, without statements, values or passwords."""
    plain = getattr(error, "orig", None) or error
    return (str(plain).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
