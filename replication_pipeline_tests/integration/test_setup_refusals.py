"""A table that can't be replicated is refused with SQLSTATE, message and remedy, and left as it was."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import (
    Shared,
    events,
    remove,
    setup,
)

pytestmark = pytest.mark.integration

WRONG_OBJECT_TYPE = "42809"
NOT_IN_PREREQUISITE_STATE = "55000"


def state(contour: Contour) -> list[tuple[Any, ...]]:
    """All that set-up could change: relations, columns, triggers, functions, rights, comments."""
    return contour.run(
        """
        select 'relation', c.oid::regclass::text, relacl::text, relchecks::text, reloptions::text
          from pg_class c where relnamespace <> all (array['pg_catalog', 'pg_toast']::regnamespace[])
        union all
        select 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
               attacl::text
          from pg_attribute a join pg_class c on c.oid = attrelid
         where c.relnamespace <> all (array['pg_catalog', 'pg_toast']::regnamespace[])
        union all
        select 'trigger', tgrelid::regclass::text, tgname, tgfoid::regproc::text, tgenabled::text
          from pg_trigger
        union all
        select 'function', oid::regprocedure::text, md5(prosrc), proacl::text, null
          from pg_proc where pronamespace = 'replication'::regnamespace
        union all
        select 'comment', objoid::text, objsubid::text, description, null
          from pg_description where objoid >= 16384
        union all
        select 'schema', nspname, nspacl::text, null, null from pg_namespace
        union all
        select 'registered', t::text, null, null, null from replication.replicated_tables t
        order by 1, 2, 3, 4, 5
        """
    )


def refused(contour: Contour, table: str, **options: Any) -> psycopg.errors.Diagnostic:
    """What PostgreSQL says to the set-up, which must have changed nothing."""
    before = state(contour)
    with pytest.raises(psycopg.Error) as error:
        setup(contour, table, **options)
    assert state(contour) == before
    return error.value.diag


# DDL, table, a part of the message, a part of the hint
UNFIT: dict[str, tuple[str, str, str, str]] = {
    "no primary key": ("create table t (id int unique)", "t", "primary key", "ADD PRIMARY KEY"),
    "view": ("create view t as select 1 as id", "t", "not an ordinary table", "tables"),
    "materialized view": (
        "create materialized view t as select 1 as id",
        "t",
        "not an ordinary table",
        "tables",
    ),
    "sequence": ("create sequence t", "t", "not an ordinary table", "tables"),
    "index": (
        "create table x (id int); create index t on x (id)",
        "t",
        "not an ordinary",
        "tables",
    ),
    "composite type": ("create type t as (id int)", "t", "not an ordinary table", "tables"),
    "foreign table": (
        (
            "create foreign data wrapper w; create server s foreign data wrapper w; "
            "create foreign table t (id int) server s"
        ),
        "t",
        "not an ordinary table",
        "tables",
    ),
    "temporary": ("create temp table t (id int primary key)", "pg_temp.t", "temporary", "table"),
    "unlogged": ("create unlogged table t (id int primary key)", "t", "unlogged", "SET LOGGED"),
    "deferrable primary key": (
        "create table t (id int primary key deferrable)",
        "t",
        "primary key is deferrable",
        "NOT DEFERRABLE",
    ),
    "deferred primary key": (
        "create table t (id int primary key deferrable initially deferred)",
        "t",
        "primary key is deferrable",
        "NOT DEFERRABLE",
    ),
    "deferrable unique constraint": (
        "create table t (id int primary key, x int unique deferrable)",
        "t",
        "deferrable unique",
        "NOT DEFERRABLE",
    ),
    "deferrable exclusion constraint": (
        "create table t (id int primary key, x int4range, exclude using gist (x with &&) deferrable)",
        "t",
        "deferrable unique or exclusion",
        "NOT DEFERRABLE",
    ),
    "parent": (
        "create table t (id int primary key); create table child () inherits (t)",
        "t",
        "inheritance",
        "separate tables",
    ),
    "child": (
        "create table parent (id int primary key); create table t (primary key (id)) inherits (parent)",
        "t",
        "inheritance",
        "separate tables",
    ),
    "row level security": (
        "create table t (id int primary key); alter table t enable row level security",
        "t",
        "row level security",
        "DISABLE ROW LEVEL SECURITY",
    ),
    "version column of another type": (
        "create table t (id int primary key, replication_version text)",
        "t",
        "replication_version of its own",
        "Rename",
    ),
    "version column as the key": (
        "create table t (replication_version bigint primary key)",
        "t",
        "replication_version",
        "Rename",
    ),
    "key is generated": (
        "create table t (a int, id int generated always as (a * 2) stored primary key)",
        "t",
        "key column id",
        "",
    ),
    "catalog": ("select 1", "pg_catalog.pg_class", "belongs to the system", "own schemas"),
    "information schema": (
        "select 1",
        "information_schema.sql_features",
        "belongs to the system",
        "own schemas",
    ),
    "table of ours": (
        "select 1",
        "replication.publish_shards",
        "belongs to the system",
        "own schemas",
    ),
    "table that is gone": ("select 1", "4000000000", "does not exist", "existing table"),
    "no table": ("select 1", "0", "does not exist", "existing table"),
    "key of many kinds, one refused": (
        "create table t (a int, b text, c float8, d uuid, primary key (a, b, c, d))",
        "t",
        "key column c",
        "integers, text, uuid",
    ),
    "domain over a refused type": (
        "create domain d as float8; create table t (id d primary key)",
        "t",
        "key column id",
        "integers, text, uuid",
    ),
    **{
        f"key of type {kind}": (
            f"create table t (id {kind} primary key)",
            "t",
            "key column id has a type whose equal values may have different texts",
            "integers, text, uuid",
        )
        for kind in (
            "float4",
            "float8",
            "numeric",
            "interval",
            "timetz",
            "jsonb",
            "int[]",
            "int4range",
            "money",
        )
    },
}


@pytest.mark.parametrize(("ddl", "table", "message", "hint"), UNFIT.values(), ids=UNFIT)
def test_unfit_tables(make: Shared, ddl: str, table: str, message: str, hint: str) -> None:
    contour = make(ddl)
    said = refused(contour, table)
    assert said.sqlstate == WRONG_OBJECT_TYPE
    assert said.message_primary
    assert message in said.message_primary
    assert "can't be replicated" in said.message_primary
    assert said.message_hint
    assert hint in said.message_hint


def test_the_remedy_for_a_temporary_table_is_one(make: Shared) -> None:
    """ALTER TABLE … SET LOGGED is none: temporary tables can't be altered so."""
    contour = make("create temp table t (id int primary key)")
    assert "SET LOGGED" not in str(refused(contour, "t").message_hint)


