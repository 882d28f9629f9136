"""The queue holds exactly what was committed, in the wire forms, whoever wrote it and how."""

from __future__ import annotations

import json

import psycopg
import pytest

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.version import contour_id_of, microseconds_of
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline_tests.conftest import Contour, MakeContours

pytestmark = pytest.mark.integration


@pytest.fixture
def users(users: list[Contour]) -> Contour:
    return users[0]


def operations(contour: Contour) -> list[tuple[str, str]]:
    return [(operation, key) for operation, key, _ in contour.queue()]


def test_insert_update_delete(users: Contour) -> None:
    users.run("insert into users (id, name) values (1, 'x'), (2, 'y')")
    users.run("update users set name = 'z' where id = 1")
    users.run("delete from users where id = 2")
    assert operations(users) == [
        ("INSERT", '{"id":1}'),
        ("INSERT", '{"id":2}'),
        ("UPDATE", '{"id":1}'),
        ("DELETE", '{"id":2}'),
    ]
    payloads = [payload for _, _, payload in users.queue()]
    assert payloads[2]["name"] == "z"
    assert payloads[3] is None
    assert "replication_version" not in payloads[0]


def test_versions_ascend_carry_the_contour_and_are_those_of_the_rows(users: Contour) -> None:
    users.run("insert into users (id) values (1)")
    for _ in range(3):
        users.run("update users set balance = coalesce(balance, 0) + 1")
    rows = users.run("select version, base_version from replication_queue order by id")
    versions = [version for version, _ in rows]
    assert versions == sorted(set(versions))
    assert [base for _, base in rows] == [None, *versions[:-1]]
    assert {contour_id_of(version) for version in versions} == {1}
    assert users.value("select replication_version from users") == versions[-1]
    clock = users.value("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
    assert 0 <= clock - microseconds_of(versions[-1]) < 60_000_000


def test_an_application_can_not_set_the_version(users: Contour) -> None:
    users.run("insert into users (id, replication_version) values (1, 9000000000000000000)")
    users.run("update users set replication_version = 9000000000000000000, name = 'x'")
    assert users.value("select replication_version < 9000000000000000000 from users") is True


def test_rolled_back_changes_leave_nothing(users: Contour) -> None:
    with users.session() as session:
        session.execute("insert into users (id) values (1)")
        session.execute("savepoint s")
        session.execute("insert into users (id) values (2)")
        session.execute("rollback to s")
        session.commit()
        session.execute("insert into users (id) values (3)")
        session.rollback()
    assert operations(users) == [("INSERT", '{"id":1}')]


def test_an_update_that_changes_nothing_is_no_event(users: Contour) -> None:
    users.run("insert into users (id, name, meta) values (1, 'x', '{}'), (2, 'y', '{}')")
    before = users.value("select replication_version from users where id = 1")
    users.run("update users set name = name")
    users.run("update users set name = 'x'")
    assert operations(users)[2:] == [("UPDATE", '{"id":2}')]
    assert users.value("select replication_version from users where id = 1") == before


def test_upserts(users: Contour) -> None:
    upsert = "insert into users (id, name) values (1, %s), (2, %s) on conflict (id) do "
    users.run(upsert + "nothing", "a", "b")
    users.run(upsert + "nothing", "c", "d")
    users.run("delete from users where id = 2")
    users.run(upsert + "update set name = excluded.name", "e", "f")
    assert operations(users)[3:] == [("INSERT", '{"id":2}'), ("UPDATE", '{"id":1}')] or operations(
        users
    )[3:] == [("UPDATE", '{"id":1}'), ("INSERT", '{"id":2}')]


def test_a_key_change_is_a_delete_and_an_insert(users: Contour) -> None:
    users.run("insert into users (id, name) values (1, 'x'), (2, 'y')")
    users.run("update users set id = id + 10")
    assert sorted(operations(users)[2:]) == [
        ("DELETE", '{"id":1}'),
        ("DELETE", '{"id":2}'),
        ("INSERT", '{"id":11}'),
        ("INSERT", '{"id":12}'),
    ]
    assert users.run("select record_key from replication_tombstones order by 1") == [
        ('{"id":1}',),
        ('{"id":2}',),
    ]


def test_bulk_statements_and_copy(users: Contour) -> None:
    users.run("insert into users (id, name) select g, 'n' || g from generate_series(1, 1000) g")
    with users.session() as session, session.cursor() as cursor:
        with cursor.copy("copy users (id, name) from stdin") as copy:
            for number in range(1001, 1501):
                copy.write_row((number, "copied"))
        session.commit()
    users.run("update users set name = 'u' where id <= 700")
    users.run("delete from users where id > 900")
    counted = users.run(
        "select operation, count(*), count(distinct event_id), count(distinct record_key) "
        "from replication_queue group by 1 order by 1"
    )
    assert counted == [
        ("DELETE", 600, 600, 600),
        ("INSERT", 1500, 1500, 1500),
        ("UPDATE", 700, 700, 700),
    ]


def test_cascades_are_captured_as_changes_of_the_children(make_contours: MakeContours) -> None:
    contour, _ = make_contours(
        "create table parents (id int primary key); "
        "create table children (id int primary key, parent int references parents on delete cascade)",
        ["parents", "children"],
    )
    contour.run("insert into parents values (1); insert into children values (7, 1), (8, 1)")
    contour.run("delete from parents")
    assert sorted(operations(contour)[3:]) == [
        ("DELETE", '{"id":1}'),
        ("DELETE", '{"id":7}'),
        ("DELETE", '{"id":8}'),
    ]


WIRE = """
create table wire (
  id bigint primary key, n numeric, j json, jb jsonb, tz timestamptz, ts timestamp, d date, t time,
  b bytea, ints int[], texts text[], f float8, flag boolean, u uuid, r int4range, iv interval
)
"""


def test_wire_forms_whatever_the_session_is_set_to(make_contours: MakeContours) -> None:
    contour, _ = make_contours(WIRE, ["wire"])
    session = contour.session(autocommit=True)
    for setting in (
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kolkata'",
        "extra_float_digits = -10",
        "bytea_output = 'escape'",
        "search_path = pg_temp",
        "application_name = 'replicator_consumer'",
    ):
        session.execute("set " + setting)
    session.execute(
        """insert into public.wire values (
             9007199254740993, 1.50, '{"a":  1, "a": 2}', 'null',
             timestamptz '2026-11-22 21:00:00.5+00',
             timestamp '2026-11-22 21:00:00.123456', '2026-11-22', '21:00:00.5', '\\xdeadbeef',
             '{1,2,null}', array['x', null, 'y"'], 0.1::float8 + 0.2::float8, true,
             '7d444840-9dc0-11d1-b245-5ffdce74fad2', '[1,5)', '1 day 02:00:00')"""
    )
    session.execute(
        "insert into public.wire (id, n, tz, ts, ints, f, jb) values "
        "(2, 'NaN', 'infinity', timestamp '0044-03-15 12:00:00 BC', '[0:1]={7,8}', 'Infinity', null)"
    )
    ordinary, odd = (payload for _, _, payload in contour.queue())
    assert ordinary == {
        "id": 9007199254740993,
        "n": "1.50",
        "j": '{"a":  1, "a": 2}',
        "jb": "null",
        "tz": "2026-11-22T21:00:00.5Z",
        "ts": "2026-11-22T21:00:00.123456",
        "d": "2026-11-22",
        "t": "21:00:00.5",
        "b": "3q2+7w==",
        "ints": [1, 2, None],
        "texts": ["x", None, 'y"'],
        "f": 0.30000000000000004,
        "flag": True,
        "u": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
        "r": "[1,5)",
        "iv": "1 day 02:00:00",
    }
    assert (odd["n"], odd["tz"], odd["ts"], odd["ints"], odd["f"], odd["jb"]) == (
        "NaN",
        "infinity",
        "0044-03-15 12:00:00 BC",
        "[0:1]={7,8}",
        "Infinity",
        None,
    )


def test_changed_columns_are_seen_by_the_next_statement(users: Contour) -> None:
    other = users.session(autocommit=True)
    other.execute("insert into users (id) values (1)")
    users.run("alter table users add column extra int[] default '{1}'")
    other.execute("insert into users (id) values (2)")
    users.run("alter table users rename column extra to more")
    other.execute("update users set name = 'x' where id = 2")
    users.run("alter table users drop column meta")
    other.execute("insert into users (id) values (3)")
    users.run("alter table users alter column more type text using more::text")
    other.execute("insert into users (id, more) values (4, 'text')")
    users.run("alter table users rename to people")
    other.execute("delete from people where id = 4")
    payloads = [payload for _, _, payload in users.queue()]
    assert "extra" not in payloads[0]
    assert payloads[1]["extra"] == [1]
    assert payloads[2]["more"] == [1]
    assert "meta" not in payloads[3]
    assert payloads[4]["more"] == "text"
    assert users.run("select distinct table_name from replication_queue") == [("users",)]
    with connect(users.settings, application_name="test") as connection:
        connection.execute(
            "select replication.refresh_capture(t.table_id) from replication.replicated_tables t"
        )
    other.execute("insert into people (id) values (9)")
    assert operations(users)[-1] == ("INSERT", '{"id":9}')


def test_keys_of_several_columns_and_odd_names(make_contours: MakeContours) -> None:
    contour, _ = make_contours(
        'create schema "My Shop"; create table "My Shop"."Order ""x""" '
        '("select" text, "Ключ" uuid, version int, op text, n int, o int, t int, c int, s int, '
        'primary key ("Ключ", "select"))',
        ['My Shop.Order "x"'],
    )
    contour.run(
        'insert into "My Shop"."Order ""x""" values '
        "(E'q\"\\\\\\n', '7d444840-9dc0-11d1-b245-5ffdce74fad2', 1, 'x')"
    )
    ((_, key, payload),) = contour.queue()
    assert json.loads(key) == {
        "Ключ": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
        "select": 'q"\\\n',
    }
    assert list(json.loads(key)) == ["Ключ", "select"]
    assert payload["version"] == 1


def test_ordinary_roles_are_captured_without_any_right_here(users: Contour) -> None:
    users.run("create role plain_writer login; grant all on users to plain_writer")
    try:
        with psycopg.connect(users.dsn, user="plain_writer", autocommit=True) as writer:
            writer.execute("set application_name = 'replicator_consumer'")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("set session_replication_role = replica")
            writer.execute("insert into users (id) values (1)")
            writer.execute("update users set name = 'x'")
            for statement in (
                "select * from replication.replication_queue",
                "delete from replication.replication_queue",
                "select replication.next_version(1)",
                "select replication.install_clock()",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    writer.execute(statement)
        assert len(operations(users)) == 2
    finally:
        users.run("drop owned by plain_writer; drop role plain_writer")


def test_truncate_is_refused(users: Contour) -> None:
    users.run("insert into users (id) values (1)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="TRUNCATE is not captured"):
        users.run("truncate users")
    assert users.value("select count(*) from users") == 1


def test_a_new_row_is_lifted_above_its_tombstone(users: Contour) -> None:
    """A tombstone from a contour whose clock runs an hour ahead must not swallow a new row."""
    users.run("insert into users (id) values (1), (2); delete from users")
    ahead = "((extract(epoch from now() + interval '1 hour') * 1000000)::bigint << 10) | 2"
    users.run(f"update replication_tombstones set version = {ahead}")
    users.run("insert into users (id, name) values (1, 'again'), (3, 'new')")
    users.run("update users set id = 2 where id = 3")
    rows = users.run(
        "select u.id, u.replication_version > s.version, u.replication_version = q.version "
        "from users u join replication_tombstones s on s.record_key = format('{\"id\":%s}', u.id) "
        "join lateral (select version from replication_queue q where q.record_key = s.record_key "
        "              order by id desc limit 1) q on true order by u.id"
    )
    assert rows == [(1, True, True), (2, True, True)]
    assert users.value("show session_replication_role") == "origin"


def test_a_row_that_a_trigger_brings_back_is_not_deleted_elsewhere(users: Contour) -> None:
    users.run(
        "create function again() returns trigger language plpgsql as "
        "$$ begin insert into users (id, name) values (old.id, 'again'); return null; end $$; "
        "create trigger again after delete on users for each row execute function again()"
    )
    users.run("insert into users (id) values (1)")
    users.run("delete from users")
    assert operations(users) == [("INSERT", '{"id":1}'), ("INSERT", '{"id":1}')]
    assert users.value("select count(*) from replication_tombstones") == 0


def test_lifting_leaves_alone_what_a_trigger_has_changed_since(users: Contour) -> None:
    users.run("insert into users (id) values (1); delete from users")
    ahead = "((extract(epoch from now() + interval '1 hour') * 1000000)::bigint << 10) | 2"
    users.run(f"update replication_tombstones set version = {ahead}")
    users.run(
        "create function touch() returns trigger language plpgsql as "
        "$$ begin update users set name = name || '+' where id = new.id; return null; end $$; "
        "create trigger touch after insert on users for each row execute function touch()"
    )
    users.run("insert into users (id, name) values (1, 'x')")
    newest = (
        "select version, payload ->> 'name' from replication_queue order by version desc limit 1"
    )
    assert users.run(newest) == users.run("select replication_version, name from users")
    assert users.run("select name from users") == [("x+",)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_old_snapshot_can_not_insert_below_a_newer_tombstone(users: Contour, level: str) -> None:
    with users.session() as session:
        session.execute(f"set transaction isolation level {level}")
        session.execute("select count(*) from users")  # takes the snapshot
        users.run(
            "insert into replication_tombstones (table_name, record_key, version) "
            "values ('users', '{\"id\":1}', 9000000000000000000)"
        )
        with pytest.raises(psycopg.errors.SerializationFailure):
            session.execute("insert into users (id) values (1)")
        session.rollback()
        session.execute(f"set transaction isolation level {level}")
        session.execute("insert into users (id) values (2)")
        session.execute("update users set name = 'x'")
        session.commit()
    assert operations(users) == [("INSERT", '{"id":2}'), ("UPDATE", '{"id":2}')]


def test_a_clock_that_jumps_back_does_not_turn_versions_back(users: Contour) -> None:
    users.run("insert into users (id) values (1)")
    users.run("select replication.install_clock(interval '-1 hour')")
    users.run("update users set name = 'later'")
    users.run("delete from users")
    versions = [v for (v,) in users.run("select version from replication_queue order by id")]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("ddl", "table", "problem"),
    [
        ("create table nokey (id int)", "nokey", "no primary key"),
        ("create view v as select 1 as id", "v", "not an ordinary table"),
        ("create unlogged table u (id int primary key)", "u", "unlogged"),
        ("create table d (id int primary key deferrable)", "d", "deferrable"),
        ("create table i (id int primary key); create table k () inherits (i)", "i", "inheritance"),
        ("create table f (id float8 primary key)", "f", "key column id"),
        ("create table n (id numeric primary key)", "n", "key column id"),
        ("create extension citext; create table c (id citext primary key)", "c", "key column id"),
        ("create table x (id int primary key, e text unique deferrable)", "x", "deferrable unique"),
        (
            "create table s (id int primary key); alter table s enable row level security",
            "s",
            "row level security",
        ),
        ("create table o (id int primary key, replication_version text)", "o", "of its own"),
        ("select 1", "missing", "does not exist"),
    ],
)
def test_unfit_tables_are_refused_with_a_remedy(
    users: Contour, ddl: str, table: str, problem: str
) -> None:
    users.run(ddl)
    with (
        connect(users.settings, application_name="test") as connection,
        pytest.raises(RefusedError, match=problem) as refused,
    ):
        installer.setup_table(connection, users.settings, table)
    assert refused.value.remedy or "does not exist" in problem
    assert users.value("select count(*) from replication.replicated_tables") == 1


def test_removed_tables_are_as_before(users: Contour) -> None:
    with connect(users.settings, application_name="test") as connection:
        installer.remove_table(connection, users.settings, "users", drop_version_column=True)
        installer.remove_table(connection, users.settings, "users", drop_version_column=True)
    users.run("insert into users (id) values (1); truncate users")
    assert users.queue() == []
    columns = "select count(*) from information_schema.columns where table_name = 'users'"
    assert users.value(columns + " and column_name = 'replication_version'") == 0
    assert users.value("select count(*) from pg_trigger where tgrelid = 'users'::regclass") == 0


def test_tombstones_are_never_read_from_end_to_end(users: Contour) -> None:
    """A plan made while there were none would do so until the next ANALYZE, in every INSERT."""
    users.run("vacuum analyze replication.replication_tombstones")
    for number in range(10):  # plans are kept from the sixth on
        users.run("insert into users (id) values (%s)", number)
        users.run("update users set name = 'x' where id = %s", number)
    users.run("insert into users (id) select generate_series(1000, 2000)")
    users.run("delete from users where id >= 1000")
    scans = (
        "select seq_scan from pg_stat_get_numscans('replication.replication_tombstones'::regclass) "
        "as s(seq_scan)"
    )

    def scanned() -> int:
        users.run("select pg_stat_force_next_flush()")
        found = users.value(scans)
        assert isinstance(found, int)
        return found

    before = scanned()
    for number in range(10):
        users.run("insert into users (id) values (%s)", 100 + number)
        users.run("update users set name = 'y' where id = %s", 100 + number)
    assert scanned() == before
