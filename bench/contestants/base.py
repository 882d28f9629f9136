"""What a contestant has to be."""

from __future__ import annotations

from typing import Protocol

from psycopg import Connection


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
