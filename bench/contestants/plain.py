"""No capture: what writing the rows costs by itself."""

from __future__ import annotations

from psycopg import Connection


class Plain:
    name = "plain"

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        """Leave the table as it is."""
