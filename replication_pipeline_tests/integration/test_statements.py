"""Every way to write is captured: the queue, read in its order, ends with the table as it is."""

from __future__ import annotations

import psycopg
import pytest

from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.history import (
    Shared,
    assert_queue_tells,
    events,
    mark,
    payloads,
)

pytestmark = pytest.mark.integration

ITEMS = """
create table items (id int primary key, name text, amount int not null default 0);
create table news (id int primary key, name text, gone boolean not null default false);
insert into news values (2, 'B', false), (3, 'c', true), (4, 'D', false), (5, 'E', false);
"""
# Stored from the highest key to the lowest, so that `id = id + 1` never meets a key still in use.
ROWS = "insert into items (id, name) values (3, 'c'), (2, 'b'), (1, 'a')"


@pytest.fixture
def items(make: Shared) -> Contour:
    """``items`` with the rows 1, 2 and 3, and ``news``, which is not replicated."""
    contour = make(ITEMS, ["items"])
    contour.run(ROWS)
    return contour


def new_events(contour: Contour, statement: str) -> list[str]:
    """The events that a statement makes, sorted."""
    start = mark(contour)
    contour.run(statement)
    return sorted(events(contour, after=start))


MERGE = """
merge into items t using news s on s.id = t.id
 when matched and s.gone then delete
 when matched then update set name = s.name
 when not matched and s.id = 5 then do nothing
 when not matched then insert (id, name) values (s.id, s.name)
"""

