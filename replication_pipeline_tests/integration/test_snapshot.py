"""Tables of any kind go elsewhere while everybody writes; what is refused; what is waited for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.engine import snapshot as engine
from replication_pipeline.engine.snapshot import Wanted
from replication_pipeline.postgres import snapshot_runs
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.commands import call
from replication_pipeline_tests.integration.loading import (
    ITEMS,
    Loading,
    change_items,
    exchange,
    load,
    places,
    unseen,
    writing,
)
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration
MANY = "insert into items select i, 'body ' || i from generate_series(0, 1999) i"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts and chunks, although tests have few rows."""
    monkeypatch.setattr(snapshot_runs, "ROWS_A_PART", 500)
    monkeypatch.setattr(engine, "FIRST_ROWS", 40)


@pytest.fixture
def items(make_contours: MakeContours) -> list[Contour]:
    """Two contours; only the first one has rows, and no event tells of them."""
    contours = make_contours(ITEMS, ["items"])
    unseen(contours[0], MANY)
    contours[0].run("analyze items")
    return contours


def queued(contour: Contour) -> int:
    count = contour.value("select count(*) from replication_queue where operation = 'SNAPSHOT'")
    assert isinstance(count, int)
    return count


def test_a_table_is_loaded_while_both_sides_write(items: list[Contour]) -> None:
    a, b = items
    with writing(items, change_items(2_000)) as writers:
        totals = load(a)
        written = writers.written
        until(lambda: writers.written > written + 10, "writers to go on")
    assert totals.progress.rows > 1_000
    with places(items) as both:
        exchange(both)
        exchange(both)
    assert same_rows(items, "items")
    assert a.value("select count(*) from items where id < 2000") > 1_000
    assert b.value("select count(*) from parked_events") == 0


KINDS = {
    "text in its collation": (
        "k text primary key",
        "chr(65 + i % 26) || lower(chr(65 + i % 23)) || i",
    ),
    "several columns": (
        "k text, n int, d date, primary key (n, k, d)",
        "'k' || i % 5, i % 7, date '2020-01-01' + i",
    ),
    "uuid": ("k uuid primary key", "md5(i::text)::uuid"),
    "an enum and a number": (
        "k feeling, n smallint, primary key (k, n)",
        "(array['sad', 'glad']::feeling[])[1 + i % 2], i",
    ),
    "a time": (
        "k timestamptz primary key",
        "'2020-01-01 12:00+00'::timestamptz + i * interval '1.5 h'",
    ),
    "an exact number": ("k numeric(12,3) primary key", "i / 8.0 - 20"),
    "padded text": ("k char(8) primary key", "'k' || i"),
    "an address": ("k inet primary key", "'10.0.0.0'::inet + i"),
}


@pytest.mark.parametrize(("columns", "values"), KINDS.values(), ids=KINDS)
def test_keys_of_any_kind(make_contours: MakeContours, columns: str, values: str) -> None:
    contours = make_contours(
        f"""create type feeling as enum ('sad', 'glad');
        create table "odd % t" ({columns}, body jsonb)""",
        ["odd % t"],
    )
    a, b = contours
    body = "jsonb_build_object('i', i)"
    unseen(a, f'insert into "odd % t" select {values}, {body} from generate_series(1, 1500) i')
    a.run('analyze "odd % t"')
    a.run("""delete from "odd % t" where body->>'i' in ('7', '8')""")
    run = Loading(a, Wanted("odd % t"))
    assert a.value("select count(*) from replication.snapshot_parts") == 4
    totals = run.start().end()
    assert (totals.progress.rows, totals.progress.deletes) == (1498, 2)
    with places(contours) as both:
        exchange(both)
    assert same_rows(contours, '"odd % t"')
    assert b.value('select count(*) from "odd % t"') == 1498


def test_a_partitioned_table(make_contours: MakeContours) -> None:
    contours = make_contours(
        """create table days (day date, n int, body text, primary key (day, n))
          partition by range (day);
        create table early partition of days for values from (minvalue) to ('2020-03-01');
        create table late partition of days for values from ('2020-03-01') to (maxvalue)
          partition by hash (n);
        create table late_0 partition of late for values with (modulus 2, remainder 0);
        create table late_1 partition of late for values with (modulus 2, remainder 1)""",
        ["days"],
    )
    a, _ = contours
    unseen(
        a,
        "insert into days select date '2020-01-01' + i / 9, i, 'x' from generate_series(1, 1500) i",
    )
    a.run("analyze days")
    assert load(a, "days").progress.rows == 1500
    with places(contours) as both:
        exchange(both)
    assert same_rows(contours, "days")


