"""Scenario ``capture-split``: where each microsecond of capture goes.

The same rows into tables whose capture does a bit more each time, from nothing to the real one; the
report's column ``step`` is what a bit costs: by row when one statement brings all rows, and by
statement when each brings one (in one transaction, so that commits are not in it). The queue's columns,
checks, indexes and partitions are copied from the installed queue; what each column is filled with is
written here, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from psycopg import Connection
from rich.console import Console

from bench import layout, users
from bench.capture import SERVER
from bench.contestants.base import Contestant
from bench.contestants.ours import Ours, contour_settings
from bench.contestants.plain import Plain
from bench.database import copy_of, make_template
from bench.measure import cost_of, rotated, warm_up
from bench.results import Result, recorder
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres import installer

Build = Callable[[Connection], None]
ONE_BY_ONE: Final = 20  # this part of the rows is also inserted row by row, in one transaction

STAMP: Final = """
create schema scratch;
create sequence scratch.ids;
alter table users add column replication_version bigint not null default 0;
create function scratch.stamp() returns trigger language plpgsql as $$
begin
  new.replication_version := (date_part('epoch', clock_timestamp()) * 1000000)::bigint << 10 | 1;
  return new;
end $$;
create trigger zz_stamp before insert on users for each row execute function scratch.stamp();
"""

# `exists` looks at one row: what this costs is the keeping of all of them for the trigger.
TRIGGER: Final = """
create function scratch.capture() returns trigger language plpgsql as $$
declare
  seed constant text := overlay(left(gen_random_uuid()::text, 24) placing '8' from 15);
  txid constant bigint := pg_current_xact_id()::text::bigint;
begin
  if exists (select from new_rows) then
    %(statement)s;
  end if;
  return null;
end $$;
create trigger capture after insert on users referencing new table as new_rows
  for each statement execute function scratch.capture();
"""

WIRE_FORM: Final = """
select n.id, n.email, n.name, n.balance::text as balance, n.meta::text as meta,
       case when n.updated_at >= '0001-01-01Z'::timestamptz
             and n.updated_at < '10000-01-01Z'::timestamptz
            then replace(replace(n.updated_at::text, ' ', 'T'), '+00', 'Z')
            else n.updated_at::text end as updated_at"""

KEY: Final = "'{\"id\":' || n.id::text || '}'"
VALUES: Final[Mapping[str, str]] = {
    "id": "e.queue_id",
    "event_id": "(seed || lpad(to_hex(e.queue_id), 12, '0'))::uuid",
    "table_name": "'users'",
    "operation": "'INSERT'",
    "record_key": "e.key",
    "payload": "e.payload",
    "version": "e.version",
    "shard": "(hashtext(e.key) & 15)::smallint",
    "txid": "txid",
}


def insert_of(columns: Mapping[str, str], *, wire_form: bool = True) -> str:
    """The queueing statement that fills these columns, and computes nothing for others."""
    parts = {
        "queue_id": "nextval('scratch.ids')" if "id" in columns else None,
        "key": KEY if "record_key" in columns else None,
        "version": "n.replication_version" if "version" in columns else None,
        "payload": "row_to_json(w)" if wire_form else "row_to_json(n)",
    }
    computed = ", ".join(f"{text} as {name}" for name, text in parts.items() if text)
    source = f"new_rows n cross join lateral ({WIRE_FORM}) w" if wire_form else "new_rows n"
    return (
        f"insert into scratch.queue ({', '.join(columns)}) "
        f"select {', '.join(columns.values())} from (select {computed} from {source} offset 0) e"
    )


@dataclass(frozen=True, slots=True)
class Variant:
    """A contestant that is put together from SQL of its own, in the schema ``scratch``."""

    name: str
    build: Build

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        installer.install(connection, contour_settings(connection.info.dsn))
        connection.execute("set search_path = public")
        connection.execute(STAMP)
        self.build(connection)


def stamp_only(connection: Connection) -> None:
    """``install`` has done it."""


def trigger_only(connection: Connection) -> None:
    connection.execute(TRIGGER % {"statement": "null"})


def some_columns(*names: str, wire_form: bool = True) -> Build:
    """A queue of these columns and nothing else."""

    def build(connection: Connection) -> None:
        columns = ", ".join(names)
        connection.execute(
            f"create table scratch.queue as select {columns} from {layout.QUEUE} limit 0",
        )
        filled = {name: VALUES[name] for name in names}
        connection.execute(TRIGGER % {"statement": insert_of(filled, wire_form=wire_form)})

    return build


def all_columns(*, checks: bool = False, indexes: int = 0, partitions: bool = False) -> Build:
    """The queue's columns and defaults, with its checks, its first indexes, its partitions."""

    def build(connection: Connection) -> None:
        also = "including constraints" if checks else ""
        by = f"partition by {partition_key(connection)}" if partitions else ""
        connection.execute(
            f"create table scratch.queue (like {layout.QUEUE} including defaults {also}) {by}",
        )
        if partitions:
            for number, bound in enumerate(partition_bounds(connection)):
                connection.execute(
                    f"create table scratch.queue_{number} partition of scratch.queue {bound}",
                )
        for definition in [*index_definitions(connection).values()][:indexes]:
            connection.execute(definition)
        filled = layout.filled(layout.columns(connection), VALUES)
        connection.execute(TRIGGER % {"statement": insert_of(filled)})

    return build