STATEMENTS: dict[str, tuple[str, list[str]]] = {
    "insert": ("insert into items values (4, 'd')", ["INSERT 4"]),
    "insert rows": ("insert into items values (4, 'd'), (5, 'e')", ["INSERT 4", "INSERT 5"]),
    "insert select": (
        "insert into items select id + 3, name from items where id < 3",
        ["INSERT 4", "INSERT 5"],
    ),
    "insert returning": ("insert into items values (4) returning id", ["INSERT 4"]),
    "insert nothing": ("insert into items select 9, 'x' where false", []),
    "update": ("update items set name = 'x' where id = 1", ["UPDATE 1"]),
    "update rows": (
        "update items set amount = id where id <> 2",
        ["UPDATE 1", "UPDATE 3"],
    ),
    "update from": (
        "update items t set name = s.name from news s where s.id = t.id",
        ["UPDATE 2"],  # the name of 3 is the same
    ),
    "update from several rows of the other table": (
        (
            "update items t set name = v.name from (values (1, 'x'), (1, 'y')) v (id, name) "
            "where v.id = t.id"
        ),
        ["UPDATE 1"],
    ),
    "update with a subquery": (
        (
            "update items set (name, amount) = (select name, id from news where news.id = items.id) "
            "where id = 2"
        ),
        ["UPDATE 2"],
    ),
    "update no row": ("update items set name = 'x' where id = 9", []),
    "update through another table's join": (
        (
            "update items t set amount = n from (select count(*)::int as n from news) c "
            "where t.ctid = (select min(ctid) from items)"
        ),
        ["UPDATE 3"],
    ),
    "delete": ("delete from items where id = 1", ["DELETE 1"]),
    "delete rows": ("delete from items", ["DELETE 1", "DELETE 2", "DELETE 3"]),
    "delete using": ("delete from items t using news s where s.id = t.id and gone", ["DELETE 3"]),
    "delete no row": ("delete from items where false", []),
    "upsert": (
        (
            "insert into items values (3, 'x'), (4, 'd') on conflict (id) do update "
            "set name = excluded.name"
        ),
        ["INSERT 4", "UPDATE 3"],
    ),
    "upsert that changes nothing": (
        (
            "insert into items values (3, 'c'), (4, 'd') on conflict (id) do update "
            "set name = excluded.name"
        ),
        ["INSERT 4"],
    ),
    "upsert with a condition": (
        (
            "insert into items values (2, 'x'), (3, 'y') on conflict (id) do update "
            "set name = excluded.name where items.id = 3"
        ),
        ["UPDATE 3"],
    ),
    "upsert that changes the key": (
        "insert into items values (2, 'x') on conflict (id) do update set id = 7",
        ["DELETE 2", "INSERT 7"],
    ),
    "upsert or nothing": (
        "insert into items values (3, 'x'), (4, 'd') on conflict do nothing",
        ["INSERT 4"],
    ),
    "upsert or nothing at all": ("insert into items values (3) on conflict do nothing", []),
    "merge with all actions": (MERGE, ["DELETE 3", "INSERT 4", "UPDATE 2"]),
    "merge that changes keys": (
        (
            "merge into items t using news s on s.id = t.id "
            " when matched and s.gone then update set id = 30 "
            " when matched then update set id = 20, name = s.name "
            " when not matched then insert (id, name) values (s.id, s.name)"
        ),
        ["DELETE 2", "DELETE 3", "INSERT 20", "INSERT 30", "INSERT 4", "INSERT 5"],
    ),
    "merge that does nothing": (
        "merge into items t using news s on s.id = t.id when matched then do nothing",
        [],
    ),
    "several modifying CTEs over one table": (
        (
            "with gone as (delete from items where id = 1 returning *), "
            "     changed as (update items set name = 'x' where id = 2 returning *), "
            "     again as (update items set amount = 5 where id = 3 returning *), "
            "     made as (insert into items select id + 40, name from gone returning *) "
            "insert into items select id + 50, name from changed"
        ),
        ["DELETE 1", "INSERT 41", "INSERT 52", "UPDATE 2", "UPDATE 3"],
    ),
    "a modifying CTE that nobody reads": (
        "with changed as (update items set amount = 1) select 1",
        ["UPDATE 1", "UPDATE 2", "UPDATE 3"],
    ),
    "keys moved by a CTE": (
        "with gone as (delete from items returning *) insert into items select id + 10 from gone",
        ["DELETE 1", "DELETE 2", "DELETE 3", "INSERT 11", "INSERT 12", "INSERT 13"],
    ),
    "a key change": (
        "update items set id = 9 where id = 1",
        ["DELETE 1", "INSERT 9"],
    ),
    "keys shifted by one": (
        "update items set id = id + 1",
        ["DELETE 1", "INSERT 4", "UPDATE 2", "UPDATE 3"],
    ),
    "a row changed to the key of another that moves away": (
        "update items set id = case id when 3 then 30 else 3 end where id in (2, 3)",
        ["DELETE 2", "INSERT 30", "UPDATE 3"],
    ),
    "DO block": (
        (
            "do $$ begin insert into items values (4); update items set amount = 1 where id = 4; "
            "delete from items where id = 1; end $$"
        ),
        ["DELETE 1", "INSERT 4", "UPDATE 4"],
    ),
    "DO block with a caught error": (
        (
            "do $$ begin begin insert into items values (4); insert into items values (1); "
            "exception when unique_violation then insert into items values (5); end; end $$"
        ),
        ["INSERT 5"],
    ),
    "DO block with commits": (
        (
            "do $$ begin insert into items values (4); commit; insert into items values (5); "
            "rollback; insert into items values (6); end $$"
        ),
        ["INSERT 4", "INSERT 6"],
    ),
    "cursor": (
        (
            "do $$ declare c cursor for select * from items order by id for update; r record; begin "
            "open c; fetch c into r; update items set name = 'x' where current of c; "
            "fetch c into r; delete from items where current of c; end $$"
        ),
        ["DELETE 2", "UPDATE 1"],
    ),
    "lock only": ("select * from items for update", []),
}


@pytest.mark.parametrize(("statement", "expected"), STATEMENTS.values(), ids=STATEMENTS)
def test_statements(items: Contour, statement: str, expected: list[str]) -> None:
    assert new_events(items, statement) == expected
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_statements_under_stricter_isolation(items: Contour, level: str) -> None:
    """The same events as under READ COMMITTED, from every statement that works within a block."""
    session = items.session(autocommit=True)
    session.execute("set search_path = public, replication")
    for name, (statement, expected) in STATEMENTS.items():
        if "commit" in name:
            continue
        session.execute(f"begin isolation level {level}")
        session.execute(statement)
        made = session.execute(
            "select operation || ' ' || (record_key::json ->> 'id') from replication_queue "
            "where txid = pg_current_xact_id()::text::bigint"
        ).fetchall()
        assert sorted(event for (event,) in made) == expected, name
        session.execute("rollback")


