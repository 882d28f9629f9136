"""Whom the checks look at: one contour's database, seen by the role of its windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.findings import Check, NotSeenError
from replication_pipeline.postgres import queries
from replication_pipeline.settings import Settings

SQL: Final = {
    name: text
    for file in ("doctor", "doctor_tables", "doctor_server", "doctor_contours")
    for name, text in queries.load(file).items()
}
APPLIES: Final = "replication_consumer"
Others = Mapping[str, psycopg.Connection[Any] | ReplicationError]


@dataclass(frozen=True, slots=True)
class Patient:
    """``others``: contours that can be reached by ``compare.contours``, or why one can't."""

    connection: psycopg.Connection[Any]
    settings: Settings
    role: str
    others: Others = field(default_factory=dict)

    def ask(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a named query here. ``NotSeenError``: the role may not ask."""
        return ask(self.connection, name, tables=list(self.settings.tables), **parameters)

    def reached(self) -> dict[str, psycopg.Connection[Any]]:
        """The other contours that have answered."""
        return {
            name: other
            for name, other in self.others.items()
            if isinstance(other, psycopg.Connection)
        }


def ask(connection: psycopg.Connection[Any], name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a named query in any contour."""
    with unseen():
        return connection.execute(SQL[name], parameters).fetchall()


@contextmanager
def unseen() -> Iterator[None]:
    """What the role may not see, or what takes too long to, is no failure of the doctor's."""
    try:
        yield
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.QueryCanceled,
        psycopg.errors.UndefinedTable,  # the installed SQL is older than this program
        psycopg.errors.UndefinedColumn,
        psycopg.errors.UndefinedFunction,
    ) as error:
        raise NotSeenError(error.diag.message_primary or "no answer") from None


PatientCheck = Check[Patient]