def test_rows_from_before_set_up_go_where_there_is_nothing(make_contours: MakeContours) -> None:
    mine = "case when current_database() like '%%\\_a' then 'a' else 'b' end"
    contours = make_contours(
        f"{ITEMS}; insert into items select i, {mine.replace('%%', '%')} from generate_series(1, 6) i; "
        "delete from items where body = 'b' and id > 3",
        ["items"],
    )
    a, b = contours
    b.run("insert into items values (4, 'newer'), (5, 'x')")
    b.run("delete from items where id = 5")
    assert a.run("select distinct replication_version from items") == [(0,)]
    load(a)
    with places(contours) as (at_a, at_b):
        at_b.deliver(at_a.publish())
        assert b.run("select id, body, replication_version > 0 from items order by id") == [
            (1, "b", False), (2, "b", False), (3, "b", False),  # different ones are compare's business
            (4, "newer", True),  # 5 is deleted
            (6, "a", False),
        ]  # fmt: skip
        at_a.deliver(at_b.publish())
    assert a.run("select id, body from items where id in (4, 5)") == [(4, "newer")]
    assert b.value("select count(*) from parked_events") == 0


def test_rows_in_the_hands_of_a_long_transaction_are_waited_for(items: list[Contour]) -> None:
    a, b = items
    session = a.session()
    session.execute("select from items where id = 100 for update")
    session.execute("update items set body = 'new' where id = 500")
    session.execute("delete from items where id = 700")
    session.execute("insert into items values (5000, 'inserted')")
    run = Loading(a, Wanted("items")).start()
    run.until_told("3 rows of items are being written by others")
    assert queued(a) == 1997
    session.commit()
    assert run.end().progress.rows == 1999
    with places(items) as both:
        exchange(both)
    assert same_rows(items, "items")
    assert b.run("select id, body from items where id in (100, 500, 700, 5000) order by id") == [
        (100, "body 100"), (500, "new"), (5000, "inserted"),
    ]  # fmt: skip


def test_a_snapshot_is_no_conflict_and_does_not_turn_rows_back(items: list[Contour]) -> None:
    a, b = items
    b.run("insert into items values (1, 'newer in b'), (2, 'gone in b')")
    b.run("delete from items where id = 2")
    load(a)
    with places(items) as both:
        exchange(both)
    assert same_rows(items, "items")
    assert a.run("select id, body from items where id < 3 order by id") == [
        (0, "body 0"),
        (1, "newer in b"),
    ]
    # In a the write of b met a row that b had not seen; in b nobody has written anything.
    assert b.value("select count(*) from replication_conflicts") == 0


def test_deletes_are_sent_and_rows_do_not_come_back(items: list[Contour]) -> None:
    a, b = items
    a.run("insert into items values (6001, 'old'), (6002, 'old'), (6003, 'old')")
    with places(items) as (at_a, at_b):
        old = at_a.publish()
        at_b.deliver(old)
        b.run("update items set body = 'seen in a' where id = 6001")
        at_a.deliver(at_b.publish())
        a.run("delete from items where id in (6001, 6002, 6003, 3)")
        a.run("insert into items values (6002, 'again')")
        at_a.publish()  # lost: b never hears of it
        b.run("update items set body = 'written in b' where id = 6003")
        assert load(a).progress.deletes == 3
        at_b.deliver(at_a.publish())
        assert b.value("select count(*) from replication_conflicts") == 0
        b.run("delete from processed_events")
        at_b.deliver(old)  # once more, and too late
    assert b.run("select id, body from items where id > 6000 or id = 3 order by id") == [
        (6002, "again"), (6003, "written in b"),
    ]  # fmt: skip


def test_a_delete_is_never_queued_behind_an_insert_under_way(items: list[Contour]) -> None:
    a, _ = items
    a.run("delete from items where id in (1, 2, 3)")
    session = a.session()
    session.execute("insert into items values (1, 'comes back')")  # has its event's id by now
    run = Loading(a, Wanted("items")).start()
    until(lambda: queued(a) == 1997, "the rows to be queued")  # which wait for nobody
    run.until_told("deletes wait for transactions that write to items")
    assert run.running
    assert a.value("select count(*) from replication_queue where snapshot_to is not null "
                   "and operation = 'DELETE'") == 0  # fmt: skip
    session.commit()
    totals = run.end()
    assert totals.progress.deletes == 2
    found = "select operation from replication_queue where record_key = '{\"id\":1}' order by id"
    assert a.run(found) == [("DELETE",), ("INSERT",)]