def test_merge_by_source(items: Contour) -> None:
    if items.app.info.server_version < 170000:
        pytest.skip("WHEN NOT MATCHED BY SOURCE needs PostgreSQL 17")
    statement = (
        "merge into items t using news s on s.id = t.id "
        "when matched then update set name = s.name || '!' "
        "when not matched by source then delete "
        "when not matched by target then insert (id, name) values (s.id, s.name) "
        "returning merge_action()"
    )
    assert new_events(items, statement) == [
        "DELETE 1",
        "INSERT 4",
        "INSERT 5",
        "UPDATE 2",
        "UPDATE 3",
    ]
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("options", ["", "(format csv)", "(format binary)", "(freeze false)"])
def test_copy(items: Contour, options: str) -> None:
    with items.app.cursor() as cursor:
        with cursor.copy(
            f"copy (select id + 10, name from items order by id) to stdout {options}"
        ) as out:
            data = b"".join(bytes(part) for part in out)
        start = mark(items)
        with cursor.copy(f"copy items (id, name) from stdin {options}") as copy:
            copy.write(data)
    assert events(items, after=start) == ["INSERT 11", "INSERT 12", "INSERT 13"]
    assert_queue_tells(items, "items")


def test_a_copy_that_fails_leaves_nothing(items: Contour) -> None:
    start = mark(items)
    with items.app.cursor() as cursor, pytest.raises(psycopg.errors.UniqueViolation):
        with cursor.copy("copy items (id, name) from stdin") as copy:
            copy.write("11\tx\n1\ty\n")
    assert events(items, after=start) == []


def test_prepared_statements_keep_up_with_their_cached_plans(items: Contour) -> None:
    items.run("prepare change (int) as update items set amount = $1 where id = 1")
    for number in range(1, 9):
        items.run(f"execute change ({number})")
    assert [payload["amount"] for payload in payloads(items)[3:]] == list(range(1, 9))
    assert_queue_tells(items, "items")


def test_executemany_and_pipelines(items: Contour) -> None:
    with items.app.cursor() as cursor:
        cursor.executemany("insert into items values (%s, %s)", [(4, "d"), (5, "e")])
    with items.app.pipeline():
        items.app.execute("update items set name = 'x' where id = 4")
        items.app.execute("delete from items where id = 5")
    assert events(items)[3:] == ["INSERT 4", "INSERT 5", "UPDATE 4", "DELETE 5"]
    assert_queue_tells(items, "items")


def test_functions_and_procedures(items: Contour) -> None:
    items.run(
        """
        create function add(int) returns int language sql as
          $$ insert into items (id) values ($1) returning id $$;
        create procedure many(int) language plpgsql as $$
        begin
          for n in 1 .. $1 loop
            insert into items values (100 + n);
            if n % 2 = 0 then commit; else rollback; end if;
          end loop;
        end $$
        """
    )
    assert new_events(items, "select add(n) from generate_series(7, 8) n") == [
        "INSERT 7",
        "INSERT 8",
    ]
    assert new_events(items, "call many(4)") == ["INSERT 102", "INSERT 104"]
    assert_queue_tells(items, "items")


def test_writes_through_views_and_rules(items: Contour) -> None:
    items.run(
        """
        create view plain as select id, name from items where id < 100 with check option;
        create view routed as select id, name from items;
        create function routed() returns trigger language plpgsql as
          $$ begin update items set name = new.name where id = new.id; return new; end $$;
        create trigger routed instead of update on routed for each row execute function routed();
        create rule softly as on delete to items do instead
          update items set amount = -1 where id = old.id
        """
    )
    assert new_events(items, "insert into plain values (4, 'd')") == ["INSERT 4"]
    assert new_events(items, "update plain set name = 'x' where id = 1") == ["UPDATE 1"]
    assert new_events(items, "update routed set name = 'y' where id = 2") == ["UPDATE 2"]
    assert new_events(items, "delete from items where id = 3") == ["UPDATE 3"]
    assert_queue_tells(items, "items")


# Keys that change hands


def test_a_changed_key_is_deleted_before_it_is_inserted(items: Contour) -> None:
    """Else a reader would hold both rows for a while, against a UNIQUE constraint of theirs."""
    start = mark(items)
    items.run("update items set id = id + 100")
    order = events(items, after=start)
    deleted, inserted = order[:3], order[3:]
    assert sorted(deleted) == ["DELETE 1", "DELETE 2", "DELETE 3"]
    assert sorted(inserted) == ["INSERT 101", "INSERT 102", "INSERT 103"]


def test_a_key_that_changed_hands_names_the_version_it_replaced(items: Contour) -> None:
    versions = dict(items.run("select id, replication_version from items"))
    start = mark(items)
    items.run("update items set id = id + 1")
    bases = dict(
        items.run(
            "select (record_key::json ->> 'id')::int, base_version from replication_queue "
            "where id > %s",
            start,
        )
    )
    assert bases == {1: versions[1], 2: versions[2], 3: versions[3], 4: None}


