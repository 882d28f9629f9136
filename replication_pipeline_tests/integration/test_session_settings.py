"""Whatever the writer's session is set to, the events are the same to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import contour_in, setup

pytestmark = pytest.mark.integration

# A column of every type whose text some setting could change, and its value. The values are made once,
# under the server's own settings, and copied by each session, so that no literal is read under others.
COLUMNS: dict[str, tuple[str, str]] = {
    "tz": ("timestamptz", "'2026-02-03 04:05:06.789+05:30'"),
    "far": ("timestamptz", "'0044-03-15 12:00:00+00 BC'"),
    "plain": ("timestamp", "'2026-02-03 04:05:06.000001'"),
    "day": ("date", "'2026-02-03'"),
    "clock": ("time", "'04:05:06.7'"),
    "clock_zone": ("timetz", "'04:05:06.7+05:30'"),
    "span": ("interval", "'-1 year 2 mons -3 days 04:05:06.7'"),
    "days": ("timestamptz[]", "array['2026-02-03 04:05:06+05:30'::timestamptz, null]"),
    "spans": ("interval[]", "array['-1 day 2 hours'::interval]"),
    "range": ("tstzrange", "'[2026-02-03 04:05:06+00,)'"),
    "ranges": ("datemultirange", "'{[2026-02-03,2026-03-04)}'"),
    "short": ("float4", "'0.1'"),
    "double": ("float8", "0.1::float8 + 0.2::float8"),
    "doubles": ("float8[]", "array[1e300 / 3, 'NaN']"),
    "spot": ("point", "'(0.1,3.3333333333333335)'"),
    "exact": ("numeric", "'1.500'"),
    "cash": ("money", "'1234.5'"),
    "cashes": ("money[]", "array['1234.5'::money]"),
    "bytes": ("bytea", "'\\x00ff5c27'"),
    "byteses": ("bytea[]", "array['\\x00ff5c27'::bytea]"),
    "words": ("text", "E'back\\\\slash ''quote'' \"double\" \\u00e9\\U0001f418'"),
    "wordses": ("text[]", "array['null', null, '', 'a,\"b\\']"),
    "doc": ("json", """'{"b":  1, "a": "\\u0000"}'"""),
    "docb": ("jsonb", """'{"b": 1.50, "a": [null]}'"""),
    "table_": ("regclass", "'\"Odd Table\"'"),
    "own": ("regclass", "'copies'"),
    "type_": ("regtype", "'part'"),
    "types": ("regtype[]", "array['part'::regtype, 'integer'::regtype]"),
    "function": ("regprocedure", "'f(part)'"),
    "role_": ("regrole", "'replication_owner'"),
    "space": ("regnamespace", "'public'"),
    "composite": ("part", "row('2026-02-03 04:05:06+00', '\\x00', 0.1)"),
    "composites": ("part[]", "array[row('2026-02-03 04:05:06+00', '\\x00', 0.1)::part]"),
    "dated": ("dated", "'2026-02-03'"),
    "mood": ("mood", "'so so'"),
    "net": ("inet", "'10.0.0.1/8'"),
    "bits": ("bit(4)", "B'1010'"),
    "search": ("tsvector", "to_tsvector('simple', 'one two')"),
    "fixed": ("char(5)", "'ab'"),
    "u": ("uuid", "'7d444840-9dc0-11d1-b245-5ffdce74fad2'"),
}

DDL = f"""
create type part as (at timestamptz, bytes bytea, number float8);
create type mood as enum ('so so');
create domain dated as date;
create function f(part) returns int language sql as 'select 1';
create table "Odd Table" ();
create table copies (
  id int, at timestamptz, {", ".join(f"{name} {kind}" for name, (kind, _) in COLUMNS.items())},
  primary key (at, id));
create table model (like copies);
insert into model values
  (1, '2026-02-03 04:05:06+05:30', {", ".join(value for _, value in COLUMNS.values())}),
  (2, '0044-03-15 12:00:00+00 BC' {", null" * len(COLUMNS)});