@pytest.mark.parametrize("odd", ['Odd "Table"', "select"])
def test_the_message_names_the_table_as_sql_does(make: Shared, odd: str) -> None:
    name = psycopg.sql.Identifier(odd).as_string()
    contour = make(f"create schema s; create table s.{name} (id int)")
    said = refused(contour, f"s.{name}")
    assert f"s.{name}" in str(said.message_primary)
    assert f"ALTER TABLE s.{name} ADD PRIMARY KEY" in str(said.message_hint)
    assert said.table_name == odd


def test_a_missing_table(make: Shared) -> None:
    said = refused(make(""), "missing")
    assert said.sqlstate == "42P01"
    assert said.message_primary == 'relation "missing" does not exist'


def test_two_tables_whose_events_would_have_one_name(make: Shared) -> None:
    contour = make(
        "create schema a; create table a.b (id int primary key); "
        'create table "a.b" (id int primary key)',
        ["a.b"],
    )
    said = refused(contour, '"a.b"')
    assert said.sqlstate in {WRONG_OBJECT_TYPE, "42710", NOT_IN_PREREQUISITE_STATE}
    assert "a.b" in str(said.message_primary)
    assert said.message_hint


def test_a_table_in_the_place_of_a_renamed_one(make: Shared) -> None:
    """The renamed table keeps its name in events, so the new one can't have it as well."""
    contour = make("create table t (id int primary key)", ["t"])
    contour.run("alter table t rename to old; create table t (id int primary key)")
    said = refused(contour, "t")
    assert said.sqlstate in {WRONG_OBJECT_TYPE, "42710", NOT_IN_PREREQUISITE_STATE}
    assert "old" in f"{said.message_primary} {said.message_hint}"
    assert said.message_hint


