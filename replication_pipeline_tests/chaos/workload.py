"""Writers: many small transactions on few hot and many cold rows, of every kind of statement.

Every row that a statement writes carries the statement's id, so that the queue tells afterwards what
became of it. A commit whose answer was lost is *unknown*: all of its rows were captured, or none.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import psycopg

from replication_pipeline_tests.chaos.stack import Contour
from replication_pipeline_tests.chaos.tables import CHILDREN, COLD, HOT, INSERTS, UNIQUE

Outcome = Literal["committed", "rolled back", "unknown"]
WRITERS: Final = 2  # a contour


@dataclass(frozen=True, slots=True)
class Operation:
    """One transaction: how many captured row images carry the id of each of its statements, if it is
    committed.
    """

    contour: str
    name: str
    rows: dict[str, int]
    outcome: Outcome


@dataclass
class Writer:
    """One application. ``run`` goes on until ``stop`` is set, whatever happens to its server."""

    contour: Contour
    name: str
    chance: random.Random
    tables: Sequence[str]
    interval: float
    operations: list[Operation] = field(default_factory=list)
    number: int = 0

    def run(self, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            try:
                with psycopg.connect(self.contour.dsn, connect_timeout=2) as connection:
                    connection.execute("set lock_timeout = '3s'; set statement_timeout = '10s'")
                    connection.commit()
                    while not stop.wait(max(0.0, due - time.monotonic())):
                        # A writer that was held up doesn't catch up.
                        due = max(due + self.interval, time.monotonic() - 1)
                        self._transaction(connection)
                        if connection.closed:
                            break
            except psycopg.OperationalError:
                stop.wait(0.2)

    def _transaction(self, connection: psycopg.Connection[Any]) -> None:
        self.number += 1
        name = f"{self.name}-{self.number}"
        rows: dict[str, int] = {}
        outcome: Outcome = "rolled back"
        try:
            for n in range(self.chance.choice((1, 1, 1, 1, 2, 3, 10))):
                rows[f"{name}-{n}"] = self._statement(connection, f"{name}-{n}")
            outcome = "unknown"
            connection.commit()
            outcome = "committed"
        except (psycopg.IntegrityError, psycopg.errors.TransactionRollback):
            outcome = "rolled back"
            connection.rollback()
        except psycopg.OperationalError:
            if not connection.closed:  # a timeout that the server told us of
                outcome = "rolled back"
                connection.rollback()
        finally:
            self.operations.append(Operation(self.contour.name, name, rows, outcome))

    def _statement(self, connection: psycopg.Connection[Any], op: str) -> int:
        """How many rows were given the id ``op``."""
        table = self.chance.choice(self.tables)
        hot = self.chance.random() < 0.7
        key = self.chance.randrange(HOT) + 1 if hot else self.chance.randrange(COLD) + 1000
        values = {
            "key": key,
            "op": op,
            "hot": HOT,
            "other": self.chance.randrange(HOT) + 1,
            "email": f"{self.chance.randrange(HOT)}@example",
            # Some rows are of 100 kB.
            "note": "long " * 20_000 if self.chance.random() < 0.02 else "new",
        }
        what: Callable[..., int] = self.chance.choices(
            (self._update, self._insert, self._delete, self._move), (55, 25, 15, 5)
        )[0]
        return what(connection, table, values)

    def _update(self, connection: psycopg.Connection[Any], table: str, values: Any) -> int:
        if table == "register" and self.chance.random() < 0.1:
            return connection.execute(
                "merge into register t using (values (%(key)s), (%(other)s)) as s(id) on t.id = s.id "
                "when matched then update set op = %(op)s, note = 'merged' "
                "when not matched then insert (id, op, note) values (s.id, %(op)s, 'merged')"
                if values["key"] != values["other"]
                else "update register set op = %(op)s where id = %(key)s",
                values,
            ).rowcount
        if table == UNIQUE and self.chance.random() < 0.3:
            return connection.execute(
                "update member set op = %(op)s, email = %(email)s where id = %(key)s", values
            ).rowcount
        if table in CHILDREN and self.chance.random() < 0.3:
            parent = "(select max(id) from parent where id <= %(other)s and id %% 3 = {})"
            return connection.execute(
                f"update {table} set op = %(op)s, parent_id = coalesce("
                f"{parent.format(CHILDREN.index(table))}, parent_id) where id = %(key)s",
                values,
            ).rowcount
        where = (
            "id between %(key)s and %(key)s + 3" if self.chance.random() < 0.1 else "id = %(key)s"
        )
        return connection.execute(f"update {table} set op = %(op)s where {where}", values).rowcount

    def _insert(self, connection: psycopg.Connection[Any], table: str, values: Any) -> int:
        if table == "register" and self.chance.random() < 0.1:
            first = self.chance.randrange(10**12) + 10**6
            with connection.cursor().copy("copy register (id, op, note) from stdin") as copy:
                for n in range(5):
                    copy.write_row((first + n, values["op"], "copied"))
            return 5
        return connection.execute(INSERTS[table], values).rowcount

    def _delete(self, connection: psycopg.Connection[Any], table: str, values: Any) -> int:
        if table == "parent" and self.chance.random() < 0.5:
            connection.execute("delete from strict where parent_id = %(key)s", values)
        connection.execute(f"delete from {table} where id = %(key)s", values)
        return 0

    def _move(self, connection: psycopg.Connection[Any], table: str, values: Any) -> int:
        if table == "parent":  # others may refer to it
            return self._update(connection, table, values)
        return connection.execute(
            f"update {table} set id = %(other)s, op = %(op)s where id = %(key)s", values
        ).rowcount


class Workload:
    """All writers, which write while the block lasts."""

    def __init__(
        self, contours: Sequence[Contour], seed: int, rate: float, tables: Sequence[str]
    ) -> None:
        interval = len(contours) * WRITERS / rate
        self.writers = [
            Writer(contour, f"{contour.name}{n}", random.Random(f"{seed}-{contour.name}-{n}"),
                   tables, interval)
            for contour in contours
            for n in range(WRITERS)
        ]  # fmt: skip
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=writer.run, args=(self._stop,), daemon=True)
            for writer in self.writers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def operations(self) -> list[Operation]:
        return [operation for writer in self.writers for operation in writer.operations]
