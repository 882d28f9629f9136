"""A partitioned table is one table: set up by its root, captured under its name."""

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
    remove,
    setup,
)

pytestmark = pytest.mark.integration

# Two levels, a leaf with its columns in another order and one of its own dropped, a default partition.
DDL = """
create table orders (
  region text, id int, placed int, note text, primary key (region, id, placed)
) partition by list (region);
create table orders_eu partition of orders for values in ('eu') partition by range (placed);
create table orders_eu_old partition of orders_eu for values from (minvalue) to (2026);
create table orders_eu_new partition of orders_eu for values from (2026) to (maxvalue);
create table orders_us (
  gone date, note text, placed int not null, gone_too int, id int not null, region text not null,
  primary key (region, id, placed));
alter table orders_us drop column gone, drop column gone_too;
alter table orders attach partition orders_us for values in ('us');
create table orders_rest partition of orders default
"""


@pytest.fixture
def orders(make: Shared) -> Contour:
    return make(DDL, ["orders"])


ROWS = (
    "insert into {} values ('eu', 1, 2025, 'x'), ('eu', 2, 2026, 'x'), ('us', 3, 2026, 'x'), "
    "('jp', 4, 2026, 'x')"
)


def tables_of_events(contour: Contour) -> set[str]:
    return {name for (name,) in contour.run("select table_name from replication_queue")}


def test_writes_through_the_root(orders: Contour) -> None:
    orders.run(ROWS.format("orders"))
    orders.run("update orders set note = 'y' where id <> 2")
    orders.run("update orders set note = note")
    orders.run("delete from orders where id in (1, 3)")
    made = events(orders)
    assert made[:4] == [
        "INSERT eu/1/2025",
        "INSERT eu/2/2026",
        "INSERT us/3/2026",
        "INSERT jp/4/2026",
    ]
    assert sorted(made[4:7]) == ["UPDATE eu/1/2025", "UPDATE jp/4/2026", "UPDATE us/3/2026"]
    assert sorted(made[7:]) == ["DELETE eu/1/2025", "DELETE us/3/2026"]
    assert tables_of_events(orders) == {"orders"}
    assert_queue_tells(orders, "orders")


@pytest.mark.parametrize(
    ("partition", "region", "placed"),
    [
        ("orders_eu", "eu", 2025),
        ("orders_eu_old", "eu", 2025),
        ("orders_eu_new", "eu", 2026),
        ("orders_us", "us", 2026),
        ("orders_rest", "jp", 2026),
    ],
)
def test_writes_to_a_partition_directly(
    orders: Contour, partition: str, region: str, placed: int
) -> None:
    columns = f"{partition} (region, id, placed, note)"
    orders.run(f"insert into {columns} values ('{region}', 1, {placed}, 'x')")
    orders.run(f"insert into {columns} values ('{region}', 2, {placed}, 'x')")
    orders.run(f"update {partition} set note = 'y' where id = 1")
    orders.run(f"update {partition} set note = note")
    orders.run(f"update {partition} set id = 3 where id = 1")
    orders.run(f"delete from {partition} where id = 2")
    assert [
        event.replace(f"/{placed}", "").replace(f"{region}/", "") for event in events(orders)
    ] == [
        "INSERT 1",
        "INSERT 2",
        "UPDATE 1",
        "DELETE 1",
        "INSERT 3",
        "DELETE 2",
    ]
    assert tables_of_events(orders) == {"orders"}
    assert_queue_tells(orders, "orders")


def test_payloads_are_those_of_the_root_whatever_the_order_of_the_partitions_columns(
    orders: Contour,
) -> None:
    orders.run("insert into orders_us (region, id, placed, note) values ('us', 1, 2026, 'x')")
    orders.run("insert into orders values ('us', 2, 2026, 'x')")
    orders.run("update orders_us set note = 'y' where id = 1")
    texts = [
        text for (text,) in orders.run("select payload::text from replication_queue order by id")
    ]
    assert texts == [
        '{"region":"us","id":1,"placed":2026,"note":"x"}',
        '{"region":"us","id":2,"placed":2026,"note":"x"}',
        '{"region":"us","id":1,"placed":2026,"note":"y"}',
    ]
    keys = orders.run(
        "select distinct record_key from replication_queue where payload ->> 'id' = '1'"
    )
    assert keys == [('{"region":"us","id":1,"placed":2026}',)]


