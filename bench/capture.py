"""Scenario ``capture``: what capturing changes costs those who write them.

``bulk``: INSERT, UPDATE and DELETE of many rows in one statement each: time, WAL and what the queue
takes. ``single``: transactions of one row by several clients, half of them inserts, half updates by
key. Every measurement has a new copy of the contestant's database, its connection warmed up; a whole
round before the first one is thrown away, so that WAL files and memory are in use by then.

With ``wal_level = logical``, which all of them then have, logical slots take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import psycopg
from psycopg import Connection
from rich.console import Console

from bench import pgbench, users
from bench.contestants.base import Accompanied, Contestant
from bench.contestants.bucardo import Bucardo
from bench.contestants.logical_slot import LogicalSlot
from bench.contestants.ours import Ours
from bench.contestants.pgq_logutriga import PgqLogutriga
from bench.contestants.plain import Plain
from bench.contestants.row_trigger import RowTrigger
from bench.contestants.statement_minimal import StatementMinimal
from bench.database import copy_of, make_template, settle_down
from bench.measure import cost_of, rotated, warm_up
from bench.peers.debian import installed
from bench.results import Recorder, Result, recorder
from replication_pipeline.embedded import EmbeddedPostgres

CONTESTANTS: Final[tuple[Contestant, ...]] = (
    Plain(),
    Ours(),
    RowTrigger(),
    StatementMinimal(),
    PgqLogutriga(),
    Bucardo(),
    LogicalSlot(),
    LogicalSlot("logical-slot-read", read=True),
)
"""The first one is what the others are compared with."""

SERVER: Final[Mapping[str, str]] = {"autovacuum": "off"}  # vacuumed by hand, between measurements
KEYS: Final = 10_000  # rows that single updates choose from
WARM_UP_SECONDS: Final = 1
WARM_UP: Final = "one round; 1000 rows (bulk) or 1 s (single) before each measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    rows: int = 100_000
    rounds: int = 5
    seconds: int = 5
    """Of single-row transactions, for each contestant in each round; 0 leaves them out."""
    clients: int = 4
    wal_level: Literal["replica", "logical"] = "replica"

    @property
    def server(self) -> Mapping[str, str]:
        return {**SERVER, "wal_level": self.wal_level}

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            contestants = fit(connection, CONTESTANTS, console)
            more_versions = {**extensions(connection), **installed(["bucardo"])}
        results = recorder(
            "capture",
            server,
            contestants=[contestant.name for contestant in contestants],
            more_versions=more_versions,
            rows=self.rows,
            rounds=self.rounds,
            seconds=self.seconds,
            clients=self.clients,
            warm_up=WARM_UP,
        )
        templates = [(contestant, make_template(server, contestant)) for contestant in contestants]
        for turn in range(self.rounds + 1):
            console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
            for contestant, template in rotated(templates, turn):
                self._bulk(server, template, contestant, results if turn else None, turn)
            for contestant, template in rotated(templates, turn):
                self._single(server, template, contestant, results if turn else None, turn)
        return results.results

    def _bulk(
        self,
        server: EmbeddedPostgres,
        template: str,
        contestant: Contestant,
        results: Recorder | None,
        turn: int,
    ) -> None:
        statements = {
            "insert": users.insert(1, self.rows),
            "update": users.UPDATE,
            "delete": users.DELETE,
        }
        with (
            copy_of(server, template) as dsn,
            beside(server, contestant, dsn),
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            warm_up(connection)
            for kind, statement in statements.items():
                cost = cost_of(connection, statement)
                if results is None:
                    continue
                time = cost.seconds * 1e6 / self.rows
                results.add(contestant.name, f"{kind}, time", time, "µs/row", run=turn)
                sizes = {
                    "WAL": cost.wal_bytes,
                    "kept in tables": cost.table_bytes,
                    "kept in indexes": cost.index_bytes,
                }
                for what, size in sizes.items():
                    results.add(
                        contestant.name, f"{kind}, {what}", size / self.rows, "bytes/row", run=turn
                    )

    def _single(
        self,
        server: EmbeddedPostgres,
        template: str,
        contestant: Contestant,
        results: Recorder | None,
        turn: int,
    ) -> None:
        if not self.seconds:
            return
        with copy_of(server, template) as dsn, beside(server, contestant, dsn):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(users.insert(1, KEYS))
                settle_down(connection)
            warm, speed = (
                pgbench.transactions_per_second(
                    server.bin("pgbench"),
                    dsn,
                    [users.SINGLE_INSERT, users.SINGLE_UPDATE],
                    clients=self.clients,
                    seconds=seconds,
                    seed=seed,
                    keys=KEYS,
                )
                for seed, seconds in (
                    (2 * turn + 1, WARM_UP_SECONDS),
                    (2 * turn + 2, self.seconds if turn else WARM_UP_SECONDS),
                )
            )
        del warm
        if results is not None:
            results.add(contestant.name, "single-row transactions", speed, "tx/s", run=turn)


@contextmanager
def beside(server: EmbeddedPostgres, contestant: Contestant, dsn: str) -> Iterator[None]:
    """What belongs to the contestant and isn't in its database, if anything."""
    if isinstance(contestant, Accompanied):
        with contestant.beside(server, dsn):
            yield
    else:
        yield


def fit(
    connection: Connection, contestants: Sequence[Contestant], console: Console
) -> list[Contestant]:
    """Those that can run on this server; says why the others can't."""
    able = []
    for contestant in contestants:
        missing = contestant.missing(connection)
        if missing is None:
            able.append(contestant)
        else:
            console.print(f"without {contestant.name}: {missing}", highlight=False)
    return able


def extensions(connection: Connection) -> dict[str, str]:
    """Versions of the extensions that contestants are made of."""
    return dict(
        connection.execute(
            "select name, default_version from pg_available_extensions where name = 'pgq'"
        ).fetchall()
    )
