"""Rows of two keys with one value of a unique index: one lives, the other waits and is named."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import IsolationLevel

from replication_pipeline.domain.errors import PoisonError
from replication_pipeline.domain.model import Consumed
from replication_pipeline.embedded.process import wait_until
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.parked import list_parked
from replication_pipeline.postgres.status import read_status
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.test_apply import Feed, take

pytestmark = pytest.mark.integration

PEOPLE = """
create table people (
  id bigint primary key, email text unique, country text, number int, note text,
  unique (country, number)
);
create table pets (id bigint primary key, person bigint references people on delete cascade)
"""
ROWS = "select id, email from people order by id"


class People:
    """Contours with people and pets, an inbox each."""

    def __init__(self, contours: list[Contour]) -> None:
        self.contours = contours
        self.feeds = {contour.name: Feed(contour, "people") for contour in contours}

    def give(self, contour: Contour, values: list[bytes]) -> int:
        """How many of the events are parked."""
        return self.feeds[contour.name].apply(values).parked

    def retry(self, *contours: Contour) -> None:
        """As appliers do after progress, until nothing comes free any more."""
        for contour in contours or self.contours:
            while self.feeds[contour.name].inbox.retry_parked(100, eagerly=True).applied:
                pass

    def close(self) -> None:
        for feed in self.feeds.values():
            feed.close()


@pytest.fixture
def people_of(make_contours: MakeContours) -> Iterator[list[People]]:
    """Appended to: what is in it is closed with the test."""
    made: list[People] = []
    yield made
    for people in made:
        people.close()


def people(
    make_contours: MakeContours, made: list[People], *, displace: bool, count: int = 2
) -> People:
    tables = {"people": {"displace": displace}, "pets": {}}
    made.append(People(make_contours(PEOPLE, tables, count=count)))
    return made[-1]


def parked(contour: Contour) -> list[tuple[str, str, str, str]]:
    return [
        tuple(row)
        for row in contour.run(
            "select record_key, reason, detail, blocked_by from replication.parked_events order by 1"
        )
    ]


def test_the_second_of_two_waits_for_the_first_to_go(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=False)
    a, b = both.contours
    a.run("insert into people (id, email) values (1, 'x@y.z'), (3, 'free')")
    b.run("insert into people (id, email) values (2, 'x@y.z')")
    from_a, from_b = take(a), take(b)
    assert both.give(a, from_b) == both.give(b, from_a) == 1
    assert parked(a) == [('{"id":2}', "unique_conflict", "people_email_key", 'people {"id":1}')]
    assert b.run(ROWS) == [(2, "x@y.z"), (3, "free")], "the rest of the batch went on"
    with connect(a.settings, application_name="test") as connection:
        assert list_parked(connection)[0].blocked_by == 'people {"id":1}'
        assert read_status(connection, "a").unique_conflicts == 1
    a.run("update people set email = 'other' where id = 1")
    both.retry(a)
    assert a.run(ROWS) == [(1, "other"), (2, "x@y.z"), (3, "free")]
    both.give(b, take(a))
    both.retry(b)
    assert same_rows([a, b], "people")
    assert parked(a) == parked(b) == []


def test_values_that_change_hands_within_a_batch_do_not_wait(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=False)
    a, b = both.contours
    a.run(
        "insert into people (id, email) select g, 'e' || g from generate_series(1, 6) g; "
        "insert into pets values (1, 6)"
    )
    assert both.give(b, [v for v in take(a) if b'"people"' in v]) == 0
    a.run("delete from people where id = 1; insert into people (id, email) values (7, 'e1')")
    a.run(
        "update people set email = 'tmp' where id = 2; update people set email = 'e2' where id = 3"
    )
    a.run("update people set email = 'e3' where id = 2")  # a swap
    a.run(
        "update people set email = 'new' where id = 4; update people set email = 'e4' where id = 5"
    )
    a.run("delete from people where id = 6; insert into people (id, email) values (8, 'e6')")
    assert both.give(b, [v for v in take(a) if b'"people"' in v]) == 0
    assert same_rows([a, b], "people")
    assert b.value("select count(*) from replication.replication_tombstones") == 2


def test_an_event_that_can_not_go_keeps_its_old_value(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    """Row 1 was to give 'e1' to row 2, but its own new value is taken here: both wait."""
    both = people(make_contours, people_of, displace=False)
    a, b = both.contours
    a.run("insert into people (id, email) values (1, 'e1')")
    both.give(b, take(a))
    b.run("insert into people (id, email) values (9, 'taken')")
    a.run("update people set email = 'taken' where id = 1")
    a.run("insert into people (id, email) values (2, 'e1')")
    assert both.give(b, take(a)) == 2
    assert [(row[0], row[3]) for row in parked(b)] == [
        ('{"id":1}', 'people {"id":9}'),
        ('{"id":2}', 'people {"id":1}'),
    ]
    b.run("delete from people where id = 9")
    both.retry(b)
    assert same_rows([a, b], "people")


def test_within_a_batch_the_row_that_has_the_value_keeps_it(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    """Else the newcomer would keep the owner's own change out, and the owner the newcomer."""
    both = people(make_contours, people_of, displace=False)
    a, b = both.contours
    a.run("insert into people (id, email) values (1, 'same')")
    owner = take(a)
    both.give(b, owner)
    a.run("update people set note = 'changed'")
    update = take(a)
    a.run("delete from people; insert into people (id, email) values (2, 'same')")
    newcomer = [value for value in take(a) if b'"op":"c"' in value]
    assert both.give(b, [*newcomer, *update]) == 1
    assert b.run("select id, note from people") == [(1, "changed")]
    assert [(row[0], row[3]) for row in parked(b)] == [('{"id":2}', 'people {"id":1}')]


