"""Every type of PostgreSQL goes capture → Kafka → apply and arrives as it was.

Each value of the zoo is a row of its own, so that a damaged one is named. Compared is what each type's
output function says, and its binary form, which shows what a text may hide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline_tests import types_zoo
from replication_pipeline_tests.conftest import MakeContours
from replication_pipeline_tests.integration.test_publish import events_of
from replication_pipeline_tests.types_zoo import assert_equal

pytestmark = pytest.mark.integration

MEGABYTES = 1_000_000


@pytest.fixture
def server(postgres: EmbeddedPostgres) -> Iterable[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


def test_every_built_in_type_is_in_the_zoo_or_has_a_reason(
    server: psycopg.Connection[Any],
) -> None:
    known = list(types_zoo.zoo())[: len(types_zoo.BUILT_IN)]
    known += [f"{name}[]" for name in known]
    absent = server.execute(
        """select t.typname from pg_type t left join pg_type e on e.oid = t.typelem
            where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm', 'e')
              and coalesce(e.typtype not in ('p', 'c'), true)  -- cstring[], rows of the catalog
              and t.oid <> all(%s::text[]::regtype[]::oid[])
              and coalesce(e.typname, t.typname) <> all(%s)""",
        [known, list(types_zoo.EXCLUDED)],
    ).fetchall()
    assert absent == []
    assert all(types_zoo.BUILT_IN.values())
    for name in types_zoo.EXCLUDED:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            server.execute(sql.SQL("select ''::{}").format(sql.Identifier(name)))
    delimiters = server.execute(
        "select typname, typdelim from pg_type where typname = any(%s) and typdelim <> ','",
        [list(types_zoo.BUILT_IN)],
    ).fetchall()
    assert dict(delimiters) == types_zoo.DELIMITERS


def test_every_value_of_every_type_arrives_as_it_was(
    make_contours: MakeContours, server: psycopg.Connection[Any], kafka: EmbeddedKafka
) -> None:
    ddl, values = types_zoo.animals(server)
    a, b = make_contours(
        ddl
        + sql.SQL("create table zoo (id integer primary key, {})")
        .format(_list(sql.SQL("{} {}").format(sql.Identifier(t), sql.SQL(t)) for t in values))
        .as_string(),
        ["zoo"],
    )
    # One statement a type. The ids of a type's rows follow each other, so that each can take the
    # value of the next one afterwards.
    spans: dict[str, range] = {}
    end = 1
    for name, singles in values.items():
        spans[name] = range(end, end := end + len(singles))
        rows = list(zip(spans[name], singles, strict=True))
        if rows:
            statement = sql.SQL("insert into zoo (id, {}) values {}").format(
                # psycopg looks for placeholders in names as well.
                sql.Identifier(name.replace("%", "%%")),
                _list([sql.SQL("(%s, %s)")] * len(rows)),
            )
            a.run(statement.as_string(), *(part for row in rows for part in row))
    a.publish()
    b.apply()
    assert_equal(a, b, "zoo", ["id"])

    for name, span in spans.items():
        statement = sql.SQL(
            "update zoo t set {column} = s.{column} from zoo s "
            "where t.id between {first} and {last} "
            "  and s.id = case t.id when {last} then {first} else t.id + 1 end"
        ).format(column=sql.Identifier(name), first=span.start, last=span.stop - 1)
        a.run(statement.as_string())
    a.run("delete from zoo where id % 5 = 0")
    a.publish()
    b.apply()
    assert_equal(a, b, "zoo", ["id"])
    assert a.value("select count(*) from zoo") == sum(id_ % 5 != 0 for id_ in range(1, end))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


# One value of each kind, and those that its usual form can't hold. Column names are the types.
WIRE: dict[str, tuple[str, Any]] = {
    "smallint": ("-32768", -32768),
    "bigint": ("9223372036854775807", 9223372036854775807),
    "boolean": ("f", False),
    "real": ("0.1", 0.1),
    "double precision": ("-1.5e300", -1.5e300),
    "nan real": ("NaN", "NaN"),
    "negative zero double precision": ("-0", "-0"),
    "numeric": ("-0.00", "0.00"),
    "infinite numeric": ("-Infinity", "-Infinity"),
    "char(3)": ("x", "x  "),
    '"char"': ("\\377", "\\377"),
    "bytea": ("\\x" + "00" * 60, "A" * 80),
    "json": (' {"a": 1,"a":[ ]}\n', ' {"a": 1,"a":[ ]}\n'),
    "jsonb": ('{"b":1.0,"a":"\\u00e9"}', '{"a": "é", "b": 1.0}'),
    "null jsonb": ("null", "null"),
    "timestamptz": ("2026-11-22 21:00:00.10+03", "2026-11-22T18:00:00.1Z"),
    "first timestamptz": ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00Z"),
    "early timestamptz": ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
    "late timestamptz": ("10000-01-01 00:00:00+00", "10000-01-01 00:00:00+00"),
    "infinite timestamptz": ("-infinity", "-infinity"),
    "timestamp": ("9999-12-31 23:59:59.999999", "9999-12-31T23:59:59.999999"),
    "late timestamp": ("10000-01-01 00:00:00", "10000-01-01 00:00:00"),
    "date": ("0001-01-01", "0001-01-01"),
    "early date": ("4713-11-24 BC", "4713-11-24 BC"),
    "timetz": ("12:00:00+05:30", "12:00:00+05:30"),
    "interval": ("-1 mon 2 days -00:00:01", "-1 mons +2 days -00:00:01"),
    "money": ("-1234.5", "-$1,234.50"),
    "bit varying": ("", ""),
    "inet": ("10.1.2.3", "10.1.2.3/32"),
    "point": ("(1,-0)", "(1,-0)"),
    "tsvector": ("'it''s':1A", "'it''s':1A"),
    "xid8": ("18446744073709551615", "18446744073709551615"),
    "int4range": ("[1,2]", "[1,3)"),
    "nummultirange": ("{[1,2.50)}", "{[1,2.50)}"),
    "mood": ('q"u\\o', 'q"u\\o'),
    "price": ("1.5", "1.50"),
    "document": ("null", "null"),
    "inner_pair": ('(-0,"\\"")', '(-0,"""")'),
    "boolean[]": ("{t,f,NULL}", [True, False, None]),
    "real[]": ("{0.1,NaN,-Infinity,-0}", [0.1, "NaN", "-Infinity", "-0"]),
    "numeric[]": ("{1.50,NaN,NULL}", ["1.50", "NaN", None]),
    "timestamptz[]": ("{2026-11-22 21:00:00+00,infinity}", ["2026-11-22 21:00:00+00", "infinity"]),
    "bytea[]": ('{"\\\\x00ff"}', ["\\x00ff"]),
    "bpchar[]": ('{"x "}', ["x "]),
    "mood[]": ('{NULL,"NULL"}', [None, "NULL"]),
    "box[]": ("{(1,1),(0,0);(2,2),(0,0)}", ["(1,1),(0,0)", "(2,2),(0,0)"]),
    "empty text[]": ("{}", []),
    "jsonb[]": ("{1,NULL}", "{1,NULL}"),
    "price[]": ("{1.5}", "{1.50}"),
    "odd integer[]": ("[-1:0]={1,2}", "[-1:0]={1,2}"),
    "square integer[]": ("{{1,2},{3,4}}", "{{1,2},{3,4}}"),
    "int2vector": ("1 2", "1 2"),
}
QUALIFIERS = (
    "nan",
    "negative zero",
    "infinite",
    "null",
    "first",
    "early",
    "late",
    "empty",
    "odd",
    "square",
)