@pytest.mark.parametrize("full_before", [False, True])
def test_rows_that_move_between_partitions(make: Shared, *, full_before: bool) -> None:
    orders = make(DDL, ["orders"], full_before=full_before)
    orders.run(ROWS.format("orders"))
    start = mark(orders)
    orders.run("update orders set region = 'us', note = 'moved' where id = 1")
    orders.run("update orders set placed = 2020 where id = 2")  # within orders_eu
    orders.run("update orders_eu set placed = 2030 where id = 2")
    assert events(orders, after=start) == [
        "DELETE eu/1/2025",
        "INSERT us/1/2025",
        "DELETE eu/2/2026",
        "INSERT eu/2/2020",
        "DELETE eu/2/2020",
        "INSERT eu/2/2030",
    ]
    before = orders.value(
        "select before from replication_queue where operation = 'DELETE' order by id limit 1"
    )
    assert (before is not None) == full_before
    if before:
        assert before == {"region": "eu", "id": 1, "placed": 2025, "note": "x"}
    assert_queue_tells(orders, "orders")


def test_some_rows_move_some_stay_some_do_not_change(orders: Contour) -> None:
    orders.run(ROWS.format("orders"))
    start = mark(orders)
    orders.run(
        "update orders set region = case when id in (1, 2) then 'us' else region end, "
        "note = case when id = 4 then 'y' else note end"
    )
    assert sorted(events(orders, after=start)) == [
        "DELETE eu/1/2025",
        "DELETE eu/2/2026",
        "INSERT us/1/2025",
        "INSERT us/2/2026",
        "UPDATE jp/4/2026",
    ]
    assert_queue_tells(orders, "orders")


def test_a_moved_row_keeps_ascending_versions(orders: Contour) -> None:
    """There and back again, with a clock that has been set back meanwhile."""
    orders.run("insert into orders values ('eu', 1, 2025, 'x')")
    orders.run("update orders set region = 'us'")
    orders.run("select replication.install_clock(interval '-1 hour')")
    orders.run("update orders set region = 'eu'")
    assert_queue_tells(orders, "orders")


def test_an_update_that_may_not_move_rows_fails_and_leaves_nothing(orders: Contour) -> None:
    orders.run("insert into orders values ('eu', 1, 2025, 'x')")
    start = mark(orders)
    with pytest.raises(psycopg.errors.CheckViolation):
        orders.run("update orders_eu_old set placed = 2030")
    assert events(orders, after=start) == []


def test_upsert_merge_copy_and_writable_ctes(orders: Contour) -> None:
    orders.run(ROWS.format("orders"))
    orders.run(
        "insert into orders values ('eu', 1, 2025, 'new'), ('eu', 9, 2025, 'new') "
        "on conflict (region, id, placed) do update set note = excluded.note"
    )
    orders.run(
        "merge into orders t using (values ('us', 3, 'del'), ('jp', 4, 'upd'), ('us', 8, 'ins')) "
        "s (region, id, what) on s.region = t.region and s.id = t.id "
        "when matched and what = 'del' then delete when matched then update set note = what "
        "when not matched then insert values (s.region, s.id, 2026, what)"
    )
    with (
        orders.app.cursor() as cursor,
        cursor.copy("copy orders (region, id, placed, note) from stdin") as copy,
    ):
        for region in ("eu", "us", "jp"):
            copy.write_row((region, 50, 2026, "copied"))
    orders.run(
        "with gone as (delete from orders where id = 50 returning *), "
        "     more as (update orders set note = 'z' where id = 2) "
        "insert into orders select region, 60, placed, note from gone"
    )
    assert tables_of_events(orders) == {"orders"}
    counts = dict(orders.run("select operation, count(*) from replication_queue group by 1"))
    assert counts == {"INSERT": 4 + 1 + 1 + 3 + 3, "UPDATE": 1 + 1 + 1, "DELETE": 1 + 3}
    assert_queue_tells(orders, "orders")


def test_cascades_into_partitions(make: Shared) -> None:
    contour = make(
        "create table parents (id int primary key);"
        "create table parts (parent int references parents on delete cascade on update cascade, "
        "  no int, primary key (parent, no)) partition by range (parent);"
        "create table parts_low partition of parts for values from (0) to (10);"
        "create table parts_high partition of parts for values from (10) to (20)",
        ["parents", "parts"],
    )
    contour.run("insert into parents values (1), (2); insert into parts values (1, 1), (2, 1)")
    contour.run("update parents set id = 11 where id = 1")
    contour.run("delete from parents")
    assert contour.value("select count(*) from parts") == 0
    assert_queue_tells(contour, "parents", "parts")