REPLACE = (
    "with gone as (delete from items where id < 3 returning *) "
    "insert into items select 3 - id, name from (select * from gone order by id) g"
)


@pytest.mark.parametrize("clock", ["0", "-1 hour"])
def test_keys_swapped_by_one_statement(items: Contour, clock: str) -> None:
    """Deleted and inserted within one statement: the row that stays tells the end of the story."""
    items.run(f"select replication.install_clock(interval '{clock}')")
    items.run(REPLACE)
    assert items.run("select id, name from items order by id") == [(1, "b"), (2, "a"), (3, "c")]
    assert items.value("select count(*) from replication_tombstones") == 0
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("clock", ["0", "-1 hour"])
def test_a_key_taken_over_by_an_update_beside_its_delete(items: Contour, clock: str) -> None:
    items.run(f"select replication.install_clock(interval '{clock}')")
    items.run(
        "with gone as (delete from items where id = 1 returning *) "
        "update items set id = 1 from (select count(*) from gone) g where items.id = 2"
    )
    assert items.run("select id, name from items order by id") == [(1, "b"), (3, "c")]
    assert_queue_tells(items, "items")


def test_keys_swapped_by_three_statements(items: Contour) -> None:
    with items.app.transaction():
        items.run("update items set id = -1 where id = 1")
        items.run("update items set id = 1 where id = 2")
        items.run("update items set id = 2 where id = -1")
    assert items.run("select id, name from items order by id") == [(1, "b"), (2, "a"), (3, "c")]
    assert_queue_tells(items, "items")


# Updates that change nothing


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("json", """'{"a": 1,  "a": 2}'"""),
        ("point", "'(1,2)'"),
        ("json[]", """array['{"a":1}'::json, null]"""),
        ("xid", "'5'"),
        ("float8", "'NaN'"),
        ("text", "repeat('long', 100000)"),
        ("bytea", "decode(repeat('00ff', 50000), 'hex')"),
        ("numeric", "'1.500'"),
    ],
)
def test_an_update_that_changes_nothing_of_a_type(make: Shared, column: str, value: str) -> None:
    contour = make(f"create table t (id int primary key, x {column})", ["t"])
    contour.run(f"insert into t values (1, {value})")
    version = contour.value("select replication_version from t")
    contour.run("update t set x = x")
    contour.run(f"update t set x = {value}, id = 1")
    contour.run(f"insert into t values (1, {value}) on conflict (id) do update set x = excluded.x")
    contour.run(
        "merge into t using (values (1)) v (i) on i = id when matched then update set x = x"
    )
    assert events(contour) == ["INSERT 1"]
    assert contour.value("select replication_version from t") == version
    contour.run("update t set x = null")
    assert events(contour) == ["INSERT 1", "UPDATE 1"]


def test_an_update_that_changes_nothing_beside_generated_columns(
    make: Shared,
) -> None:
    """A BEFORE trigger sees generated columns as NULL in the new row."""
    contour = make(
        "create table t (id int primary key, a int, b int generated always as (a * 2) stored)",
        ["t"],
    )
    contour.run("insert into t (id, a) values (1, 1)")
    version = contour.value("select replication_version from t")
    contour.run("update t set a = a")
    assert events(contour) == ["INSERT 1"]
    assert contour.value("select replication_version from t") == version
    contour.run("update t set a = 2")
    assert events(contour) == ["INSERT 1", "UPDATE 1"]


def test_only_the_rows_that_change_are_events(items: Contour) -> None:
    assert new_events(items, "update items set name = 'c'") == ["UPDATE 1", "UPDATE 2"]
    assert_queue_tells(items, "items")


# Transactions


def test_savepoints(items: Contour) -> None:
    start = mark(items)
    with items.app.transaction():
        items.run("insert into items values (4)")
        items.run("savepoint one; update items set name = 'x' where id = 4; savepoint two")
        items.run("delete from items where id = 4; rollback to two; insert into items values (5)")
        items.run("release two; rollback to one; insert into items values (6); release one")
    assert events(items, after=start) == ["INSERT 4", "INSERT 6"]
    assert_queue_tells(items, "items")


