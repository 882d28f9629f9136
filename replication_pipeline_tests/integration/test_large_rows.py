"""Rows of any size: they are captured whole, or parked with a word about it; nobody's write fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.outbox import CLAIM_BYTES
from replication_pipeline.postgres.parked import list_parked, retry_parked
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import (
    assert_queue_tells,
    contour_in,
    events,
    mark,
    payloads,
    setup,
)
from replication_pipeline_tests.integration.outbox import drain, publisher, settle

pytestmark = pytest.mark.integration

COMMON = 262_144  # bytes of a row's long columns, as stored, that the compiled statement takes
VALUE = 27_000_000
PARTS = [f"part_{number}" for number in range(60)]  # one VALUE in each: 1.6 GB together
TOO_LARGE = "the row is too large to be written as an event"
BODIES = "create table {} (id bigint primary key, body text, note text)"
# Text that PostgreSQL can't compress, of so many bytes.
NOISE = """
create function noise(bytes integer) returns text language sql volatile as $$
  select left(string_agg(md5(random()::text), ''), bytes) from generate_series(1, bytes / 32 + 1)
$$
"""


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[Contour]:
    """With the table ``huge``, whose one value compresses well, to be stored in many columns."""
    with contour_in(postgres, templates["a"], "large_rows") as contour:
        contour.run("create table huge (value text)")
        contour.run("insert into huge values (repeat('x', %s))", VALUE)
        contour.run(NOISE)
        yield contour


@pytest.fixture
def contour(database: Contour) -> Iterator[Contour]:
    yield database
    database.run("drop table if exists docs, bodies")
    database.run("delete from replication.replication_queue")
    database.run("delete from replication.workers")


def docs(contour: Contour, **options: Any) -> None:
    """A table for rows whose JSON would be larger than PostgreSQL's 1 GB."""
    columns = ", ".join(f"{part} text" for part in PARTS)
    contour.run(f"create table docs (id bigint primary key, note text, {columns})")
    setup(contour, "docs", **options)


def insert_huge(contour: Contour, id_: int, *small: int) -> None:
    """One statement."""
    contour.run(
        f"insert into docs (id, note, {', '.join(PARTS)}) "
        f"select %s, 'huge', {', '.join('value' for _ in PARTS)} from huge "
        f"union all select u.id, 'small' {', null' * len(PARTS)} from unnest(%s::bigint[]) as u(id) "
        "order by 1",
        id_,
        list(small),
    )


def states(contour: Contour, after: int = 0) -> list[tuple[Any, ...]]:
    return contour.run(
        "select operation, (record_key::json->>'id')::int, payload is null, parked_at is not null, "
        "last_error, attempts from replication_queue where id > %s order by id",
        after,
    )


def test_a_row_of_more_than_1_gb_is_parked_and_fences_its_key(contour: Contour) -> None:
    docs(contour)
    start = mark(contour)
    insert_huge(contour, 2, 1, 3)
    assert contour.value("select count(*) from docs") == 3
    assert states(contour, start) == [
        ("INSERT", 1, False, False, None, 0),
        ("INSERT", 2, True, True, TOO_LARGE, 0),
        ("INSERT", 3, False, False, None, 0),
    ]
    inserted = mark(contour)
    contour.run("update docs set note = 'changed'")
    assert sorted(states(contour, inserted), key=str) == [
        ("UPDATE", 1, False, False, None, 0),
        ("UPDATE", 2, True, True, TOO_LARGE, 0),
        ("UPDATE", 3, False, False, None, 0),
    ]
    whole = [payload for payload in payloads(contour, "docs") if payload]
    assert sorted((payload["note"], payload["id"]) for payload in whole) == [
        *(("changed", 1), ("changed", 3), ("small", 1), ("small", 3))
    ]
    assert contour.value("select parked_publish from replication.status") == 2

    with connect(contour.settings, application_name="test") as connection:
        assert retry_parked(connection, "publish") == 0, "there is nothing to send"
        assert {parked.detail for parked in list_parked(connection, limit=10)} == {TOO_LARGE}
    contour.run(f"update docs set {', '.join(f'{part} = null' for part in PARTS)} where id = 2")
    with publisher(contour.settings) as outbox:
        assert {key for _, key in drain(outbox)} == {'{"id":1}', '{"id":3}'}
        contour.run("delete from replication_queue where parked_at is not null")
        contour.run("update replication_queue set held = false")
        ((_, key),) = drain(outbox)
    assert key == '{"id":2}'
    assert payloads(contour, "docs")[-1]["note"] == "changed"


