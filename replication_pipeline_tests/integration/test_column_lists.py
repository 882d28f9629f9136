"""Columns that do not travel: neither their values nor changes of them leave the database."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from replication_pipeline_tests.integration.history import (
    Shared,
    events,
    mark,
    payloads,
    setup,
)

pytestmark = pytest.mark.integration

DDL = "create table t (secret text, id int primary key, a int, b int, doc json)"


# Two ways to say the same.
SAME: dict[str, dict[str, Any]] = {
    "exclude": {"exclude": ["secret", "doc"]},
    "include": {"include": ["a", "b"]},
    "include with the key": {"include": ["b", "id", "a"]},
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_payloads_hold_the_columns_that_travel(make: Shared, options: dict[str, Any]) -> None:
    contour = make(DDL, ["t"], full_before=True, **options)
    contour.run("insert into t values ('hidden', 1, 2, 3, '{}')")
    contour.run("update t set a = 4, secret = 'hidden too'")
    contour.run("update t set id = 5")
    contour.run("delete from t")
    first = {"id": 1, "a": 2, "b": 3}
    assert payloads(contour) == [first, first | {"a": 4}, None, {"id": 5, "a": 4, "b": 3}, None]
    assert [list(payload) for payload in payloads(contour) if payload] == [["id", "a", "b"]] * 3
    befores = contour.run("select before from replication_queue order by id")
    assert befores == [
        (None,),
        (first,),
        (first | {"a": 4},),
        (None,),
        ({"id": 5, "a": 4, "b": 3},),
    ]
    hidden = "select count(*) from replication_queue q where q::text like '%hidden%'"
    assert contour.value(hidden) == 0


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_a_change_of_other_columns_is_no_event_and_no_new_version(
    make: Shared, options: dict[str, Any]
) -> None:
    contour = make(DDL, ["t"], **options)
    contour.run("insert into t values ('x', 1, 1, 1, '{}'), ('x', 2, 1, 1, '{}')")
    start = mark(contour)
    versions = contour.run("select id, replication_version from t order by id")
    contour.run("update t set secret = 'y', doc = '[]'")
    contour.run(
        "insert into t values ('z', 1, 1, 1) on conflict (id) do update set secret = 'z', a = 1"
    )
    contour.run("merge into t using (values (1)) v (i) on i = id when matched then update "
                "set doc = '{\"a\":1}', id = 1")  # fmt: skip
    assert contour.run("select id, replication_version from t order by id") == versions
    assert events(contour, after=start) == []
    contour.run("update t set secret = 'w', a = case id when 2 then 9 else a end")
    assert events(contour, after=start) == ["UPDATE 2"]
    assert contour.run("select secret from t") == [("w",), ("w",)]


def test_a_change_made_by_a_before_trigger_counts(make: Shared) -> None:
    contour = make(DDL, ["t"], exclude=["secret"])
    contour.run(
        "create function act() returns trigger language plpgsql as "
        "$$ begin new.a := length(new.secret); return new; end $$;"
        "create trigger act before update on t for each row execute function act()"
    )
    contour.run("insert into t values ('x', 1, 1)")
    contour.run("update t set secret = 'y'")
    assert events(contour) == ["INSERT 1"]
    contour.run("update t set secret = 'longer'")
    assert events(contour) == ["INSERT 1", "UPDATE 1"]
    assert payloads(contour)[1]["a"] == 6


def test_columns_added_later_travel_with_exclude(make: Shared) -> None:
    contour = make(DDL, ["t"], exclude=["secret"])
    contour.run("insert into t (id) values (1)")
    contour.run("alter table t add column later int default 5")
    contour.run("update t set later = 6")
    assert payloads(contour)[1] == {"id": 1, "a": None, "b": None, "doc": None, "later": 6}


def test_columns_added_later_stay_with_include(make: Shared) -> None:
    contour = make(DDL, ["t"], include=["a"])
    contour.run("insert into t (id, a) values (1, 1)")
    contour.run("alter table t add column later int default 5")
    contour.run("update t set later = 6, b = 7")
    assert events(contour) == ["INSERT 1"]
    contour.run("update t set later = 7, a = 2")
    assert payloads(contour)[1] == {"id": 1, "a": 2}


@pytest.mark.parametrize("session", ["same", "other"])
def test_renamed_columns_keep_their_secrecy(make: Shared, session: str) -> None:
    """Whoever renames a column has not said that it may travel now."""
    contour = make(DDL, ["t"], exclude=["secret"])
    writer = contour.app if session == "same" else contour.session(autocommit=True)
    writer.execute("insert into public.t (id, secret) values (1, 'hidden')")
    contour.run("alter table t rename column secret to open")
    writer.execute("update public.t set a = 1")
    writer.execute("insert into public.t (id, open) values (2, 'hidden')")
    assert len(events(contour)) == 3
    hidden = "select count(*) from replication_queue q where q::text like '%hidden%'"
    assert contour.value(hidden) == 0


def test_renamed_columns_go_on_travelling(make: Shared) -> None:
    contour = make(DDL, ["t"], include=["a"])
    contour.run("insert into t (id, a) values (1, 1)")
    contour.run("alter table t rename column a to z; alter table t rename column b to a")
    contour.run("update t set z = 2, a = 3")
    assert payloads(contour)[1] == {"id": 1, "z": 2}


def test_dropped_columns_are_forgotten(make: Shared) -> None:
    """A new column of the same name is a new column; with exclude by name it may well be hidden."""
    contour = make(DDL, ["t"], exclude=["secret"])
    contour.run("alter table t drop column secret")
    contour.run("insert into t (id, a) values (1, 1)")
    contour.run("update t set a = 2; delete from t")
    assert events(contour) == ["INSERT 1", "UPDATE 1", "DELETE 1"]


def test_the_only_columns_are_the_keys(make: Shared) -> None:
    contour = make(DDL, ["t"], include=["id"])
    contour.run("insert into t values ('x', 1, 1, 1)")
    contour.run("update t set secret = 'y', a = 5, b = 6")
    contour.run("update t set id = 2; delete from t")
    assert events(contour) == ["INSERT 1", "DELETE 1", "INSERT 2", "DELETE 2"]
    assert payloads(contour)[0] == {"id": 1}


@pytest.mark.parametrize("name", ['a"b', "Ключ", "select", "a,b", "{a}", "NULL", " a"])
def test_odd_names(make: Shared, name: str) -> None:
    column = psycopg.sql.Identifier(name).as_string()
    ddl = f"create table t (id int primary key, {column} int, other int)"
    contour = make(ddl, ["t"], exclude=[name])
    contour.run(f"insert into t (id, {column}, other) values (1, 2, 3)")
    contour.run(f"update t set {column} = 5")
    assert payloads(contour) == [{"id": 1, "other": 3}]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "both": ({"include": ["a"], "exclude": ["b"]}, "22023", "include"),
    "unknown to exclude": ({"exclude": ["a", "nope"]}, "42703", "nope"),
    "unknown to include": ({"include": ["nope"]}, "42703", "nope"),
    "another case": ({"exclude": ["A"]}, "42703", "A"),
    "system column": ({"exclude": ["ctid"]}, "42703", "ctid"),
    "dropped column": ({"exclude": ["was"]}, "42703", "was"),
    "key column": ({"exclude": ["a", "id"]}, "22023", "id"),
    "version column to include": ({"include": ["replication_version"]}, "42703", "replication"),
    "null within": ({"exclude": ["a", None]}, "22", "null"),
}


@pytest.mark.parametrize(("options", "sqlstate", "named"), REFUSED.values(), ids=REFUSED)
def test_bad_lists_are_refused(
    make: Shared, options: dict[str, Any], sqlstate: str, named: str
) -> None:
    contour = make(DDL + "; alter table t add column was int; alter table t drop column was")
    with pytest.raises(psycopg.Error) as refused:
        setup(contour, "t", **options)
    said = refused.value.diag
    assert str(said.sqlstate).startswith(sqlstate)
    assert named.lower() in str(said.message_primary).lower()
    assert said.message_hint
    assert contour.value("select count(*) from replication.replicated_tables") == 0
    assert contour.value("select count(*) from pg_trigger where tgrelid = 't'::regclass") == 0


def test_empty_lists(make: Shared) -> None:
    """Nothing excluded is everything; nothing included is the key."""
    contour = make(DDL, ["t"], exclude=[])
    contour.run("insert into t values ('x', 1, 2, 3)")
    assert payloads(contour) == [{"secret": "x", "id": 1, "a": 2, "b": 3, "doc": None}]


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_lists_survive_an_upgrade(make: Shared, options: dict[str, Any]) -> None:
    contour = make(DDL, ["t"], **options)
    contour.run(
        "select replication.refresh_capture(t.table_id) from replication.replicated_tables t"
    )
    setup(contour, "t")
    contour.run("insert into t values ('hidden', 1, 2, 3, '{}')")
    contour.run("update t set secret = 'x'")
    assert payloads(contour) == [{"id": 1, "a": 2, "b": 3}]


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_partitions_keep_to_the_list(make: Shared, options: dict[str, Any]) -> None:
    contour = make(
        "create table t (secret text, id int primary key, a int, b int, doc json) "
        "partition by range (id);"
        "create table low (b int, doc json, id int not null, a int, secret text, primary key (id));"
        "alter table t attach partition low for values from (0) to (10);"
        "create table high partition of t for values from (10) to (20)",
        ["t"],
        **options,
    )
    contour.run("create table higher partition of t for values from (20) to (30)")
    for table, number in (("low", 1), ("high", 11), ("higher", 21), ("t", 2), ("t", 22)):
        start = mark(contour)
        contour.run(f"insert into {table} (secret, id, a, b) values ('hidden', {number}, 2, 3)")
        contour.run(f"update {table} set secret = 'hidden too' where id = {number}")
        assert payloads(contour, after=start) == [{"id": number, "a": 2, "b": 3}]