def pinned(build: Build, settings: Mapping[str, str]) -> Build:
    """The same, and the function has these settings while it runs."""

    def build_pinned(connection: Connection) -> None:
        build(connection)
        for name, value in settings.items():
            text = value if name == "search_path" else f"'{value}'"
            connection.execute(f'alter function scratch.capture() set "{name}" = {text}')

    return build_pinned


def pinned_settings(connection: Connection) -> dict[str, str]:
    """The settings that our capture functions run with."""
    return dict(
        connection.execute(
            "select split_part(setting, '=', 1), split_part(setting, '=', 2)"
            "  from pg_trigger t join pg_proc p on p.oid = t.tgfoid, unnest(p.proconfig) setting"
            " where t.tgrelid = 'users'::regclass and t.tgnewtable is not null and t.tgtype & 4 > 0"
        ).fetchall()
    )


def index_definitions(connection: Connection) -> dict[str, str]:
    """The queue's indexes, the primary key first, as statements for ``scratch.queue``."""
    found = connection.execute(
        "select c.relname, pg_get_indexdef(i.indexrelid), i.indrelid::regclass::text"
        "  from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indrelid = %s::text::regclass order by i.indisprimary desc, i.indexrelid",
        [layout.QUEUE],
    )
    return {
        name: definition.replace(f" ON ONLY {table} ", " ON scratch.queue ").replace(
            f" ON {table} ", " ON scratch.queue "
        )
        for name, definition, table in found
    }


def partition_key(connection: Connection) -> str | None:
    """``LIST (slot)``, or ``None`` when the queue is an ordinary table."""
    ((key,),) = connection.execute("select pg_get_partkeydef(%s::text::regclass)", [layout.QUEUE])
    return None if key is None else str(key)


def partition_bounds(connection: Connection) -> list[str]:
    return [
        bound
        for (bound,) in connection.execute(
            "select pg_get_expr(c.relpartbound, c.oid)"
            "  from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent = %s::text::regclass order by c.oid",
            [layout.QUEUE],
        )
    ]


def variants(server: EmbeddedPostgres) -> list[Contestant]:
    """From no capture to ours, each a step dearer. What the queue looks like decides on the steps."""
    installed = server.dsn(make_template(server, Ours()))
    with psycopg.connect(installed, autocommit=True) as connection:
        indexes = list(index_definitions(connection))
        partitioned = partition_key(connection) is not None
        settings = pinned_settings(connection)
    steps: dict[str, Build] = {
        "+ version stamp": stamp_only,
        "+ statement trigger": trigger_only,
        "+ queue of JSON rows": some_columns("payload", wire_form=False),
        "+ wire forms of values": some_columns("payload"),
        "+ key": some_columns("payload", "record_key"),
        "+ id, event id": some_columns("payload", "record_key", "id", "event_id"),
        "+ clock, version, shard, …": all_columns(),
        "+ checks": all_columns(checks=True),
    }
    for count, index in enumerate(indexes, start=1):
        name = index.removeprefix("replication_queue_")
        steps[f"+ index {name}"] = all_columns(checks=True, indexes=count)
    if partitioned:
        steps["+ partitions"] = all_columns(checks=True, indexes=len(indexes), partitions=True)
    everything = all_columns(checks=True, indexes=len(indexes), partitions=partitioned)
    steps["+ pinned settings"] = pinned(everything, settings)
    built = [Variant(name, build) for name, build in steps.items()]
    return [Plain(), *built, Ours()]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSplit:
    server: ClassVar[Mapping[str, str]] = SERVER
    rows: int = 100_000
    rounds: int = 5

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        contestants = variants(server)
        results = recorder(
            "capture-split",
            server,
            contestants=[contestant.name for contestant in contestants],
            cumulative=True,
            rows=self.rows,
            rounds=self.rounds,
            warm_up="one round; 1000 rows before each measurement",
        )
        few = max(1, self.rows // ONE_BY_ONE)
        templates = {c.name: make_template(server, c) for c in contestants}
        for turn in range(self.rounds + 1):
            console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
            for name, template in rotated([*templates.items()], turn):
                with (
                    copy_of(server, template) as dsn,
                    psycopg.connect(dsn, autocommit=True) as connection,
                ):
                    warm_up(connection)
                    for kind, statement, rows in (
                        ("one statement", users.insert(1, self.rows), self.rows),
                        ("a statement for each row", users.one_by_one(-few, -1), few),
                    ):
                        time = cost_of(connection, statement).seconds * 1e6 / rows
                        if turn:
                            results.add(name, kind, time, "µs/row", run=turn)
        return results.results