def test_a_partitioned_table_that_others_refer_to(make: Shared) -> None:
    contour = make(
        "create table parents (id int primary key) partition by range (id);"
        "create table parents_low partition of parents for values from (0) to (10);"
        "create table parents_high partition of parents for values from (10) to (20);"
        "create table children (id int primary key, parent int references parents "
        "  on delete cascade on update cascade)",
        ["parents", "children"],
    )
    contour.run("insert into parents values (1), (2); insert into children values (7, 1), (8, 2)")
    contour.run("update parents set id = 12 where id = 2")  # which moves the row
    contour.run("delete from parents_low")
    assert contour.run("select id, parent from children") == [(8, 12)]
    assert_queue_tells(contour, "parents", "children")


# Partitions come and go


@pytest.mark.parametrize("write_to", ["orders", "orders_cn"])
@pytest.mark.parametrize(
    "come",
    [
        "create table orders_cn partition of orders for values in ('cn')",
        (
            "create table orders_cn (like orders including all); "
            "alter table orders attach partition orders_cn for values in ('cn')"
        ),
        # with columns in another order, and made within a transaction
        (
            "create table orders_cn (id int not null, gone int, region text not null, note text, "
            "placed int not null, replication_version bigint not null default 0, "
            "primary key (region, id, placed)); alter table orders_cn drop column gone; "
            "alter table orders attach partition orders_cn for values in ('cn')"
        ),
        # several levels at once
        (
            "create table orders_cn partition of orders for values in ('cn') "
            "partition by range (placed); "
            "create table orders_cn_all partition of orders_cn default"
        ),
        (
            "create table orders_cn (like orders including all) partition by range (placed); "
            "create table orders_cn_all partition of orders_cn default; "
            "alter table orders attach partition orders_cn for values in ('cn')"
        ),
    ],
    ids=["created", "attached", "attached, other order", "two levels", "two levels attached"],
)
def test_a_new_partition_is_captured_at_once(orders: Contour, come: str, write_to: str) -> None:
    for statement in come.split("; "):
        orders.run(statement)
    orders.run(f"insert into {write_to} (region, id, placed, note) values ('cn', 1, 2026, 'x')")
    orders.run(f"update {write_to} set note = 'y' where region = 'cn'")
    orders.run(f"delete from {write_to} where region = 'cn'")
    assert events(orders) == ["INSERT cn/1/2026", "UPDATE cn/1/2026", "DELETE cn/1/2026"]
    assert [p["note"] for p in payloads(orders)[:2]] == ["x", "y"]
    assert tables_of_events(orders) == {"orders"}


def test_a_partition_made_by_a_role_without_rights_here(orders: Contour) -> None:
    """Whoever owns the table may make partitions of it; nothing of ours may stand in the way."""
    orders.run(
        "create role owner_of_orders; grant create, usage on schema public to owner_of_orders"
    )
    try:
        for table in orders.run("select relid::regclass::text from pg_partition_tree('orders')"):
            orders.run(f"alter table {table[0]} owner to owner_of_orders")
        orders.run("set role owner_of_orders")
        orders.run("create table orders_cn partition of orders for values in ('cn')")
        orders.run("insert into orders_cn (region, id, placed) values ('cn', 1, 2026)")
        orders.run("update orders_cn set note = 'x'")
        orders.run("reset role")
        assert events(orders) == ["INSERT cn/1/2026", "UPDATE cn/1/2026"]
    finally:
        orders.run("reset role; drop owned by owner_of_orders cascade; drop role owner_of_orders")


def test_a_new_partition_within_a_transaction_that_is_rolled_back(orders: Contour) -> None:
    with orders.app.transaction(force_rollback=True):
        orders.run("create table orders_cn partition of orders for values in ('cn')")
        orders.run("insert into orders_cn (region, id, placed) values ('cn', 1, 2026)")
    orders.run("insert into orders values ('cn', 2, 2026, 'x')")  # goes to orders_rest
    assert events(orders) == ["INSERT cn/2/2026"]


@pytest.mark.parametrize("concurrently", [False, True])
def test_a_detached_partition_is_captured_no_longer(orders: Contour, *, concurrently: bool) -> None:
    orders.run("drop table orders_rest")  # CONCURRENTLY can't be with a default partition
    orders.run("insert into orders values ('us', 1, 2026, 'x')")
    start = mark(orders)
    orders.run(
        "alter table orders detach partition orders_us" + (" concurrently" if concurrently else "")
    )
    orders.run("insert into orders_us (region, id, placed) values ('us', 2, 2026)")
    orders.run("update orders_us set note = 'y'")
    orders.run("delete from orders_us where id = 1")
    orders.run("truncate orders_us")
    orders.run("drop table orders_us")
    assert events(orders, after=start) == []