create schema elsewhere;
grant select, insert, update, delete on copies, model to pg_monitor;
"""

# One statement of each kind, twice, so that plans are made and used again; all in one transaction.
WRITES = (
    "insert into public.copies select * from public.model",
    "update public.copies set words = words || 'x' where id = 1",
    "update public.copies set id = id + 10",
    (
        "merge into public.copies c using public.model m on c.id = m.id + 10 and c.at = m.at "
        "when matched and m.id = 1 then delete when matched then update set fixed = 'x'"
    ),
    "insert into public.copies select * from public.model",
    "delete from public.copies",
)


@pytest.fixture(scope="module")
def contour(postgres: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[Contour]:
    with contour_in(postgres, templates["a"], "session_settings") as contour:
        contour.run(DDL)
        setup(contour, "copies", full_before=True)
        yield contour


Events = list[tuple[Any, ...]]


def queued(contour: Contour) -> Events:
    """Every text of the events, without the versions."""
    return contour.run(
        "select operation, table_name, record_key, payload::text, before::text, shard "
        "from replication_queue order by operation, record_key, payload::text, before::text"
    )


def written(
    contour: Contour, *settings: str, isolation: str | None = None, late: bool = False
) -> Events:
    """What a session with these settings captures.

    ``late``: the settings come after a first round of writes, when the plans are there already.
    """
    session = contour.session(autocommit=True)

    def write() -> None:
        session.execute("begin" if isolation is None else f"begin isolation level {isolation}")
        for statement in WRITES:
            session.execute(statement)
        session.execute("commit")

    try:
        if late:
            write()
        for setting in settings:
            session.execute(setting)
        contour.run("delete from replication_queue")
        write()
    finally:
        session.close()
    return queued(contour)


@pytest.fixture(scope="module")
def usual(contour: Contour) -> Events:
    """The events of a session with the server's own settings."""
    found = written(contour)
    assert len(found) == 2 + 1 + 4 + 2 + 2 + 3
    return found


SETTINGS: dict[str, tuple[str, ...]] = {
    "DateStyle German": ("set datestyle = 'German'",),
    "DateStyle SQL, DMY": ("set datestyle = 'SQL, DMY'",),
    "DateStyle Postgres": ("set datestyle = 'Postgres, MDY'",),
    "IntervalStyle sql_standard": ("set intervalstyle = 'sql_standard'",),
    "IntervalStyle iso_8601": ("set intervalstyle = 'iso_8601'",),
    "IntervalStyle postgres_verbose": ("set intervalstyle = 'postgres_verbose'",),
    "TimeZone by name": ("set timezone = 'Asia/Kolkata'",),
    "TimeZone by offset": ("set time zone interval '-03:30' hour to minute",),
    "TimeZone made up": ("set timezone = 'XXX-14YYY'",),
    "extra_float_digits -15": ("set extra_float_digits = -15",),
    "extra_float_digits 3": ("set extra_float_digits = 3",),
    "bytea_output": ("set bytea_output = 'escape'",),
    "standard_conforming_strings": (
        "set standard_conforming_strings = off",
        "set escape_string_warning = off",
    ),
    "backslash_quote": ("set standard_conforming_strings = off", "set backslash_quote = off"),
    "quote_all_identifiers": ("set quote_all_identifiers = on",),
    "xmlbinary": ("set xmlbinary = 'hex'", "set xmloption = 'document'"),
    "lc_monetary": ("set lc_monetary = 'C.utf8'", "set lc_numeric = 'C.utf8'"),
    "lc_time": ("set lc_time = 'C.utf8'",),
    "row_security": ("set row_security = off",),
    "array_nulls": ("set array_nulls = off",),
    "transform_null_equals": ("set transform_null_equals = on",),
    "client_encoding": ("set client_encoding = 'LATIN1'",),
    "search_path empty": ("set search_path = ''",),
    "search_path of temporary things": (
        (
            "create temp table pg_class (oid int); create temp table replication_queue (id int); "
            "create temp table old_rows (id int); create temp table new_rows (id int); "
            "create temp table pg_attribute (attname text); create temp table contour (id int)"
        ),
        "set search_path = pg_temp, pg_catalog",
    ),
    "search_path elsewhere": ("set search_path = elsewhere, replication, pg_catalog",),
    "role": ("set role pg_monitor",),
    "role and path": ("set role pg_monitor", "set search_path = pg_temp"),
    "session authorization": ("set session authorization pg_monitor",),
    "application_name": ("set application_name = 'replicator_consumer'",),
    "session_replication_role local": ("set session_replication_role = 'local'",),
    "settings of ours": (
        "set replication.setup_contour = 'b'",
        "set replication.setup_contour_id = '7'",
        "set replication.off = 'true'",
    ),
    "plan_cache_mode custom": ("set plan_cache_mode = 'force_custom_plan'",),
    "plan_cache_mode generic": ("set plan_cache_mode = 'force_generic_plan'",),
    "no hash joins": (
        "set enable_hashjoin = off",
        "set enable_hashagg = off",
    ),
    "no merge joins": ("set enable_mergejoin = off", "set enable_sort = off"),
    "no joins": (
        "set enable_hashjoin = off",
        "set enable_mergejoin = off",
        "set enable_nestloop = off",
        "set enable_memoize = off",
        "set enable_material = off",
    ),
    "no scans": (
        "set enable_seqscan = off",
        "set enable_indexscan = off",
        "set enable_indexonlyscan = off",
        "set enable_bitmapscan = off",
        "set enable_tidscan = off",
    ),
    "join order as written": ("set join_collapse_limit = 1", "set from_collapse_limit = 1"),
    "geqo": ("set geqo_threshold = 2",),
    "jit": (
        "set jit = on",
        "set jit_above_cost = 0",
        "set jit_inline_above_cost = 0",
        "set jit_optimize_above_cost = 0",
    ),
    "parallel": (
        "set debug_parallel_query = on",
        "set parallel_setup_cost = 0",
        "set parallel_tuple_cost = 0",
        "set min_parallel_table_scan_size = 0",
    ),
    "little memory": ("set work_mem = '64kB'", "set hash_mem_multiplier = 1"),
    "constraint_exclusion": ("set constraint_exclusion = on",),
    "plpgsql.extra_errors": (
        "load 'plpgsql'",
        "set plpgsql.extra_errors = 'all'",
        "set plpgsql.extra_warnings = 'all'",
    ),
    "plpgsql.variable_conflict": ("load 'plpgsql'", "set plpgsql.variable_conflict = 'use_column'"),
    "check_function_bodies": ("set check_function_bodies = off",),
    "client_min_messages": ("set client_min_messages = debug5", "set log_min_messages = panic"),
    "temp_tablespaces": ("set default_tablespace = 'pg_default'",),
    "synchronous_commit": ("set synchronous_commit = off",),
    "compression": ("set default_toast_compression = 'pglz'",),
}


