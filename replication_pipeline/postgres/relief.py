"""Whether another worker of a role is there: what a window asks before it ends and leaves nobody."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.model import Role
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating
from replication_pipeline.settings import Settings

LOOK_EVERY: Final = 0.5  # seconds


@dataclass(slots=True)
class Relief:
    """Looks twice a second at most, over a connection of its own; not known is no."""

    settings: Settings
    role: Role
    instance: str
    _next_look: float = field(default=0.0)
    _found: bool = field(default=False)

    def __call__(self) -> bool:
        """Whether one is there."""
        if not self._found and time.monotonic() >= self._next_look:
            self._found = self._look()
            self._next_look = time.monotonic() + LOOK_EVERY
        return self._found

    def _look(self) -> bool:
        contour = self.settings.contour.name
        try:
            with (
                translating(f"contour {contour}: looking for another {self.role}"),
                closing(connect(self.settings, application_name="replicator_relief")) as connection,
            ):
                row = connection.execute(
                    queries.load("workers")["another"],
                    {"role": self.role, "instance": self.instance},
                ).fetchone()
        except ReplicationError:
            return False
        return bool(row and row[0])