def test_a_key_deleted_and_brought_back_around_a_savepoint(items: Contour) -> None:
    with items.app.transaction():
        items.run("delete from items where id = 1; savepoint s; insert into items values (1)")
        items.run("rollback to s; insert into items values (1, 'back')")
    assert events(items)[3:] == ["DELETE 1", "INSERT 1"]
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_prepared_transactions(items: Contour, level: str) -> None:
    start = mark(items)
    name = items.app.info.dbname  # the names of all databases are in one space
    for end, expected in (("rollback", []), ("commit", ["UPDATE 1", "DELETE 2", "INSERT 4"])):
        items.run(
            f"begin isolation level {level}; update items set name = 'x' where id = 1; "
            f"delete from items where id = 2; insert into items values (4); "
            f"prepare transaction '{name}'"
        )
        assert events(items, after=start) == []
        items.run(f"{end} prepared '{name}'")
        assert events(items, after=start) == expected
    assert_queue_tells(items, "items")


def test_what_a_deferred_trigger_writes_at_commit(items: Contour) -> None:
    items.run(
        """
        create function late() returns trigger language plpgsql as
          $$ begin update items set amount = amount + 1 where id = new.id; return null; end $$;
        create constraint trigger late after insert on items deferrable initially deferred
          for each row execute function late()
        """
    )
    with items.app.transaction():
        items.run("insert into items values (4)")
        items.run("insert into items values (5)")
    assert events(items)[3:] == ["INSERT 4", "INSERT 5", "UPDATE 4", "UPDATE 5"]
    assert_queue_tells(items, "items")


def test_events_of_a_transaction_share_its_number_and_differ_in_theirs(items: Contour) -> None:
    start = mark(items)
    with items.app.transaction():
        items.run("insert into items values (4), (5)")
        items.run("update items set amount = 1")
        number = items.value("select pg_current_xact_id()::text::bigint")
    counted = items.run(
        "select count(*), count(distinct event_id), min(txid), max(txid) from replication_queue "
        "where id > %s",
        start,
    )
    assert counted == [(7, 7, number, number)]


# Cascades

FAMILY = """
create table parents (id int primary key, name text);
create table children (
  id int primary key,
  parent int default 9 references parents on delete {delete} on update {update})
"""


@pytest.mark.parametrize(
    ("delete", "update", "statement", "expected"),
    [
        (
            "cascade",
            "no action",
            "delete from parents where id = 1",
            ["DELETE 1", "DELETE 11", "DELETE 12"],
        ),
        (
            "set null",
            "no action",
            "delete from parents where id = 1",
            ["DELETE 1", "UPDATE 11", "UPDATE 12"],
        ),
        (
            "set default",
            "no action",
            "delete from parents where id = 1",
            ["DELETE 1", "UPDATE 11", "UPDATE 12"],
        ),
        (
            "no action",
            "cascade",
            "update parents set id = 5 where id = 1",
            ["DELETE 1", "INSERT 5", "UPDATE 11", "UPDATE 12"],
        ),
        (
            "no action",
            "set null",
            "update parents set id = 5 where id = 1",
            ["DELETE 1", "INSERT 5", "UPDATE 11", "UPDATE 12"],
        ),
        (
            "cascade",
            "cascade",
            "with gone as (delete from parents where id = 2) update parents set id = 5 where id = 1",
            ["DELETE 1", "DELETE 2", "DELETE 21", "INSERT 5", "UPDATE 11", "UPDATE 12"],
        ),
    ],
)
def test_cascades(
    make: Shared, delete: str, update: str, statement: str, expected: list[str]
) -> None:
    contour = make(FAMILY.format(delete=delete, update=update), ["parents", "children"])
    contour.run("insert into parents values (1), (2), (9)")
    contour.run("insert into children values (11, 1), (12, 1), (21, 2)")
    assert new_events(contour, statement) == expected
    assert_queue_tells(contour, "parents", "children")


def test_a_cascade_through_the_key_of_the_child(make: Shared) -> None:
    contour = make(
        "create table parents (id int primary key); create table parts (parent int references "
        "parents on update cascade, no int, name text, primary key (parent, no))",
        ["parents", "parts"],
    )
    contour.run("insert into parents values (1); insert into parts values (1, 1, 'x'), (1, 2, 'y')")
    start = mark(contour)
    contour.run("update parents set id = 2")
    assert sorted(events(contour, "parts", after=start)) == [
        "DELETE 1/1",
        "DELETE 1/2",
        "INSERT 2/1",
        "INSERT 2/2",
    ]
    assert_queue_tells(contour, "parents", "parts")


