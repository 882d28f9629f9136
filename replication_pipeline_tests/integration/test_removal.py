"""A table that is taken out of replication is as it was before, and can be set up again."""

from __future__ import annotations

import re
import subprocess

import pytest

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import (
    Shared,
    assert_queue_tells,
    events,
    remove,
    setup,
)

pytestmark = pytest.mark.integration


# All that hangs on a table: what set-up touches must come back, and the rest must not be touched.
RICH = """
create schema shop;
create type shop.mood as enum ('fine');
create function shop.act() returns trigger language plpgsql as 'begin return new; end';
create table shop.parents (id int primary key);
create table shop.things (
  id bigint generated always as identity primary key,
  parent int references shop.parents on delete cascade,
  name text not null default 'x' check (name <> ''),
  twice bigint generated always as (parent * 2) stored,
  mood shop.mood,
  unique (parent, name));
create index on shop.things (mood) where name > 'a';
create trigger act before insert on shop.things for each row execute function shop.act();
create trigger replication_capture_of_mine after insert on shop.things
  for each row execute function shop.act();
create trigger zz_replication_stamp_mine before update on shop.things
  for each row execute function shop.act();
alter table shop.things disable trigger act;
alter table shop.things set (fillfactor = 70, autovacuum_enabled = off);
alter table shop.things replica identity full;
create rule r as on delete to shop.things where old.id < 0 do instead nothing;
create statistics shop.s on parent, name from shop.things;
comment on table shop.things is 'mine';
comment on column shop.things.name is 'also mine';
comment on trigger act on shop.things is 'too';
create view shop.seen as select * from shop.things;
"""
GRANTS = {
    "none": "select 1",
    "others": "grant select, insert on shop.things to pg_monitor; "
    "grant update (name) on shop.things to pg_monitor; revoke all on shop.things from postgres; "
    "grant all on shop.things to postgres with grant option",
    "the pipeline's roles": "grant usage on schema shop to replication_consumer; "
    "grant select on shop.things to replication_consumer, replication_monitor; "
    "grant all on shop.things to replication_owner",
}