@pytest.mark.parametrize("late", [False, True], ids=["from the start", "later"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_change_nothing(
    contour: Contour, usual: Events, settings: tuple[str, ...], *, late: bool
) -> None:
    assert written(contour, *settings, late=late) == usual


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_isolation_changes_nothing(contour: Contour, usual: Events, level: str) -> None:
    assert written(contour, isolation=level) == usual
    assert written(contour, f"set default_transaction_isolation = '{level}'") == usual


def test_settings_of_the_database_and_of_the_role(contour: Contour, usual: Events) -> None:
    database = contour.app.info.dbname
    contour.run(f"alter database {database} set datestyle = 'German'")
    contour.run(f"alter database {database} set quote_all_identifiers = on")
    contour.run(f"alter role postgres in database {database} set timezone = 'Asia/Kolkata'")
    try:
        assert written(contour) == usual
    finally:
        contour.run(f"alter database {database} reset all")
        contour.run(f"alter role postgres in database {database} reset all")


def test_set_up_under_odd_settings(contour: Contour, usual: Events) -> None:
    """What set-up compiles does not depend on the session that runs it either."""
    session = contour.session(autocommit=True)
    for setting in (
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
        "datestyle = 'German'",
        "extra_float_digits = -15",
        "search_path = elsewhere",
        "check_function_bodies = off",
        "client_min_messages = error",
    ):
        session.execute(f"set {setting}")
    session.execute(
        "select replication.setup_table_for_replication('public.copies', full_before => true)"
    )
    session.execute(
        "select replication.refresh_capture(t.table_id) from replication.replicated_tables t"
    )
    session.close()
    assert written(contour) == usual
    setup(contour, "copies", full_before=True)


@pytest.mark.parametrize(
    "setting", ["session_replication_role", "search_path", "datestyle", "application_name", "role"]
)
def test_the_session_keeps_its_settings(contour: Contour, setting: str) -> None:
    """Capture sets some for itself; each is as it was when the statement is over."""
    values = {
        "session_replication_role": "local",
        "search_path": "elsewhere",
        "datestyle": "German, DMY",
        "application_name": "mine",
        "role": "pg_monitor",
    }
    session = contour.session(autocommit=True)
    try:
        session.execute(f"set {setting} = {values[setting]}")
        for level in ("read committed", "repeatable read"):
            session.execute(f"begin isolation level {level}")
            for statement in WRITES:
                session.execute(statement)
                shown = session.execute(f"show {setting}").fetchone()
                assert shown == (values[setting],), statement
            session.execute("rollback")
    finally:
        session.close()


def test_a_setting_local_to_a_function(contour: Contour, usual: Events) -> None:
    contour.run(
        "create or replace function elsewhere.write() returns void language sql "
        "set datestyle = 'German' set timezone = 'Asia/Kolkata' set search_path = elsewhere "
        "set quote_all_identifiers = on as $$ "
        + "; ".join(WRITES)
        + " $$; delete from replication_queue; select elsewhere.write()"
    )
    assert queued(contour) == usual


def test_read_only_sessions_write_nothing(contour: Contour) -> None:
    contour.run("delete from replication_queue")
    session = contour.session(autocommit=True)
    session.execute("set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.execute(WRITES[0])
    session.close()
    assert contour.queue() == []


# Types whose forms need no setting pinned: a table of these has none to protect it.
TIMES = (
    "create table {name} (id int primary key, at timestamptz, local timestamp, day date, clock time, "
    "zoned timetz, numbers int[], words text[])"
)


def test_times_need_no_pinned_setting(contour: Contour) -> None:
    contour.run(f"{TIMES.format(name='times')}; {TIMES.format(name='moments')}")
    setup(contour, "times")
    contour.run("delete from replication_queue")
    contour.run(
        "insert into moments values "
        "(1, '2026-02-03 04:05:06.10+05:30', '2026-02-03 04:05:06.000001', '2026-02-03', '04:05', "
        " '04:05+05:30', '{1,null}', '{null,a}'), "
        "(2, 'infinity', '-infinity', 'infinity', '24:00', '04:05-00:30', '[0:1]={1,2}', '{}'), "
        "(3, '0044-03-15 12:00+00 BC', '0044-03-15 12:00 BC', '0044-03-15 BC', "
        " null, null, null, null), "
        "(4, '10000-01-01 00:00+00', '10000-01-01', '10000-01-01', null, null, null, null), "
        "(5, '0001-01-01 00:00+00', '9999-12-31 23:59:59.999999', '0001-01-01', "
        " null, null, null, null), "
        "(6, '2026-07-01 00:00+00', '2026-07-01', '2026-07-01', null, null, null, null), "
        "(7, null, null, null, null, null, null, null)"
    )
    pinned = contour.value(
        "select array_to_string(proconfig, ' ') from pg_proc where proname = 'capture_' || "
        "(select table_id from replication.replicated_tables where table_name = 'times')"
    )
    assert pinned == "search_path=pg_catalog, pg_temp enable_seqscan=off"

    seen = set()
    for settings in (
        "set timezone = 'UTC'",
        "set datestyle = 'German'; set timezone = 'Asia/Kolkata'",
        "set datestyle = 'SQL, DMY'; set timezone = 'America/New_York'",
        "set datestyle = 'Postgres, MDY'; set timezone = 'UTC5'",  # a zone that calls itself UTC
        "set timezone = '<Z>7'; set intervalstyle = 'iso_8601'; set array_nulls = off",
        "set timezone = '<+00>-3'; set extra_float_digits = -15",
    ):
        with psycopg.connect(contour.dsn, autocommit=True) as session:
            for setting in settings.split("; "):
                session.execute(setting)
            session.execute("insert into times select * from moments")
            session.execute("update times set id = id + 10")
            session.execute("delete from times")
        seen.add(
            tuple(
                contour.run(
                    "select operation, record_key, payload::text from replication_queue order by id"
                )
            )
        )
        contour.run("delete from replication_queue")
    assert len(seen) == 1
    texts = {key: text for operation, key, text in seen.pop() if operation == "INSERT"}
    assert texts['{"id":1}'] == (
        '{"id":1,"at":"2026-02-02T22:35:06.1Z","local":"2026-02-03T04:05:06.000001",'
        '"day":"2026-02-03","clock":"04:05:00","zoned":"04:05:00+05:30","numbers":[1,null],'
        '"words":[null,"a"]}'
    )
    assert '"infinity","local":"-infinity","day":"infinity"' in texts['{"id":2}']
    assert '"0044-03-15 12:00:00+00 BC","local":"0044-03-15 12:00:00 BC"' in texts['{"id":3}']
    assert '"10000-01-01 00:00:00+00","local":"10000-01-01 00:00:00"' in texts['{"id":4}']
    assert '"0001-01-01T00:00:00Z","local":"9999-12-31T23:59:59.999999"' in texts['{"id":5}']