def test_with_full_before_the_old_row_may_be_too_large_as_well(contour: Contour) -> None:
    """Then the event tells the old key alone, as it does without the option."""
    docs(contour, full_before=True)
    contour.run("alter table docs disable trigger replication_capture_insert")
    insert_huge(contour, 1)
    start = mark(contour)
    contour.run(f"update docs set {', '.join(f'{part} = null' for part in PARTS)}")
    ((operation, payload, before, parked),) = contour.run(
        "select operation, payload, before, parked_at from replication_queue where id > %s", start
    )
    assert (operation, payload["note"], before, parked) == ("UPDATE", "huge", None, None)


def test_a_change_of_a_huge_row_that_does_not_travel_is_no_event(contour: Contour) -> None:
    docs(contour, exclude=["note"])
    contour.run("alter table docs disable trigger replication_capture_insert")
    insert_huge(contour, 1, 2)
    start = mark(contour)
    contour.run(
        "update docs set note = 'mine', part_1 = case id when 2 then 'ours' else part_1 end"
    )
    assert states(contour, start) == [("UPDATE", 2, False, False, None, 0)]


def test_truncate_of_a_huge_row_with_full_before(contour: Contour) -> None:
    docs(contour, full_before=True, capture_truncate=True)
    contour.run("alter table docs disable trigger replication_capture_insert")
    insert_huge(contour, 1, 2)
    start = mark(contour)
    contour.run("truncate docs")
    assert contour.run(
        "select operation, record_key, before->>'note', parked_at from replication_queue "
        "where id > %s order by record_key",
        start,
    ) == [("DELETE", '{"id":1}', None, None), ("DELETE", '{"id":2}', "small", None)]


@pytest.mark.parametrize("full_before", [False, True])
@pytest.mark.parametrize("size", [COMMON - 100, COMMON + 100, 2_000_000])
def test_rows_are_captured_whole_on_both_sides_of_the_common_way(
    contour: Contour, size: int, *, full_before: bool
) -> None:
    """Alone and in a crowd: INSERT, UPDATE, new keys, DELETE, a key that comes back."""
    contour.run(BODIES.format("bodies"))
    setup(contour, "bodies", full_before=full_before)
    start = mark(contour)
    contour.run("insert into bodies values (1, noise(%s))", size)
    contour.run(
        "insert into bodies select g, case g when 3 then noise(%s) else 'short' end "
        "from generate_series(2, 4) g order by g",
        size,
    )
    contour.run("update bodies set note = 'noted'")
    contour.run("update bodies set body = 'shrunk' where id = 1")
    contour.run("update bodies set body = noise(%s) where id = 4", size)
    assert_queue_tells(contour, "bodies")
    assert sorted(events(contour, "bodies", after=start)) == sorted(
        [f"{operation} {id_}" for operation in ("INSERT", "UPDATE") for id_ in (1, 2, 3, 4)]
        + ["UPDATE 1", "UPDATE 4"]
    )
    moved = mark(contour)
    contour.run("update bodies set id = id + 10 where id in (3, 4)")
    found = events(contour, "bodies", after=moved)
    assert [sorted(found[:2]), sorted(found[2:])] == [
        ["DELETE 3", "DELETE 4"],
        ["INSERT 13", "INSERT 14"],
    ]
    contour.run("delete from bodies where id = 13")
    contour.run("update bodies set id = 13 where id = 14")
    assert events(contour, "bodies", after=moved)[4:] == ["DELETE 13", "DELETE 14", "INSERT 13"]
    assert contour.value("select length(body) from bodies where id = 13") == size
    assert_queue_tells(contour, "bodies")
    contour.run("delete from bodies")
    befores = contour.run(
        "select before is not distinct from case when %s and operation in ('UPDATE', 'DELETE') "
        "  then lag(payload) over (partition by record_key order by id) end "
        "from (select id, operation, record_key, payload::jsonb, before::jsonb "
        "        from replication_queue) q",
        full_before,
    )
    assert set(befores) == {(True,)}
    assert contour.value("select count(*) from replication_queue where parked_at is not null") == 0


def test_a_claim_takes_only_so_many_bytes(contour: Contour) -> None:
    contour.run(BODIES.format("bodies"))
    setup(contour, "bodies")
    contour.run("create temporary table one as select noise(1000000) as body")
    contour.run("insert into bodies select g, body from one, generate_series(1, 20) g")
    contour.run("insert into bodies select 21, repeat(body, 9) from one")
    contour.run("insert into bodies select g, 'short' from generate_series(22, 40) g")
    claims: list[list[int]] = []
    with publisher(contour.settings) as outbox:
        while claim := outbox.claim(1000):
            settle(outbox, claim)
            claims.append([len(event.value) for event in claim.events])
    assert sum(len(claim) for claim in claims) == 40
    for claimed in claims:
        assert len(claimed) == 1 or sum(claimed) < CLAIM_BYTES + 500 * len(claimed)
    assert max(len(claim) for claim in claims[:2]) == 8