def test_a_key_that_one_statement_cascades_into_twice(make: Shared) -> None:
    """(1,1) becomes (2,1) and then (2,2): the step in between was nobody's row."""
    contour = make(
        "create table parents (id int primary key); create table pairs ("
        "a int references parents on update cascade, b int references parents on update cascade, "
        "primary key (a, b))",
        ["parents", "pairs"],
    )
    contour.run("insert into parents values (1); insert into pairs values (1, 1)")
    start = mark(contour)
    contour.run("update parents set id = 2")
    assert events(contour, "pairs", after=start) == ["DELETE 1/1", "INSERT 2/2"]
    assert_queue_tells(contour, "pairs")


def test_a_row_that_one_statement_cascades_into_twice(make: Shared) -> None:
    """Both changes are in one transition table; no event may stand there twice."""
    contour = make(
        "create table parents (id int primary key); create table links (id int primary key, "
        "a int references parents on delete set null, b int references parents on delete set null)",
        ["parents", "links"],
    )
    contour.run(
        "insert into parents values (1), (2); insert into links values (7, 1, 1), (8, 2, 1)"
    )
    contour.run("delete from parents")
    assert contour.run("select id, a, b from links order by id") == [
        (7, None, None),
        (8, None, None),
    ]
    assert_queue_tells(contour, "links")


@pytest.mark.parametrize("action", ["cascade", "set null"])
def test_a_tree_within_one_table(make: Shared, action: str) -> None:
    contour = make(
        "create table nodes (id int primary key, up int references nodes "
        f"on delete {action} on update cascade)",
        ["nodes"],
    )
    contour.run("insert into nodes values (1, null), (2, 1), (3, 2), (4, 3), (5, 1)")
    contour.run("update nodes set id = id * 10")
    assert_queue_tells(contour, "nodes")
    contour.run("delete from nodes where id = 20")
    kept = {"cascade": [10, 50], "set null": [10, 30, 40, 50]}[action]
    assert [node for (node,) in contour.run("select id from nodes order by id")] == kept
    assert_queue_tells(contour, "nodes")


def test_a_cascade_through_several_tables(make: Shared) -> None:
    contour = make(
        "create table a (id int primary key);"
        "create table b (id int primary key, a int references a on delete cascade);"
        "create table c (id int primary key, b int references b on delete cascade,"
        "  a int references a on delete set null)",
        ["a", "b", "c"],
    )
    contour.run("insert into a values (1), (2); insert into b values (1, 1), (2, 2)")
    contour.run("insert into c values (1, 1, 1), (2, 2, 1), (3, 2, 2)")
    contour.run("delete from a where id = 1")
    assert contour.run("select id, b, a from c order by id") == [(2, 2, None), (3, 2, 2)]
    assert_queue_tells(contour, "a", "b", "c")


# Triggers and functions of the application's

TRIGGER = """
create function act() returns trigger language plpgsql as $$ begin {body} end $$;
create trigger {name} {when} on items for each {each} execute function act()
"""


def add_trigger(
    contour: Contour, when: str, body: str, *, each: str = "row", name: str = "act"
) -> None:
    contour.run(TRIGGER.format(when=when, body=body, each=each, name=name))


def test_a_row_is_captured_as_before_triggers_leave_it(items: Contour) -> None:
    add_trigger(items, "before insert or update", "new.name := upper(new.name); return new;")
    items.run("insert into items values (4, 'd')")
    items.run("update items set name = 'x' where id = 1")
    assert [payload["name"] for payload in payloads(items)[3:]] == ["D", "X"]
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("name", ["act", "zz_touch", "~~~~", "я"])
def test_a_before_trigger_is_heeded_whatever_its_name(items: Contour, name: str) -> None:
    """BEFORE triggers fire by name; one that fires after the stamp may change the row as well."""
    add_trigger(
        items,
        "before update",
        "new.amount := old.amount + 1; return new;",
        name=f'"{name}"',
    )
    assert new_events(items, "update items set name = name where id = 1") == ["UPDATE 1"]
    assert_queue_tells(items, "items")


def test_a_before_trigger_that_takes_a_change_back_makes_no_event(items: Contour) -> None:
    add_trigger(items, "before update", "return old;")
    assert new_events(items, "update items set name = 'x'") == []