def test_a_partition_detached_and_attached_again(orders: Contour) -> None:
    orders.run("alter table orders detach partition orders_us")
    orders.run("alter table orders attach partition orders_us for values in ('us')")
    orders.run("insert into orders_us (region, id, placed) values ('us', 1, 2026)")
    orders.run("update orders set note = 'y'")
    orders.run("delete from orders_us")
    assert events(orders) == ["INSERT us/1/2026", "UPDATE us/1/2026", "DELETE us/1/2026"]


def test_a_partition_detached_and_attached_to_another_replicated_table(make: Shared) -> None:
    orders = make(
        DDL + "; create table others (like orders including all) partition by list (region)"
    )
    setup(orders, "orders")
    setup(orders, "others")
    orders.run("alter table orders detach partition orders_us")
    orders.run("alter table others attach partition orders_us for values in ('us')")
    orders.run("insert into orders_us (region, id, placed) values ('us', 1, 2026)")
    orders.run("delete from others")
    assert tables_of_events(orders) == {"others"}
    assert events(orders) == ["INSERT us/1/2026", "DELETE us/1/2026"]


def test_a_detached_partition_is_set_up_as_a_table_of_its_own(orders: Contour) -> None:
    orders.run("alter table orders detach partition orders_us")
    setup(orders, "orders_us")
    orders.run("insert into orders_us (region, id, placed) values ('us', 1, 2026)")
    assert tables_of_events(orders) == {"orders_us"}
    assert events(orders) == ["INSERT us/1/2026"]


def test_dropping_a_partition_or_the_root_works(orders: Contour) -> None:
    orders.run("insert into orders values ('us', 1, 2026, 'x')")
    orders.run("drop table orders_us; drop table orders_eu cascade")
    orders.run("insert into orders values ('us', 2, 2026, 'x')")
    assert events(orders)[1:] == ["INSERT us/2/2026"]
    orders.run("drop table orders")


def test_partitions_of_other_tables_are_left_alone(orders: Contour) -> None:
    """The event trigger looks at every CREATE and ALTER TABLE; most are none of its business."""
    orders.run(
        "create table logs (at int) partition by range (at);"
        "create table logs_all partition of logs default;"
        "create table plain (id int); create temp table t (id int);"
        "create table kid () inherits (plain)"
    )
    orders.run("alter table logs detach partition logs_all; alter table plain add column n int")
    orders.run(
        "insert into logs_all values (1); insert into plain values (1); drop table logs, kid"
    )
    assert events(orders) == []
    assert orders.value("select count(*) from pg_trigger where tgrelid = 'plain'::regclass") == 0


# Schema changes


@pytest.mark.parametrize("table", ["orders", "orders_us", "orders_eu_old"])
def test_columns_change_for_root_and_partitions_alike(orders: Contour, table: str) -> None:
    region = "us" if table == "orders_us" else "eu"

    def write(number: int) -> object:
        orders.run(f"insert into {table} (region, id, placed) values ('{region}', {number}, 2025)")
        orders.run(f"update {table} set id = id + 100 where id = {number}")
        return payloads(orders)[-1]

    key = {"region": region, "placed": 2025}
    assert write(1) == {**key, "id": 101, "note": None}
    orders.run("alter table orders add column extra int default 5")
    assert write(2) == {**key, "id": 102, "note": None, "extra": 5}
    orders.run("alter table orders drop column note")
    assert write(3) == {**key, "id": 103, "extra": 5}
    orders.run("alter table orders rename column extra to more")
    assert write(4) == {**key, "id": 104, "more": 5}
    orders.run("alter table orders alter column more type text")
    assert write(5) == {**key, "id": 105, "more": "5"}
    orders.run("alter table orders rename to sales")
    assert write(6) == {**key, "id": 106, "more": "5"} if table != "orders" else True
    assert tables_of_events(orders) == {"orders"}


# Set-up and removal


@pytest.mark.parametrize("partition", ["orders_eu", "orders_eu_old", "orders_us"])
def test_a_partition_is_refused_with_a_hint_at_its_root(make: Shared, partition: str) -> None:
    contour = make(DDL)
    with pytest.raises(psycopg.Error) as refused:
        setup(contour, partition)
    said = refused.value.diag
    assert said.sqlstate == "42809"
    assert partition in str(said.message_primary)
    assert "partition" in str(said.message_primary)
    assert "setup_table_for_replication('orders')" in str(said.message_hint).replace("public.", "")


def test_a_partition_is_refused_after_its_root_is_set_up_as_well(orders: Contour) -> None:
    with pytest.raises(psycopg.Error) as refused:
        setup(orders, "orders_us")
    assert refused.value.diag.sqlstate == "42809"