def test_a_filter_and_one_contour_of_three(make_contours: MakeContours) -> None:
    contours = make_contours(ITEMS, ["items"], count=3)
    a, b, c = contours
    unseen(a, MANY)
    load(a, to="c", where="items.body like '%9' -- nines")
    with places(contours) as (at_a, at_b, at_c):
        carried = at_a.publish()
        source = json.loads(carried[0][1])["source"]
        assert (source["to"], source["snapshot"]) == ("c", "incremental")
        at_b.deliver(carried)
        at_b.deliver(carried[:3])
        at_c.deliver(carried)
    assert b.value("select count(*) from items") == 0
    assert c.value("select count(*) from items") == 200
    assert b.value("select sum(skipped) from workers") == 203


def test_a_table_that_merges_arrives_with_its_columns_versions(make_contours: MakeContours) -> None:
    contours = make_contours(
        "create table stock (id int primary key, name text, note text, n bigint not null default 0)",
        {"stock": {"merge": "columns", "delta_columns": ["n"]}},
        count=3,
    )
    a, b, c = contours
    with places(contours) as (at_a, at_b, at_c):
        a.run(
            "insert into stock values (1, 'one', 'x', 10), (2, 'two', 'x', 5), (3, 'three', 'x', 1)"
        )
        at_b.deliver(at_a.publish())
        a.run("update stock set n = n - 1, name = 'eins' where id = 1")
        b.run("update stock set n = n + 5, note = 'from b' where id = 1")
        b.run("update stock set note = 'late' where id = 2")
        at_a.deliver(at_b.publish()[:1])
        c.run("insert into stock values (4, 'vier', 'x', 7)")
        a.run("insert into stock values (4, 'four', 'x', 1)")  # as its INSERT made it
        at_a.publish()
        load(a, "stock", to="c")
        at_c.deliver(at_a.publish())
        assert c.run("select name, note, n from stock where id = 1") == [("eins", "from b", 14)]
        # c can go on from there.
        c.run("update stock set n = n + 100 where id = 1")
        sent = at_c.publish()
        at_a.deliver(sent)
        assert same_rows([a, c], "stock")
        assert a.run("select n from stock where id in (1, 4) order by id") == [(114,), (8,)]


def test_it_waits_while_the_queue_is_full_and_says_why(items: list[Contour]) -> None:
    a, _ = items
    run = Loading(a, Wanted("items"), max_queue=300, max_chunk=50).start()
    run.until_told("events are unpublished, and no publisher runs in a")
    assert run.running
    assert queued(a) <= 300 + 2 * 50
    with places([a]) as (at_a,):
        until(lambda: at_a.publish() is not None and not run.running, "the snapshot to end")
    assert run.end().progress.rows == 2000


def test_a_rate_is_kept(items: list[Contour]) -> None:
    run = Loading(items[0], Wanted("items", where="id < 400"), rate=400)
    began = time.monotonic()
    run.start().end()
    assert time.monotonic() - began > 0.7


def test_calls_at_once_share_the_work_and_a_stop_can_be_resumed(items: list[Contour]) -> None:
    a, _ = items
    first = Loading(a, Wanted("items"), rate=2_000, max_chunk=20).start()
    until(lambda: first.seen is not None and first.seen.rows > 0, "rows to be queued")
    first.stop.set("test")
    totals = first.end()
    assert totals.end == "stopped"
    assert 0 < totals.progress.rows < 2000
    both = [Loading(a, Wanted("items"), max_chunk=20).start() for _ in range(2)]
    assert [run.run.resumed for run in both] == [True, True]
    assert [run.end().end for run in both] == ["done", "done"]
    assert queued(a) == 2000 == a.value("select queued from replication.snapshots")
    assert a.value("select count(distinct record_key) from replication_queue") == 2000


