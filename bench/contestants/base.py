"""What a contestant has to be."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from psycopg import Connection

from replication_pipeline.embedded import EmbeddedPostgres


class Contestant(Protocol):
    """Installs one way of capture on the table ``users`` of a database made for it alone."""

    @property
    def name(self) -> str: ...

    def missing(self, connection: Connection) -> str | None:
        """What this server lacks, and how to get it; ``None`` when the contestant can run."""
        ...

    def install(self, connection: Connection) -> None:
        """Capture ``users``, which is there and empty. ``connection`` is in autocommit mode."""
        ...


@runtime_checkable
class Accompanied(Protocol):
    """A contestant that is more than what a database holds."""

    def beside(self, server: EmbeddedPostgres, dsn: str) -> AbstractContextManager[None]:
        """What runs or exists while a copy of its database, ``dsn``, is written to."""
        ...