UNFIT = {
    "no primary key": (
        "create table t (id int) partition by range (id)",
        "primary key",
    ),
    "an unlogged partition": (
        (
            "create table t (id int primary key) partition by range (id);"
            "create unlogged table p partition of t default"
        ),
        "unlogged",
    ),
    "row level security of the root": (
        (
            "create table t (id int primary key) partition by range (id);"
            "alter table t enable row level security"
        ),
        "row level security",
    ),
    "row level security of a partition": (
        (
            "create table t (id int primary key) partition by range (id);"
            "create table p partition of t default; alter table p enable row level security"
        ),
        "row level security",
    ),
    "a key of a refused type": (
        "create table t (id float8 primary key) partition by range (id)",
        "key column id",
    ),
}


@pytest.mark.parametrize(("ddl", "message"), UNFIT.values(), ids=UNFIT)
def test_unfit_partitioned_tables(make: Shared, ddl: str, message: str) -> None:
    contour = make(ddl)
    with pytest.raises(psycopg.Error) as refused:
        setup(contour, "t")
    assert refused.value.diag.sqlstate == "42809"
    assert message in str(refused.value.diag.message_primary)
    assert refused.value.diag.message_hint
    triggers = "select count(*) from pg_trigger where tgname ~ 'replication'"
    assert contour.value(triggers) == 0


def test_set_up_again_and_removal(orders: Contour) -> None:
    setup(orders, "orders")
    orders.run("insert into orders values ('us', 1, 2026, 'x')")
    assert events(orders) == ["INSERT us/1/2026"]
    remove(orders, "orders", drop_version_column=True)
    assert orders.value("select count(*) from pg_trigger where tgname ~ 'replication'") == 0
    assert (
        orders.value(
            "select count(*) from pg_attribute where attname = 'replication_version' "
            "and attrelid in (select relid from pg_partition_tree('orders')) and not attisdropped"
        )
        == 0
    )
    orders.run("insert into orders_us (region, id, placed) values ('us', 2, 2026); truncate orders")
    orders.run("create table orders_cn partition of orders for values in ('cn')")
    orders.run("insert into orders_cn values ('cn', 1, 2026, 'x')")
    assert events(orders) == ["INSERT us/1/2026"]
    setup(orders, "orders")
    orders.run("insert into orders_cn (region, id, placed) values ('cn', 2, 2026)")
    assert events(orders) == ["INSERT us/1/2026", "INSERT cn/2/2026"]


def test_ordinary_roles_are_captured_in_partitions_too(orders: Contour) -> None:
    orders.run("grant all on orders, orders_us to pg_monitor; set role pg_monitor")
    orders.run("insert into orders values ('eu', 1, 2025, 'x')")
    orders.run("insert into orders_us (region, id, placed) values ('us', 1, 2026)")
    orders.run("update orders set note = 'y'; delete from orders_us; reset role")
    assert len(events(orders)) == 5
    assert_queue_tells(orders, "orders")


@pytest.mark.usefixtures("kafka")
def test_a_contour_with_other_partitions_becomes_equal(make_contours: MakeContours) -> None:
    """Events know the root only, so every contour may cut its table as it likes."""
    contours = make_contours(
        "do $$ begin if current_database() like '%_a' then "
        "create table t (region text, id int, note text, primary key (region, id)) "
        "  partition by list (region); "
        "create table t_eu partition of t for values in ('eu'); "
        "create table t_rest partition of t default; "
        "else create table t (note text, region text, id int, primary key (region, id)) "
        "  partition by hash (id); "
        "create table t_0 partition of t for values with (modulus 2, remainder 0); "
        "create table t_1 partition of t for values with (modulus 2, remainder 1); "
        "end if; end $$",
        ["t"],
    )
    one, other = contours
    one.run("insert into t select r, n, 'x' from unnest('{eu,us,cn}'::text[]) r, "
            "generate_series(1, 4) n")  # fmt: skip
    settle(contours, rounds=1)
    rows = "select region, id, note, replication_version from t order by 1, 2"
    assert one.run(rows) == other.run(rows)
    assert one.value("select count(*) from t") == 12
    one.run("update t set region = 'us', id = id + 100 where region = 'eu'")
    other.run("update t_0 set note = 'y' where region = 'cn'")
    one.run("create table t_us partition of t for values in ('jp')")
    one.run("insert into t_us (region, id) values ('jp', 1)")
    other.run("delete from t where region = 'us' and id = 1")
    settle(contours, rounds=2)
    assert one.run(rows) == other.run(rows)
    assert one.value("select count(*) from t") == 12
    assert same_rows([one], "t")