def dump(postgres: EmbeddedPostgres, contour: Contour, *arguments: str) -> str:
    done = subprocess.run(
        [str(postgres.bin("pg_dump")), "-d", contour.dsn, "--schema-only", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return "\n".join(
        line for line in done.stdout.splitlines() if not re.match(r"--|\\(un)?restrict|$", line)
    )


def options(full: bool) -> dict[str, bool]:
    return {"full_before": True} if full else {}


@pytest.mark.parametrize("grants", GRANTS.values(), ids=GRANTS)
@pytest.mark.parametrize("full_before", [False, True])
def test_the_table_is_as_before(
    make: Shared, postgres: EmbeddedPostgres, grants: str, *, full_before: bool
) -> None:
    contour = make(RICH + grants)
    before = dump(postgres, contour, "--exclude-schema=replication")
    for _ in range(2):
        setup(contour, "shop.things", **options(full_before))
        contour.run("insert into shop.things (name) values ('y')")
        remove(contour, "shop.things", drop_version_column=True)
        assert dump(postgres, contour, "--exclude-schema=replication") == before


def test_the_version_column_stays_if_it_is_to(make: Shared, postgres: EmbeddedPostgres) -> None:
    """It tells which write was the last one, should the table be replicated again."""
    contour = make(RICH)
    before = dump(postgres, contour, "--table=shop.things").splitlines()
    setup(contour, "shop.things")
    contour.run("insert into shop.things (name) values ('y')")
    version = contour.value("select replication_version from shop.things")
    remove(contour, "shop.things")
    after = dump(postgres, contour, "--table=shop.things").splitlines()
    more = [line for line in after if line not in before]
    assert all("replication_version" in line for line in more), more
    # The column that was the last one has got a comma.
    assert {line.rstrip(",") for line in before} <= {line.rstrip(",") for line in after}
    assert contour.value("select replication_version from shop.things") == version
    contour.run("insert into shop.things (name) values ('z')")  # the column has a default
    setup(contour, "shop.things")
    contour.run("update shop.things set name = 'w' where name = 'y'")
    assert contour.value("select max(replication_version) from shop.things") > version
    assert contour.value("select base_version from replication_queue order by id desc limit 1") == (
        version
    )


def test_nothing_of_ours_is_left(make: Shared) -> None:
    contour = make(RICH)
    functions = "select oid from pg_proc where pronamespace = 'replication'::regnamespace"
    before = contour.run(functions)
    setup(contour, "shop.things", full_before=True)
    remove(contour, "shop.things", drop_version_column=True)
    assert contour.run(functions) == before
    assert contour.value("select count(*) from replication.replicated_tables") == 0
    for role in ("replication_owner", "replication_consumer"):
        assert not contour.value("select has_table_privilege(%s, 'shop.things', 'select')", role)
        assert not contour.value("select has_schema_privilege(%s, 'shop', 'usage')", role)


def test_rights_in_a_schema_stay_while_another_table_there_needs_them(make: Shared) -> None:
    contour = make(RICH)
    setup(contour, "shop.parents")
    setup(contour, "shop.things")
    remove(contour, "shop.things", drop_version_column=True)
    assert contour.value("select has_schema_privilege('replication_consumer', 'shop', 'usage')")
    contour.run("insert into shop.parents values (1); delete from shop.parents")
    assert events(contour) == ["INSERT 1", "DELETE 1"]


def test_queued_events_stay(make: Shared) -> None:
    contour = make("create table t (id int primary key)", ["t"])
    contour.run("insert into t values (1), (2); delete from t where id = 1")
    remove(contour, "t", drop_version_column=True)
    contour.run("insert into t values (3); update t set id = 4 where id = 3; truncate t")
    assert events(contour) == ["INSERT 1", "INSERT 2", "DELETE 1"]


@pytest.mark.parametrize("drop_version_column", [False, True])
def test_set_up_removed_and_set_up_again(make: Shared, *, drop_version_column: bool) -> None:
    contour = make("create table t (id int primary key, n int)", ["t"])
    for number in range(3):
        contour.run("insert into t values (%s, 1)", number)
        contour.run("update t set n = n + 1")
        assert_queue_tells(contour, "t")
        remove(contour, "t", drop_version_column=drop_version_column)
        contour.run("update t set n = 0; delete from replication_queue; delete from t")
        setup(contour, "t")
    contour.run("insert into t values (7, 1)")
    assert_queue_tells(contour, "t")


def test_removed_and_set_up_with_other_options_in_one_transaction(make: Shared) -> None:
    contour = make("create table t (id int primary key, n int)", ["t"])
    contour.run("insert into t values (1, 1)")
    with contour.app.transaction():
        remove(contour, "t")
        setup(contour, "t", full_before=True)
    contour.run("update t set n = 2")
    assert contour.run("select before from replication_queue order by id") == [
        (None,),
        ({"id": 1, "n": 1},),
    ]
    assert_queue_tells(contour, "t")


def test_removal_can_be_rolled_back(make: Shared) -> None:
    contour = make("create table t (id int primary key)", ["t"])
    with contour.app.transaction(force_rollback=True):
        remove(contour, "t", drop_version_column=True)
        contour.run("insert into t values (1)")
    contour.run("insert into t values (2)")
    assert events(contour) == ["INSERT 2"]


def test_removing_what_is_not_replicated_changes_nothing(
    make: Shared, postgres: EmbeddedPostgres
) -> None:
    contour = make(RICH + GRANTS["the pipeline's roles"])
    before = dump(postgres, contour)
    remove(contour, "shop.things", drop_version_column=True)
    remove(contour, "shop.things")
    assert dump(postgres, contour) == before


def test_removing_does_not_take_a_column_of_the_users(make: Shared) -> None:
    """One that was there before set-up, of the same name and type, is not ours to drop."""
    contour = make("create table t (id int primary key, replication_version bigint not null)")
    remove(contour, "t", drop_version_column=True)
    assert (
        contour.value(
            "select count(*) from pg_attribute where attrelid = 't'::regclass "
            "and attname = 'replication_version' and not attisdropped"
        )
        == 1
    )


def test_a_renamed_and_moved_table_is_removed_by_its_new_name(make: Shared) -> None:
    contour = make("create schema attic; create table t (id int primary key)", ["t"])
    contour.run("alter table t rename to u; alter table u set schema attic")
    remove(contour, "attic.u", drop_version_column=True)
    contour.run("insert into attic.u values (1); delete from attic.u")
    assert events(contour) == []
    assert contour.value("select count(*) from pg_trigger where tgrelid = 'attic.u'::regclass") == 0