@pytest.mark.parametrize("columns", ["email", "country, number"])
def test_displaced_rows_make_the_end_a_function_of_the_versions(
    make_contours: MakeContours, people_of: list[People], columns: str
) -> None:
    """Three contours give one value to three keys; each gets the other's events in another order, and
    one of them both in one batch. The newest lives everywhere, the others wait; when it goes, the
    next one comes.
    """
    three = people(make_contours, people_of, displace=True, count=3)
    values = "'same'" if columns == "email" else "'xx', 7"
    written = {}
    for key, contour in enumerate(three.contours, start=1):
        contour.run(f"insert into people (id, note, {columns}) values ({key}, 'kept', {values})")
        written[contour.name] = take(contour)
    a, b, c = three.contours
    for contour, order in ((a, "cb"), (b, "ca")):
        for name in order:
            three.give(contour, written[name])
    three.give(c, [*written["b"], *written["a"]])
    three.retry()
    assert all(contour.run("select id, note from people") == [(3, "kept")] for contour in (a, b, c))
    for contour, own in ((a, '{"id":1}'), (b, '{"id":2}')):
        reasons = {row[0]: row[1] for row in parked(contour)}
        assert reasons == {'{"id":1}': "unique_conflict", '{"id":2}': "unique_conflict"} | {
            own: reasons[own]
        }
        assert contour.value("select count(*) from replication.replication_tombstones") == 0
    assert a.value("select unique_conflicts from replication.status") == 2
    assert all(contour.queue()[1:] == [] for contour in (a, b, c)), "nothing of this is captured"
    c.run("delete from people")
    gone = take(c)
    for contour in (a, b):
        three.give(contour, gone)
    three.retry()
    assert all(contour.run("select id, note from people") == [(2, "kept")] for contour in (a, b, c))
    assert same_rows([a, b, c], "people")
    assert [row[0] for row in parked(c)] == ['{"id":1}']


