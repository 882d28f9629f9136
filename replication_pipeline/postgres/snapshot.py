"""The queue's and the table's side of a snapshot: one connection, a transaction for each step.

Parts are taken ``FOR UPDATE SKIP LOCKED``, so any number of connections work on one run. Rows are
locked before their events get ids. Of a delete there is no row to lock; it waits for writers instead
(``snapshot_deletes`` in ``sql/schema/47_snapshots.sql``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from replication_pipeline.domain.errors import PoisonError, RefusedError
from replication_pipeline.engine.failpoints import failpoint
from replication_pipeline.engine.snapshot import Progress, Run, Step
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import patient, pin_plans
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.session import Session
from replication_pipeline.postgres.shards import lock_shards
from replication_pipeline.postgres.snapshot_table import SnapshotTable
from replication_pipeline.settings import Settings

SQL: Final = queries.load("snapshot")
APPLICATION_NAME: Final = "replicator_snapshot"
DELETES: Final = 5_000  # of one step; each waits for writers once
PATIENCE: Final = 1.0  # seconds that deletes wait for writers in one transaction
LATER: Final = 2.0  # seconds after which they are tried again
LOOK_EVERY: Final = 0.005


@dataclass(slots=True)
class PostgresSnapshot:
    """One connection's part of ``run``. Not thread-safe."""

    settings: Settings
    run: Run
    table: SnapshotTable
    _session: Session = field(init=False)
    _deletes_from: float = 0.0  # on the monotonic clock
    _deletes_wait: str = ""

    def __post_init__(self) -> None:
        self._session = Session(patient(self.settings), application_name=APPLICATION_NAME)

    def step(self, rows: int) -> Step:
        """One chunk of the first part that nobody has, or rows that were skipped."""
        with self._transaction("queueing a snapshot") as connection:
            lowest = 0 if time.monotonic() >= self._deletes_from else 1
            part = connection.execute(
                SQL["take_part"], {"id": self.run.id, "lowest": lowest}
            ).fetchone()
            failpoint("part_taken")
            if part is None:
                return self._revisit(connection, rows)
            if part[0] == 0:
                return self._deletes(connection, part[1][0] if part[1] else "")
            return self._chunk(connection, rows, *part)

    def waiting(self, limit: int) -> int:
        """Unpublished events, counted up to ``limit``."""
        return self._ask("waiting", {"limit": limit})

    def publishers(self) -> int:
        """How many are alive."""
        return self._ask("publishers", {})

    def progress(self) -> Progress:
        """Of the whole run."""
        with self._transaction("reading how far a snapshot is") as connection:
            return self._progress(connection)

    def finish(self) -> None:
        """If nothing is left."""
        with self._transaction("finishing a snapshot") as connection:
            connection.execute(SQL["finish"], {"id": self.run.id})

    def abandon(self) -> None:
        """The server rolls back."""
        self._session.drop()

    def _chunk(
        self,
        connection: psycopg.Connection,
        rows: int,
        part: int,
        after: list[str] | None,
        ends: list[str] | None,
    ) -> Step:
        known = self.table.parameters(after, ends)
        found = connection.execute(
            self.table.statement("last_key", after=after, ends=ends),
            known | {"rows": rows},
            prepare=False,
        ).fetchone()
        last = found[0] if found else ends
        queued, _ = self._one(
            connection,
            self.table.statement("chunk", after=after, ends=last),
            self.table.parameters(after, last) | self._names,
        )
        failpoint("chunk_queued")
        connection.execute(
            SQL["move_part"],
            {"id": self.run.id, "part": part, "reached": last, "queued": queued, "done": not found},
        )
        return Step("chunk", queued)

    def _revisit(self, connection: psycopg.Connection, rows: int) -> Step:
        queued, _ = self._one(
            connection, self.table.statement("revisit"), self._names | {"rows": rows}
        )
        if queued:
            return Step("chunk", queued)
        progress = self._progress(connection)
        if progress.skipped:
            waits = f"{progress.skipped:,} rows of {self.run.table} are being written by others"
            return Step("rest", waits=waits)
        if progress.parts_left:
            return Step("rest", waits=self._deletes_wait)
        return Step("end")

    def _deletes(self, connection: psycopg.Connection, after: str) -> Step:
        name = {"table": self.run.table}
        found, newest, keys = self._one(
            connection,
            self.table.statement("tombstones"),
            name | {"after": after, "rows": DELETES},
        )
        queued = 0
        if keys:
            events = connection.execute(
                SQL["queue_deletes"], self._names | {"keys": keys}
            ).fetchall()
            failpoint("deletes_queued")
            if not self._writers_have_ended(connection):
                connection.rollback()
                self._deletes_from = time.monotonic() + LATER
                self._deletes_wait = (
                    f"{len(events):,} deletes wait for transactions that write to {self.run.table}"
                )
                return Step("rest", waits=self._deletes_wait)
            ids, shards, tombstones, versions = map(list, zip(*events, strict=True))
            lock_shards(connection, shards)
            taken_back = connection.execute(
                self.table.statement("take_back"),
                name | {"ids": ids, "shards": shards, "keys": tombstones, "versions": versions},
            ).rowcount
            queued = len(events) - taken_back
        connection.execute(
            SQL["move_part"],
            {
                "id": self.run.id,
                "part": 0,
                "reached": [newest] if newest else None,
                "queued": queued,
                "done": found < DELETES,
            },
        )
        return Step("chunk", queued)

    def _writers_have_ended(self, connection: psycopg.Connection) -> bool:
        """Those that may write to the table at this moment, within ``PATIENCE``."""
        relation = {"relation": self.table.table.relation}

        def writers() -> set[str]:
            return {name for (name,) in connection.execute(SQL["writers"], relation, prepare=True)}

        return _within(PATIENCE, writers(), writers)

    @property
    def _names(self) -> dict[str, Any]:
        return {"id": self.run.id, "table_id": self.table.table.table_id, "to": self.run.to}

    def _progress(self, connection: psycopg.Connection) -> Progress:
        row = connection.execute(SQL["progress"], {"id": self.run.id}).fetchone()
        if row is None:
            raise RefusedError(f"snapshot {self.run.id} of {self.run.table} is not known any more")
        return Progress(*row)

    def _ask(self, query: str, parameters: dict[str, Any]) -> int:
        with self._transaction("looking at the queue") as connection:
            row = connection.execute(SQL[query], parameters, prepare=True).fetchone()
            return int(row[0]) if row else 0

    def _one(
        self, connection: psycopg.Connection, statement: Any, parameters: dict[str, Any]
    ) -> tuple[Any, ...]:
        # Planned with its values: a range is narrow or wide.
        row = connection.execute(statement, parameters, prepare=False).fetchone()
        assert row is not None
        return row

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[psycopg.Connection]:
        try:
            with translating(f"contour {self.settings.contour.name}: {doing} of {self.run.table}"):
                connection, new = self._session.connection()
                if new:
                    # By the primary key, whatever the statistics say of a table that has just grown.
                    pin_plans(connection, "enable_seqscan", "enable_bitmapscan")
                    connection.commit()
                yield connection
                connection.commit()
        except PoisonError as error:  # the filter fails on a row; or the table has changed
            self._session.drop()
            raise RefusedError(
                error.message,
                remedy="mend the filter, and begin anew with --restart" if self.run.where else None,
            ) from None
        except BaseException:
            self._session.drop()
            raise


def _within(seconds: float, those: set[str], now: Callable[[], set[str]]) -> bool:
    """Whether all of ``those`` are gone from what is ``now``, in time."""
    until = time.monotonic() + seconds
    while those := those & now() if those else those:
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_EVERY)
    return True