def test_a_before_trigger_that_skips_rows(items: Contour) -> None:
    add_trigger(
        items,
        "before insert or update or delete",
        "if coalesce(new.id, old.id) % 2 = 0 then return null; end if; "
        "return case tg_op when 'DELETE' then old else new end;",
    )
    assert new_events(items, "insert into items values (4), (5)") == ["INSERT 5"]
    assert new_events(items, "update items set amount = 7") == ["UPDATE 1", "UPDATE 3", "UPDATE 5"]
    assert new_events(items, "delete from items") == ["DELETE 1", "DELETE 3", "DELETE 5"]
    assert_queue_tells(items, "items")


@pytest.mark.parametrize("when", ["before", "after"])
def test_triggers_that_write_another_table(make: Shared, when: str) -> None:
    contour = make(
        ITEMS + "; create table audit (id int generated always as identity primary key, what text)",
        ["items", "audit"],
    )
    add_trigger(
        contour,
        f"{when} insert or update or delete",
        "insert into audit (what) values (tg_op); "
        "return case tg_op when 'DELETE' then old else new end;",
    )
    contour.run(ROWS)
    contour.run("update items set amount = 1 where id = 1; delete from items where id = 2")
    assert len(events(contour, "audit")) == 5
    assert_queue_tells(contour, "items", "audit")


@pytest.mark.parametrize("when", ["before", "after"])
def test_triggers_that_write_other_rows_of_the_table(items: Contour, when: str) -> None:
    add_trigger(
        items,
        f"{when} insert",
        "if new.id < 7 then insert into items values (new.id + 1, 'next'); end if; return new;",
    )
    assert new_events(items, "insert into items values (4)") == [
        "INSERT 4",
        "INSERT 5",
        "INSERT 6",
        "INSERT 7",
    ]
    assert_queue_tells(items, "items")


@pytest.mark.parametrize(
    ("when", "body"),
    [
        ("insert", "update items set amount = amount + 1 where id = new.id; return null;"),
        (
            "update",
            (
                "if pg_trigger_depth() < 2 then "
                "update items set amount = amount + 1 where id = new.id; end if; return null;"
            ),
        ),
        ("insert", "delete from items where id = new.id; return null;"),
        ("update", "delete from items where id = new.id; return null;"),
        (
            "insert",
            "update items set id = id + 100 where id = new.id; return null;",
        ),
        (
            "update",
            (
                "if pg_trigger_depth() < 2 then "
                "update items set id = id + 100 where id = new.id; end if; return null;"
            ),
        ),
        (
            "delete",
            (
                "if pg_trigger_depth() < 2 then "
                "insert into items values (old.id, 'again'); return null; end if; return null;"
            ),
        ),
        (
            "delete",
            (
                "if pg_trigger_depth() < 2 then insert into items values (old.id, 'again'); "
                "update items set amount = 9 where id = old.id; "
                "delete from items where id = old.id; end if; return null;"
            ),
        ),
    ],
    ids=[
        "insert, updated",
        "update, updated again",
        "insert, deleted",
        "update, deleted",
        "insert, key changed",
        "update, key changed",
        "delete, brought back",
        "delete, brought back and deleted again",
    ],
)
@pytest.mark.parametrize("each", ["row", "statement"])
def test_triggers_that_write_the_row_again(items: Contour, when: str, body: str, each: str) -> None:
    """The inner statement is captured first, yet the outer one may not have the last word."""
    if each == "statement":
        # The same through transition tables, in a trigger that fires before ours by its name.
        row = "old" if when == "delete" else "new"
        body = f"for {row} in select * from rows loop {body.replace('return null;', '')} end loop; "
        body += "return null;"
        when += f" on items referencing {row} table as rows for each statement execute function"
        items.run(
            f"create function act() returns trigger language plpgsql as $$ begin {body} end $$; "
            f"create trigger act after {when} act()"
        )
    else:
        add_trigger(items, f"after {when}", body)
    items.run("insert into items values (4, 'd')")
    assert_queue_tells(items, "items")
    items.run("update items set name = name || '+'")
    assert_queue_tells(items, "items")
    items.run("delete from items")
    assert_queue_tells(items, "items")


def test_a_row_brought_back_while_the_clock_is_behind(items: Contour) -> None:
    """Its version must exceed the one of the row that was deleted, or nobody else takes it."""
    add_trigger(
        items,
        "after delete",
        "insert into items values (old.id, 'again'); return null;",
    )
    items.run("select replication.install_clock(interval '-1 hour')")
    items.run("delete from items where id = 1")
    assert_queue_tells(items, "items")