def test_wire_forms_in_kafka(make_contours: MakeContours, kafka: EmbeddedKafka) -> None:
    a, b = make_contours(
        types_zoo.USER_TYPES_DDL
        + sql.SQL("create table wire (id integer primary key, {})")
        .format(
            _list(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_type_in(name)))
                for name in WIRE
            )
        )
        .as_string(),
        ["wire"],
    )
    a.run(
        sql.SQL("insert into wire values (1, {})").format(
            _list([sql.SQL("%s")] * len(WIRE))
        ).as_string(),
        *(value for value, _ in WIRE.values()),
    )  # fmt: skip
    a.run("insert into wire (id) values (2)")
    a.publish()
    filled, empty = (
        value["after"] for _, _, value in sorted(events_of(a, "wire"), key=lambda e: e[1])
    )
    assert filled == {"id": 1} | {name: form for name, (_, form) in WIRE.items()}
    assert empty == {"id": 2} | dict.fromkeys(WIRE)
    b.apply()
    assert_equal(a, b, "wire", ["id"])


def _type_in(name: str) -> str:
    for qualifier in QUALIFIERS:
        name = name.removeprefix(qualifier + " ")
    return name


def test_a_users_cast_to_text_does_not_decide_what_travels(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    a, b = make_contours(
        "create type mood as enum ('sad'); create type pair as (x integer);"
        "create table t (id integer primary key, m mood, ms mood[], p pair, ps pair[]);"
        "create function loud(mood) returns text language sql as $$ select 'LOUD' $$;"
        "create function loud(pair) returns text language sql as $$ select 'LOUD' $$;"
        "create function loud_json(pair) returns json language sql as $$ select '[]'::json $$;"
        "create cast (mood as text) with function loud(mood);"
        "create cast (pair as text) with function loud(pair);"
        "create cast (pair as json) with function loud_json(pair)",
        ["t"],
    )
    a.run("insert into t values (1, 'sad', '{sad,NULL}', '(1)', '{(1),NULL}')")
    a.publish()
    b.apply()
    assert_equal(a, b, "t", ["id"])


def test_settings_of_databases_and_sessions_change_nothing(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    columns = {
        "text[]": '{{NULL,"NULL"},{a,b}}',
        "mood[]": '{NULL,"NULL"}',
        "interval": "-1 day +2:03:04",
        "interval[]": "{-1 day +2:03:04}",
        "float8": "0.1",
        "float8[]": "[0:0]={1e-300}",
        "bytea": "\\x5c00",
        "bytea[]": '{"\\\\x5c00"}',
        "json": "null",
        "jsonb": '"x"',
        "date": "2026-02-01",
        "tstzrange": '["2026-02-01 00:00:00+00",)',
        "timestamptz[]": '{"2026-02-01 00:00:00+00"}',
        "regclass": "information_schema.tables",
        "money": "-1.5",
        "inner_pair": '(0.1,"a b")',
    }
    a, b = make_contours(
        types_zoo.USER_TYPES_DDL
        + sql.SQL("create table t (id integer primary key, {})")
        .format(_list(sql.SQL("{} {}").format(sql.Identifier(t), sql.SQL(t)) for t in columns))
        .as_string(),
        ["t"],
    )
    for setting in (
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kolkata'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "array_nulls = off",
        "xmloption = 'document'",
        "quote_all_identifiers = on",
        "search_path = pg_temp",
    ):
        for contour in (a, b):
            contour.run(f"alter database {contour.app.info.dbname} set {setting}")
    insert = sql.SQL("insert into public.t values (%s, {})").format(
        _list([sql.SQL("%s")] * len(columns))
    )
    a.run(insert.as_string(), 1, *columns.values())
    with a.session(autocommit=True) as writer:
        writer.execute("update public.t set id = 2")
    a.publish()
    b.apply()
    assert_equal(a, b, "t", ["id"])


def test_a_key_without_an_equality_operator_is_refused(make_contours: MakeContours) -> None:
    """PostgreSQL has none for domains over enums: every DELETE would fail."""
    a, _ = make_contours(
        "create type mood as enum ('sad'); create domain feeling as mood; "
        "create table t (f feeling primary key)",
        [],
    )
    with pytest.raises(psycopg.errors.WrongObjectType, match="key column f"):
        a.run("select replication.setup_table_for_replication('t')")


def test_generated_and_identity_columns_end_equal(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    a, b = make_contours(
        """create table g (
             id bigint generated always as identity primary key, x integer, y text,
             stored integer generated always as (x * 2) stored,
             "virtual" text generated always as (upper(y)) virtual,
             always integer generated always as identity (start 100),
             by_default integer generated by default as identity (start 200),
             serial serial, stamped timestamptz default clock_timestamp());
           create table k (a integer, b integer generated by default as identity, x integer,
             s integer generated always as (x + 1) stored, primary key (b, a))""",
        ["g", "k"],
    )
    b.run("insert into g (x) values (0); delete from g")  # b's sequences stand elsewhere
    a.run("insert into g (x, y) select n, 'é' || n from generate_series(1, 6) n")
    a.run("insert into g (id, x, always) overriding system value values (50, 7, -1)")
    a.run("insert into k (a, x) values (1, 1), (1, 2)")
    a.publish()
    b.apply()
    for table, key in (("g", ["id"]), ("k", ["b", "a"])):
        assert_equal(a, b, table, key)

    a.run("update g set x = x + 1, y = null where id = 1")
    a.run("update g set always = default, by_default = 7 where id in (2, 50)")
    a.run("update g set id = default where id = 3")
    with a.app.transaction():  # a row of the same key, with a new number of its own
        a.run("delete from g where id = 4")
        a.run("insert into g (id, x) overriding system value values (4, 44)")
    a.run("delete from g where id = 5")
    a.run("update k set b = b + 10, x = -x")
    a.publish()
    b.apply()
    for table, key in (("g", ["id"]), ("k", ["b", "a"])):
        assert_equal(a, b, table, key)


def test_values_of_10_megabytes_arrive_with_default_settings(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    a, b = make_contours(
        "create table large (id integer primary key, t text, b bytea, j jsonb)", ["large"]
    )
    a.run(f"insert into large (id, t) values (1, repeat('é\"\\x', {2 * MEGABYTES}))")
    # Hashes, which no compression makes smaller.
    a.run(
        "insert into large (id, b) select 2, string_agg(sha512(n::text::bytea), '') "
        "from generate_series(1, 156250) n"
    )
    a.run(
        "insert into large (id, j) select 3, jsonb_agg(jsonb_build_object('n', n, 'h', "
        "md5(n::text))) from generate_series(1, 190000) n"
    )
    sizes = "octet_length(t), octet_length(b), octet_length(j::text)"
    assert a.value(f"select min(least({sizes})) from large") >= 10 * MEGABYTES
    a.publish()
    b.apply()
    assert_equal(a, b, "large", ["id"])
    a.run("update large set t = 'x' || t where id = 1")
    a.run("delete from large where id = 2")
    a.publish()
    b.apply()
    assert_equal(a, b, "large", ["id"])