def test_one_that_is_begun_anew_ends_the_other(items: list[Contour]) -> None:
    a, _ = items
    first = Loading(a, Wanted("items", where="id < 1900"), rate=200).start()
    until(lambda: first.seen is not None and first.seen.rows > 0, "rows to be queued")
    with pytest.raises(RefusedError, match="is not finished, and is another one"):
        Loading(a, Wanted("items"))
    assert Loading(a, Wanted("items"), restart=True).start().end().progress.rows == 2000
    assert first.end().end == "given up"


def test_what_can_not_be_is_refused_before_anything_is_written(
    items: list[Contour], postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    a, _ = items
    a.run(
        "insert into replication.contours "
        "(name, id, incarnation, state, sequence, last_beat, last_heard) "
        "values ('b', 2, gen_random_uuid(), 'active', 1, now(), 0)"
    )
    for words, expected in {
        ("nothing",): "table nothing is not set up for replication",
        ("items", "--to", "a"): "contour a has the table itself",
        ("items", "--to", "x"): "contour a has not heard of a contour x; it knows b",
        ("items", "--where", "boddy = 1"): 'the filter of items: column "boddy" does not exist',
        ("items", "--where", "true); delete from items; --"): "syntax error",
        ("items", "--where", "body::int > 1"): "SQLSTATE 22P02",
        ("items", "--where", "count(*) > 1"): "aggregate functions are not allowed in WHERE",
        (): "no table is named",
    }.items():
        result = call(a, tmp_path, "snapshot", *words)
        assert expected in str(result.exception), (words, result.exception)
        assert getattr(result.exception, "exit_code", None) == 2
        assert "body 1" not in str(result.exception)
    assert a.value("select count(*) from replication.snapshots") == 0
    assert a.value("select count(*) from items") == 2000
    away = with_settings(a.settings, postgres={"dsn": "host=127.0.0.1 port=1 dbname=x"})
    gone = Contour(away, a.app, "host=127.0.0.1 port=1 dbname=x")
    result = call(gone, tmp_path, "snapshot", "items")
    assert getattr(result.exception, "exit_code", None) == 3


def test_the_command_tells_what_it_did(items: list[Contour], tmp_path: Path) -> None:
    a, _ = items
    result = call(a, tmp_path, "snapshot", "items", "--to", "b", "--where", "id < 10")
    assert result.exit_code == 0
    assert "snapshot 1 of items to b, where id < 10" in result.output
    assert "queued: 10 rows and 0 deletes" in result.output
    document = json.loads(call(a, tmp_path, "snapshot", "items", "--json").output)
    assert (document["ended_by"], document["rows"], document["to"]) == ("done", 2000, None)
    listed = call(a, tmp_path, "snapshot", "--list").output.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [
        ["2", "items", "2,000"],
        ["1", "items", "10"],
    ]
    assert configuration(tmp_path, a)


def test_a_table_set_up_anew_is_loaded_from_the_beginning(items: list[Contour]) -> None:
    a, _ = items
    run = Loading(a, Wanted("items"), rate=300).start()
    until(lambda: run.seen is not None and run.seen.rows > 0, "rows to be queued")
    run.stop.set("test")
    run.end()
    a.run("select remove_table_from_replication('items')")
    a.run("update items set body = 'unseen'")
    a.run("select setup_table_for_replication('items')")
    again = Loading(a, Wanted("items"))
    assert not again.run.resumed
    assert again.start().end().progress.rows == 2000


def test_a_role_without_any_rights_of_its_own_can_do_it(make_contours: MakeContours) -> None:
    (a,) = make_contours(
        """create table days (day int, n int, body text, primary key (day, n))
          partition by range (day);
        create table early partition of days for values from (minvalue) to (100);
        create table late partition of days for values from (100) to (maxvalue)""",
        ["days"],
        count=1,
    )
    unseen(a, "insert into days select i, i, 'x' from generate_series(1, 200) i")
    a.run("delete from days where day in (1, 2)")
    a.run("create role loader login in role replication_publisher, replication_consumer")
    try:
        dsn = psycopg.conninfo.make_conninfo(a.dsn, user="loader")
        as_loader = Contour(with_settings(a.settings, postgres={"dsn": SecretStr(dsn)}), a.app, dsn)
        totals = load(as_loader, "days", where="n < 150")
        assert (totals.progress.rows, totals.progress.deletes) == (147, 2)
        with pytest.raises(RefusedError, match="permission denied"):
            load(as_loader, "days", where="(select count(*) from pg_authid) > 0")
    finally:
        a.run("drop owned by loader; drop role loader")
