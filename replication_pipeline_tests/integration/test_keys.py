"""Keys of every kind, value and name are captured, and none of them can fail the user's statement."""

from __future__ import annotations

import hashlib
import json

import pytest

from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.history import (
    Shared,
    assert_queue_tells,
    events,
    mark,
    payloads,
    quoted,
    setup,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def contour(make: Shared) -> Contour:
    return make("")


def keys(contour: Contour, start: int = 0) -> list[tuple[str, object]]:
    """``(operation, key)`` of each event; the key as JSON values in key order."""
    found = contour.run(
        "select operation, record_key from replication.replication_queue where id > %s order by id",
        start,
    )
    return [(operation, list(json.loads(key).values())) for operation, key in found]


def live_through(contour: Contour, table: str, column: str, first: str, second: str) -> None:
    """One row's whole life: its key is ``first``, later ``second``; both are SQL expressions."""
    contour.run(f"insert into {table} ({column}, n) values ({first}, 1)")
    contour.run(f"update {table} set n = 2")
    contour.run(f"update {table} set {column} = {second}")
    contour.run(f"delete from {table}")
    contour.run(f"insert into {table} ({column}, n) values ({second}, 3)")
    contour.run(f"insert into {table} ({column}, n) values ({first}, 4)")
    contour.run(f"delete from {table}")


def lived_through(first: object, second: object) -> list[tuple[str, object]]:
    """The events of ``live_through``; both rows of the last DELETE sorted."""
    return [
        ("INSERT", [first]),
        ("UPDATE", [first]),
        ("DELETE", [first]),
        ("INSERT", [second]),
        ("DELETE", [second]),
        ("INSERT", [second]),
        ("INSERT", [first]),
        *sorted([("DELETE", [first]), ("DELETE", [second])], key=str),
    ]


def sorted_end(found: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Of one statement's events about different keys no order is promised, but deletes first."""
    head, change, middle, last = found[:2], found[2:4], found[4:7], found[7:]
    return [*head, *sorted(change), *middle, *sorted(last, key=str)]


TYPES: dict[str, tuple[str, str, str, object, object]] = {
    "smallint": ("smallint", "-32768", "32767", -32768, 32767),
    "bigint": ("bigint", "-9223372036854775808", "9223372036854775807", -(2**63), 2**63 - 1),
    "boolean": ("boolean", "false", "true", False, True),
    "uuid": (
        "uuid",
        "'7D444840-9DC0-11D1-B245-5FFDCE74FAD2'",
        "'00000000000000000000000000000000'",
        "7d444840-9dc0-11d1-b245-5ffdce74fad2",
        "00000000-0000-0000-0000-000000000000",
    ),
    "date": ("date", "'0044-03-15 BC'", "'infinity'", "0044-03-15 BC", "infinity"),
    "timestamptz": (
        "timestamptz",
        "'2026-11-22 21:00:00.5+05:30'",
        "'-infinity'",
        "2026-11-22T15:30:00.5Z",
        "-infinity",
    ),
    "timestamp": (
        "timestamp",
        "'2026-11-22 21:00'",
        "'99999-01-01'",
        "2026-11-22T21:00:00",
        "99999-01-01 00:00:00",
    ),
    "time": ("time", "'24:00'", "'00:00:00.000001'", "24:00:00", "00:00:00.000001"),
    "numeric": ("numeric(10,2)", "1", "'NaN'", "1.00", "NaN"),
    "char": ("char(4)", "'a'", "''", "a   ", "    "),
    "varchar": ("varchar(9)", "'a '", "''", "a ", ""),
    "enum": ("mood", "'sad \"'", "'Happy'", 'sad "', "Happy"),
    "domain": ("short", "'a'", "'b'", "a", "b"),
    "inet": ("inet", "'10.0.0.1'", "'::1/64'", "10.0.0.1/32", "::1/64"),
    "macaddr": (
        "macaddr",
        "'08002B010203'",
        "'0:0:0:0:0:0'",
        "08:00:2b:01:02:03",
        "00:00:00:00:00:00",
    ),
    "oid": ("oid", "0", "4294967295", "0", "4294967295"),
    "pg_lsn": ("pg_lsn", "'0/0'", "'FF/FF'", "0/0", "FF/FF"),
}


@pytest.mark.parametrize(("kind", "one", "two", "first", "second"), TYPES.values(), ids=TYPES)
def test_key_types(
    contour: Contour, kind: str, one: str, two: str, first: object, second: object
) -> None:
    contour.run(
        "create type mood as enum ('sad \"', 'Happy'); "
        "create domain short as varchar(5) check (value <> ''); "
        f"create table t (id {kind} primary key, n int)"
    )
    setup(contour, "t")
    start = mark(contour)
    live_through(contour, "t", "id", one, two)
    assert sorted_end(keys(contour, start)) == sorted_end(lived_through(first, second))


# 2,688 bytes are the most that the primary key's own index takes when nothing can be compressed.
INCOMPRESSIBLE = "".join(hashlib.sha512(str(number).encode()).hexdigest() for number in range(40))

TEXTS: dict[str, str] = {
    "empty": "",
    "spaces": "  a  ",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\ufeff",
    "quotes": "' '' \" \\ \\' $$ $capture$ %s %% {} ` ;--",
    "json": '{"id":"1"}',
    "backslashes": "\\u0000 \\x00 \\n \\\\",
    "emoji": "🤷🏽‍♀️ naïve עברית नमस्ते",
    "highest code point": "\U0010ffff\ufffd\ufffe",
    "combining": "e\u0301 is not é",
    "NULL": "null",
    "compressible": "x" * 100_000,
    "incompressible": INCOMPRESSIBLE[:2600],
    "as long as the index takes": INCOMPRESSIBLE[:2688],
    "long emoji": "".join(chr(0x1F300 + number * 7919 % 1500) for number in range(650)),
    "long quotes": '"' * 2600,
    "long control characters": "\x01" * 2600,
}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_keys(contour: Contour, text: str, isolation: str) -> None:
    """What the index of the table takes, capture takes as well, DELETE and key change included."""
    contour.run(f"set transaction isolation level {isolation}")
    contour.run("create table t (id text primary key, n int); create table given (a text, b text)")
    setup(contour, "t")
    other = "~" + text[1:]
    contour.run("insert into given values (%s, %s)", text, other)
    start = mark(contour)
    live_through(contour, "t", "id", "(select a from given)", "(select b from given)")
    assert sorted_end(keys(contour, start)) == sorted_end(lived_through(text, other))
    assert_queue_tells(contour, "t")


def test_long_keys_that_share_their_beginning_are_different_keys(
    make: Shared,
) -> None:
    """Tombstones may store long keys in short; each still buries its own row only."""
    contour = make("create table t (id text primary key, n int)", ["t"])
    beginning = INCOMPRESSIBLE[:2600]
    contour.run("insert into t select %s || n, n from generate_series(1, 3) n", beginning)
    contour.run("delete from t where n = 2")
    contour.run("update t set id = %s || 4 where n = 3", beginning)
    assert contour.value("select count(*) from replication_tombstones") == 2
    contour.run("insert into t values (%s || 2, 22)", beginning)
    assert_queue_tells(contour, "t")


@pytest.mark.usefixtures("kafka")
def test_long_and_odd_keys_arrive_and_go_elsewhere(make_contours: MakeContours) -> None:
    contours = make_contours("create table t (id text primary key, n int)", ["t"])
    one, other = contours
    for number, text in enumerate(TEXTS.values()):
        one.run("insert into t values (%s, %s)", text, number)
    settle(contours, rounds=1)
    assert same_rows(contours, "t")
    other.run("delete from t where n % 2 = 0")
    other.run("update t set id = '~' || substr(id, 2)")
    settle(contours, rounds=1)
    assert same_rows(contours, "t")
    assert one.value("select count(*) from t") == len(TEXTS) // 2
    assert one.run("select reason from replication.parked_events") == []


def test_the_rows_of_one_statement_are_told_apart_by_all_columns(
    make: Shared,
) -> None:
    contour = make(
        "create table t (c int, a text, n int, b uuid default gen_random_uuid(), "
        "primary key (b, a, c))",
        ["t"],
    )
    contour.run(
        "insert into t (a, b, c) select x, md5(x)::uuid, n "
        "from unnest('{a,b}'::text[]) x, generate_series(1, 3) n"
    )
    contour.run("update t set n = c where a = 'a'")
    contour.run("update t set c = c + 10 where a = 'b'")
    contour.run("delete from t where c = 2")
    assert list(json.loads(contour.queue()[0][1])) == ["b", "a", "c"]
    assert_queue_tells(contour, "t")


def test_a_key_with_included_columns(make: Shared) -> None:
    contour = make("create table t (id int, n int, primary key (id) include (n))", ["t"])
    live_through(contour, "t", "id", "1", "2")
    assert contour.queue()[0][1] == '{"id":1}'


def test_identity_and_default_keys(make: Shared) -> None:
    contour = make(
        "create table always (id int generated always as identity primary key, n int);"
        "create table usually (id int generated by default as identity primary key, n int);"
        "create table numbered (id serial primary key, n int);"
        "create table random (id uuid default gen_random_uuid() primary key, n int)",
        ["always", "usually", "numbered", "random"],
    )
    for table in ("always", "usually", "numbered", "random"):
        contour.run(f"insert into {table} default values")
        contour.run(f"insert into {table} (n) values (2), (3)")
        contour.run(f"update {table} set n = 4 where n = 2; delete from {table} where n = 3")
        assert_queue_tells(contour, table)


# Names

LONG = "Ж" * 30 + '"x"'  # 63 bytes, the longest name PostgreSQL keeps

NAMES: dict[str, str] = {
    "upper case": "MixedCase",
    "reserved": "select",
    "another reserved": "user",
    "63 bytes": LONG,
    "quotes": "it''s \"quoted\"",
    "backslashes": "a\\b\\n'",
    "dots": "a.b",
    "spaces": " a  b ",
    "percent": "%I %s %%",
    "braces": "{name}",
    "dollar quote": "a$capture$b",
    "another dollar quote": "a$sql$b$$",
    "placeholder": "a($1 || b",
    "lines": "a\n, $2\nb",
    "comment": "/* -- */;",
    "emoji": "🐘",
    "name of a variable": "seed",
    "another variable": "earliest",
    "name of an alias": "__row",
    "name of a column of ours": "__key",
    "trigger variable": "new",
    "transition table": "new_rows",
    "system catalog": "pg_class",
    "table of ours": "replication_queue",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_columns(contour: Contour, name: str) -> None:
    """Of the key and beside it, there at set-up and added later."""
    column = quoted(name)
    contour.run(
        f"create table keyed ({column} text primary key, n int);"
        f"create table beside (id text primary key, {column} text);"
        "create table later (id text primary key)"
    )
    for table in ("keyed", "beside", "later"):
        setup(contour, table)
    contour.run(f"alter table later add column {column} text")
    start = mark(contour)
    live_through(contour, "keyed", column, "'x'", "'y'")
    assert sorted_end(keys(contour, start)) == sorted_end(lived_through("x", "y"))
    assert json.loads(
        contour.value(
            "select record_key from replication.replication_queue order by id desc limit 1"
        )
    ).keys() == {name}
    assert payloads(contour, "keyed", after=start)[0] == {name: "x", "n": 1}
    for table in ("beside", "later"):
        contour.run(f"insert into {table} (id, {column}) values ('1', 'x')")
        contour.run(f"update {table} set {column} = 'y'")
        contour.run(f"update {table} set id = '2'")
        assert payloads(contour, table, after=start)[:2] == [
            {"id": "1", name: "x"},
            {"id": "1", name: "y"},
        ]
    assert contour.value("select count(*) from replication.replication_tombstones") > 0


@pytest.mark.parametrize("schema", ["public", "own"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_tables_and_schemas(contour: Contour, name: str, schema: str) -> None:
    found = name
    if schema == "own":
        schema = f"s {name[:20]}"
        found = f"{schema}.{name}"
        contour.run(f"create schema {quoted(schema)}")
    table = f"{quoted(schema)}.{quoted(name)}"
    contour.run(f"create table {table} (id int primary key, n int)")
    setup(contour, table)
    setup(contour, table)
    contour.run(f"insert into {table} values (1), (2)")
    contour.run(f"update {table} set n = 1 where id = 1")
    contour.run(f"update {table} set id = 3 where id = 2")
    contour.run(f"delete from {table}")
    assert sorted(events(contour, found)) == [
        "DELETE 1",
        "DELETE 2",
        "DELETE 3",
        "INSERT 1",
        "INSERT 2",
        "INSERT 3",
        "UPDATE 1",
    ]


def test_names_that_differ_in_case_only(make: Shared) -> None:
    contour = make(
        'create table t (id int primary key, "ID" int); create table "T" ("Id" int primary key)',
        ["t", '"T"'],
    )
    contour.run('insert into t values (1, 2); insert into "T" values (3)')
    assert payloads(contour, "t") == [{"id": 1, "ID": 2}]
    assert payloads(contour, "T") == [{"Id": 3}]


def test_tables_of_the_same_name_in_two_schemas(make: Shared) -> None:
    contour = make(
        "create schema one; create schema two; create table one.t (id int primary key); "
        "create table two.t (id int primary key)",
        ["one.t", "two.t"],
    )
    contour.run("insert into one.t values (1); insert into two.t values (2); delete from one.t")
    assert events(contour, "one.t") == ["INSERT 1", "DELETE 1"]
    assert events(contour, "two.t") == ["INSERT 2"]


# Values beside the key

VALUES: dict[str, tuple[str, str]] = {
    "NUL in json": ("json", r"""'{"a": "\u0000"}'"""),
    "half a pair in json": ("json", r"""'"\ud800"'"""),
    "broken escapes in json text": ("text", r"""'\u0000 \ud800 \'"""),
    "deep json": ("json", "(repeat('[', 500) || repeat(']', 500))::json"),
    "huge text": ("text", "repeat('0123456789', 500000)"),
    "huge control characters": ("text", "repeat(E'\\x01', 500000)"),
    "huge bytea": ("bytea", "decode(repeat('00', 3000000), 'hex')"),
    "huge jsonb": ("jsonb", "(select jsonb_agg(n) from generate_series(1, 100000) n)"),
    "huge array": ("int[]", "(select array_agg(n) from generate_series(1, 100000) n)"),
    "huge numeric": ("numeric", "10::numeric ^ 100000"),
    "high char": ('"char"', "'\\377'"),
    "empty char": ('"char"', "''"),
    "nested array": ("text[]", "array[['a', null], ['\"', E'\\\\']]"),
    "empty array": ("int[]", "'{}'"),
    "array of odd bounds": ("int[]", "'[-5:-4]={1,2}'"),
    "interval beyond": ("interval", "'-178000000 years'"),
    "earliest": ("timestamptz", "'4714-11-24 00:00:00+00 BC'"),
    "latest": ("timestamp", "'294276-12-31 23:59:59.999999'"),
    "composite": ("part", "row('a,\"b', array[1, 2])"),
    "array of composites": ("part[]", "array[row('\\', '{}')::part]"),
    "multirange": ("int4multirange", "'{[1,3), [5,)}'"),
    "tsvector": ("tsvector", "'''a'' b''c:1A'"),
    "bits": ("bit varying", "B''"),
    "money": ("money", "'-92233720368547758.08'"),
    "path": ("path", "'[(1e300,-0),(NaN,Infinity)]'"),
    "name": ("name", "'\"'"),
}


@pytest.mark.parametrize("full_before", [False, True])
def test_values_can_not_fail_a_statement(make: Shared, full_before: bool) -> None:
    columns = [f"c{number}" for number in range(len(VALUES))]
    kinds = [kind for kind, _ in VALUES.values()]
    contour = make(
        "create type part as (a text, b int[]); create table t (id int primary key, n int, "
        + ", ".join(f"{c} {kind}" for c, kind in zip(columns, kinds, strict=True))
        + ")",
        [],
    )
    setup(contour, "t", full_before=full_before)
    for number, (name, (_, value)) in enumerate(VALUES.items()):
        contour.run(f"insert into t (id, c{number}) values ({number}, {value})")
        contour.run(f"update t set n = 1 where id = {number}")
        contour.run(f"update t set id = -1 where id = {number}")
        contour.run("delete from t where id = -1")
        assert len(events(contour)) == 5 * (number + 1), name