def test_a_role_without_rights(make: Shared) -> None:
    contour = make("create table t (id int primary key)")
    contour.run("create role nobody_special login; grant all on t to nobody_special")
    try:
        stranger = contour.session(user="nobody_special", autocommit=True)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute("select replication.setup_table_for_replication('public.t')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute("select replication.remove_table_from_replication('public.t')")
    finally:
        contour.run("drop owned by nobody_special; drop role nobody_special")


def test_set_up_twice_is_set_up_once(make: Shared) -> None:
    contour = make("create table t (id int primary key)", ["t"])
    before = state(contour)
    setup(contour, "t")
    assert state(contour) == before
    contour.run("insert into t values (1)")
    assert events(contour) == ["INSERT 1"]


def test_no_transaction_is_left_half_done(make: Shared) -> None:
    """A set-up that fails within a transaction can be given up with a savepoint."""
    contour = make("create table t (id int primary key); create table u (id int)")
    with contour.app.transaction():
        setup(contour, "t")
        with pytest.raises(psycopg.Error), contour.app.transaction():
            setup(contour, "u")
        contour.run("insert into t values (1)")
    assert events(contour) == ["INSERT 1"]
    assert contour.run("select table_name from replication.replicated_tables") == [("t",)]


# Options of a table that is replicated already

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full_before": ({"full_before": False}, {"full_before": True}),
    "full_before of a plain table": ({}, {"full_before": True}),
    "no full_before": ({"full_before": True}, {"full_before": False}),
    "capture_truncate": ({}, {"capture_truncate": True}),
    "no capture_truncate": ({"capture_truncate": True}, {"capture_truncate": False}),
    "exclude": ({"exclude": ["a"]}, {"exclude": ["b"]}),
    "exclude more": ({"exclude": ["a"]}, {"exclude": ["a", "b"]}),
    "exclude from a plain table": ({}, {"exclude": ["a"]}),
    "include": ({"include": ["a"]}, {"include": ["a", "b"]}),
    "include of a plain table": ({}, {"include": ["a"]}),
    "include instead of exclude": ({"exclude": ["b"]}, {"include": ["a"]}),
}


@pytest.mark.parametrize(("first", "second"), OPTIONS.values(), ids=OPTIONS)
def test_other_options_are_refused(
    make: Shared, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Readers of the topic rely on them; whoever wants others says so by removing the table."""
    contour = make("create table t (id int primary key, a int, b int)", ["t"], **first)
    (option,) = second
    said = refused(contour, "t", **second)
    assert said.sqlstate == NOT_IN_PREREQUISITE_STATE
    message, hint = str(said.message_primary), str(said.message_hint)
    assert "table t " in message or "table public.t " in message
    assert option in message
    assert "remove_table_from_replication" in hint
    assert "transaction" in hint
    with contour.app.transaction():
        remove(contour, "t")
        setup(contour, "t", **second)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"full_before": True},
        {"capture_truncate": True},
        {"exclude": ["a", "b"]},
        {"include": ["a"]},
        {"include": ["id", "a"], "full_before": True, "capture_truncate": True},
    ],
    ids=str,
)
def test_the_same_options_again_or_none_change_nothing(
    make: Shared, options: dict[str, Any]
) -> None:
    contour = make("create table t (id int primary key, a int, b int)", ["t"], **options)
    before = state(contour)
    setup(contour, "t")
    setup(contour, "t", **options)
    for name, value in options.items():
        setup(contour, "t", **{name: value[::-1] if isinstance(value, list) else value})
    assert state(contour) == before