def test_every_order_of_arrival_ends_alike(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    """Four rows collide in two unique indexes, as a chain: all orders, one by one and at once."""
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    a.run("alter table people drop constraint people_email_key")
    a.run("alter table people drop constraint people_country_number_key")
    a.run("insert into people (id, email, country, number) values (1, 'p', 'xx', 1)")
    a.run("insert into people (id, email, country, number) values (2, 'p', 'xx', 2)")
    a.run("insert into people (id, email, country, number) values (3, 'q', 'xx', 2)")
    a.run("insert into people (id, email, country, number) values (4, 'q', 'xx', 3)")
    values = take(a)
    for order, size in zip(itertools.permutations(values), itertools.cycle((1, 2, 4))):
        for start in range(0, 4, size):
            both.give(b, list(order[start : start + size]))
        both.retry(b)
        # 4 lives; 3 shares q with it; 2 shares p with nobody newer that lives; 1 shares p with 2.
        assert b.run("select id from people order by id") == [(2,), (4,)], (order, size)
        assert [row[0] for row in parked(b)] == ['{"id":1}', '{"id":3}']
        b.run("delete from replication.parked_events; delete from replication.processed_events")
        b.run("set session_replication_role = replica; delete from people")
        b.run("reset session_replication_role")


@pytest.mark.parametrize(
    "change",
    [
        "update people set email = 'taken' where id = 1",
        "delete from people where id = 1; insert into people (id, email) values (1, 'taken')",
    ],
)
def test_a_row_whose_newer_image_is_kept_out_does_not_keep_the_old_one(
    make_contours: MakeContours, people_of: list[People], change: str
) -> None:
    """At b the row that keeps it out is there already, at c it comes afterwards."""
    three = people(make_contours, people_of, displace=True, count=3)
    a, b, c = three.contours
    a.run("insert into people (id, email) values (1, 'free')")
    for contour, value in itertools.product((b, c), take(a)):
        three.give(contour, [value])
    a.run(change)
    changed = take(a)
    b.run("insert into people (id, email) values (2, 'taken')")
    newer = take(b)
    for contour, values in ((b, changed), (c, changed), (c, newer), (a, newer)):
        three.give(contour, values)
    three.retry()
    assert [x.run(ROWS) for x in (a, b, c)] == [[(2, "taken")]] * 3
    c.run("delete from people where id = 2")
    gone = take(c)
    three.give(a, gone)
    three.give(b, gone)
    three.retry()
    assert [x.run(ROWS) for x in (a, b, c)] == [[(1, "taken")]] * 3
    assert parked(a) == parked(b) == parked(c) == []


def test_a_row_with_children_does_not_give_way(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    b.run("insert into people (id, email) values (1, 'same'); insert into pets values (5, 1)")
    a.run("insert into people (id, email) values (2, 'same')")
    assert both.give(b, take(a)) == 1
    ((_, reason, detail, blocked_by),) = parked(b)
    assert (reason, blocked_by) == ("unique_conflict", 'people {"id":1}')
    assert detail == "people_email_key, whose older row has children and is not displaced"
    b.run("delete from pets")
    both.retry(b)
    assert b.run(ROWS) == [(2, "same")]
    assert parked(b) == [('{"id":1}', "displaced", "people_email_key", 'people {"id":2}')]


def test_a_row_that_gets_a_child_in_the_same_batch_does_not_give_way(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    a.run("insert into people (id, email) values (1, 'same')")
    both.give(b, take(a))
    a.run("insert into pets values (5, 1)")
    child = take(a)
    a.run("delete from pets; delete from people; insert into people (id, email) values (2, 'same')")
    newer = [value for value in take(a) if b'"id":2' in value]
    pets = Feed(b, "pets")
    batches = both.feeds["b"].batch(newer), pets.batch(child)
    whole = Consumed(
        batches[0].messages + batches[1].messages, batches[0].advances + batches[1].advances
    )
    assert pets.inbox.apply(whole).parked == 1
    pets.close()
    assert b.run(ROWS) == [(1, "same")]
    assert b.run("select * from pets")[0][:2] == (5, 1)


def test_a_displaced_row_keeps_the_columns_that_stay_at_home(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    tables = {"people": {"displace": True, "exclude": ["note"]}, "pets": {}}
    people_of.append(People(make_contours(PEOPLE, tables)))
    a, b = people_of[-1].contours
    b.run("insert into people (id, email, note) values (1, 'same', 'only here')")
    version = b.value("select replication_version from people")
    a.run("insert into people (id, email) values (2, 'same')")
    people_of[-1].give(b, take(a))
    b.run("delete from people where id = 2")
    people_of[-1].retry(b)
    assert b.run("select id, note, replication_version from people") == [(1, "only here", version)]


@contextmanager
def inserting_behind_another(
    contour: Contour, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
) -> Iterator[list[str]]:
    """An INSERT of row 1 that waits, with its version, for somebody else's e-mail while the block runs.
    What it came to, once the other one has given up.
    """
    other, writer = contour.session(), contour.session()
    writer.isolation_level = isolation
    other.execute("insert into people (id, email) values (9, 'taken')")
    outcome: list[str] = []

    def insert() -> None:
        try:
            done = writer.execute(
                "insert into people (id, email) values (1, 'taken') on conflict do nothing"
            )
            writer.commit()
            outcome.append(done.statusmessage or "")
        except psycopg.Error as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=insert, daemon=True)
    thread.start()
    waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    pid = writer.info.backend_pid
    wait_until(lambda: contour.value(waits, pid) is True, timeout=20, what="the INSERT to wait")
    yield outcome
    other.rollback()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("leaves", ["displaced", "stepped down"])
def test_an_insert_that_waited_is_newer_than_the_row_that_gave_way_meanwhile(
    make_contours: MakeContours, people_of: list[People], leaves: str
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    with inserting_behind_another(a) as outcome:
        if leaves == "displaced":
            a.run("insert into people (id, email) values (1, 'same')")
            b.run("insert into people (id, email) values (2, 'same')")
        else:
            a.run("insert into people (id, email) values (1, 'free')")
            both.give(b, take(a))
            b.run("update people set email = 'same' where id = 1")
            update = take(b)
            a.run("insert into people (id, email) values (2, 'same')")
            both.give(a, update)
        both.give(a, take(b))
        assert a.run(ROWS) == [(2, "same")]
    assert outcome == ["INSERT 0 1"]
    both.give(b, take(a))
    both.retry()
    assert [x.run(ROWS) for x in (a, b)] == [[(1, "taken"), (2, "same")]] * 2
    assert same_rows([a, b], "people")
    assert parked(a) == parked(b) == []
    versions = "select version from replication_queue where record_key = '{\"id\":1}' order by id"
    written = [version for (version,) in a.run(versions)]
    assert len(written) == 2
    assert written == sorted(written)


def test_a_clock_that_is_behind_does_not_insert_below_the_row_that_gave_way(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    b.run("select replication.install_clock('30 s')")
    b.run("insert into people (id, email) values (1, 'same')")
    both.give(a, take(b))
    former = a.value("select replication_version from people")
    b.run("delete from people; insert into people (id, email) values (2, 'same')")
    both.give(a, [value for value in take(b) if b'"op":"c"' in value])
    assert a.run(ROWS) == [(2, "same")]
    a.run("insert into people (id, email) values (1, 'mine')")
    (version,) = a.run("select version from replication_queue")
    assert version[0] > former


def test_a_snapshot_from_before_the_row_gave_way_does_not_insert_under_its_key(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    with inserting_behind_another(a, IsolationLevel.REPEATABLE_READ) as outcome:
        a.run("insert into people (id, email) values (1, 'same')")
        b.run("insert into people (id, email) values (2, 'same')")
        both.give(a, take(b))
    assert outcome == ["SerializationFailure"]
    assert a.run(ROWS) == [(2, "same")]


def test_what_gave_way_is_forgotten_after_a_day(
    make_contours: MakeContours, people_of: list[People]
) -> None:
    both = people(make_contours, people_of, displace=True)
    a, b = both.contours
    a.run("insert into people (id, email) select g, g::text from generate_series(1, 3) g")
    b.run("insert into people (id, email) select 9 + g, g::text from generate_series(1, 3) g")
    both.give(a, take(b))
    change = "update replication.displaced_keys set {} where record_key <> '{{\"id\":%s}}'"
    a.run(change.format("displaced_at = displaced_at - interval '25 hours'") % 2)
    a.run(change.format("version = version - (90000000000 << 10)") % 3)
    a.run("select replication.rotate_queue('7 days')")
    left = a.run("select record_key from replication.displaced_keys order by 1")
    # An INSERT may still be waiting; and a clock that is behind the row would come below it.
    assert left == [('{"id":2}',), ('{"id":3}',)]


ODD = """
create table odd (id int primary key, mail text, span int4range, active bool, n int);
create unique index odd_lower on odd (lower(mail));
create unique index odd_active on odd (n) where active;
alter table odd add constraint odd_span exclude using gist (span with &&);
create unique index odd_both on odd (mail, n)
"""


def test_what_can_not_be_looked_up_is_parked_by_its_name(make_contours: MakeContours) -> None:
    a, b = make_contours(ODD, ["odd"])
    b.run("insert into odd values (1, 'A', '[1,5)', true, 1)")
    a.run("insert into odd values (2, 'a', null, false, 2)")
    a.run("insert into odd values (3, 'b', null, true, 1)")
    a.run("insert into odd values (4, 'c', '[4,9)', false, 4)")
    a.run("insert into odd (id, n) values (5, 1), (6, 1)")  # nulls are distinct
    feed = Feed(b, "odd")
    for value in take(a):
        try:
            feed.apply([value])
        except PoisonError as error:
            feed.inbox.park(feed.batch([value]), error)
            feed.offset += 1
    found = b.run("select reason, detail, blocked_by from replication.parked_events order by id")
    feed.close()
    assert [(reason, blocked) for reason, _, blocked in found] == [("unique_conflict", None)] * 3
    for (_, detail, _), name in zip(found, ("odd_lower", "odd_active", "odd_span"), strict=True):
        assert name in detail
    assert b.run("select id from odd order by id") == [(1,), (5,), (6,)]


def test_displace_may_be_changed_later(make_contours: MakeContours) -> None:
    (a,) = make_contours(PEOPLE, ["people"], count=1)
    kept = "select displace from replication.replicated_tables"
    assert a.value(kept) is False
    a.run("select setup_table_for_replication('people', displace => true)")
    assert a.value(kept) is True
    a.run("select setup_table_for_replication('people')")
    assert a.value(kept) is True