# From one contour to the other

# Tables; the rows they begin with; and what happens to them in one transaction each.
EVERYWHERE: list[tuple[str, str, str]] = [
    (
        "create table shifted (id int primary key, name text)",
        "insert into shifted values (3, 'c'), (2, 'b'), (1, 'a')",
        "update shifted set id = id + 1",
    ),
    (
        "create table swapped (id int primary key, name text)",
        "insert into swapped values (1, 'a'), (2, 'b')",
        (
            "with gone as (delete from swapped returning *) "
            "insert into swapped select 3 - id, name from (select * from gone order by id) g"
        ),
    ),
    (
        "create table merged (id int primary key, name text)",
        "insert into merged values (1, 'a'), (2, 'b'), (3, 'c')",
        (
            "merge into merged t using (values (1, 10), (2, 0), (4, 4)) s (id, new) on s.id = t.id "
            "when matched and new = 0 then delete when matched then update set id = new "
            "when not matched then insert values (s.id, 'new')"
        ),
    ),
    (
        (
            "create table parents (id int primary key); create table children (parent int references "
            "parents on update cascade on delete cascade, no int, up int references parents "
            "on delete set null on update cascade, primary key (parent, no))"
        ),
        (
            "insert into parents values (1), (2), (3); "
            "insert into children values (1, 1, 2), (2, 1, 1), (3, 1, 3)"
        ),
        (
            "update parents set id = 10 where id = 1; delete from parents where id = 2; "
            "delete from parents where id = 3"
        ),
    ),
    (
        (
            "create table triggered (id int primary key, n int); create function again() returns "
            "trigger language plpgsql as $$ begin if tg_op = 'DELETE' and old.id = 1 then "
            "insert into triggered values (1, -1); elsif tg_op = 'INSERT' then "
            "update triggered set n = n + 1 where id = new.id; end if; return null; end $$; "
            "create trigger again after insert or delete on triggered "
            "for each row execute function again()"
        ),
        "insert into triggered values (1, 1), (2, 2)",
        "delete from triggered",
    ),
]


@pytest.mark.usefixtures("kafka")
def test_the_other_contour_becomes_equal(make_contours: MakeContours) -> None:
    tables = ["shifted", "swapped", "merged", "parents", "children", "triggered"]
    contours = make_contours("; ".join(ddl for ddl, _, _ in EVERYWHERE), tables)
    for _, begin, _ in EVERYWHERE:
        contours[0].run(begin)
    settle(contours, rounds=1)
    assert all(same_rows(contours, table) for table in tables)
    for _, _, change in EVERYWHERE:
        contours[0].run(change)
    settle(contours, rounds=2)
    assert [table for table in tables if not same_rows(contours, table)] == []
    for contour in contours:
        assert contour.run("select table_name, reason from replication.parked_events") == []


@pytest.mark.usefixtures("kafka")
def test_keys_shifted_under_a_unique_column_arrive(make_contours: MakeContours) -> None:
    """A row may have to wait until the one that held its name has let go of it."""
    contours = make_contours("create table t (id int primary key, name text unique)", ["t"])
    other = contours[1]
    contours[0].run("insert into t select n, 'name ' || n from generate_series(6, 1, -1) n")
    settle(contours, rounds=1)
    contours[0].run("update t set id = id + 1")
    settle(contours, rounds=1)
    waiting = "select count(*) from replication.parked_events"
    for _ in range(6):  # each round frees one name at least
        if other.value(waiting) == 0:
            break
        other.run("update replication.parked_events set retried_at = '-infinity', attempts = 1")
        other.apply()
    assert other.value(waiting) == 0
    assert same_rows(contours, "t")


# Plans


def test_a_bulk_update_after_a_small_one_is_not_joined_row_by_row(make: Shared) -> None:
    """The plan kept from a statement of one row must do for one of many: 0.2 s, or half a minute."""
    contour = make("create table t (id bigint primary key, n int)", ["t"])
    contour.run("insert into t select g, 0 from generate_series(1, 20000) g")
    with contour.session(autocommit=True) as session:
        for id_ in range(1, 8):
            session.execute("update t set n = n + 1 where id = %s", (id_,))
        session.execute("set statement_timeout = '15s'")
        session.execute("update t set n = n + 1")
        session.execute("update t set id = -id")
        session.execute("delete from t")
    assert_queue_tells(contour, "t")
