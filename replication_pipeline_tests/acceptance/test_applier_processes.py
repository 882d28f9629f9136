"""Appliers as processes: killed between any two steps, frozen and replaced, coming and going."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.failpoints import APPLY_POINTS, ApplyPoint
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.acceptance.test_publisher_processes import Process, process
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.publishing import publishing, until, with_settings

pytestmark = pytest.mark.acceptance

QUICK = {"session_timeout": "1s", "batch_size": 10, "poll_interval": "100ms"}
SETTINGS = {"session_timeout": timedelta(seconds=1)}
TABLES = ["parents", "children", "notes"]
FAMILY = """
create table parents (id bigint primary key, name text);
create table children (id bigint primary key, parent bigint not null references parents, name text);
create table notes (id bigint primary key, body text)
"""


@pytest.fixture
def contours(make_contours: MakeContours, kafka: EmbeddedKafka) -> list[Contour]:
    """Notes at b have three letters at most."""
    a, b = make_contours(FAMILY, TABLES)
    b.run("alter table notes alter column body type varchar(3)")
    return [a, b]


def write(contour: Contour, number: int) -> None:
    """A round of inserts, and of updates and deletes in the rows of the last one. One child's parent
    is not captured, and one note does not fit at b.
    """
    now, last = number * 100, number * 100 - 100
    contour.run(
        "begin; set local session_replication_role = replica;"
        f"insert into parents values ({now + 1}, 'not captured'); commit;"
        f"insert into children values ({now + 1}, {now + 1}, 'waits');"
        f"insert into parents select g, 'new' from generate_series({now + 2}, {now + 20}) g;"
        f"insert into children select g, g from generate_series({now + 6}, {now + 20}) g;"
        f"update parents set name = 'changed' where id between {last + 2} and {last + 10};"
        f"update children set name = 'changed' where id between {last + 15} and {last + 20};"
        f"delete from children where id between {last + 11} and {last + 14};"
        f"delete from parents where id between {last + 11} and {last + 14};"
        f"insert into notes select g, 'ok' from generate_series({now + 1}, {now + 3}) g;"
        f"insert into notes values ({now + 4}, 'does not fit')"
    )
    contour.publish()


@contextmanager
def applier(
    path: Path, contour: Contour, failpoint: str = "", tables: Sequence[str] = TABLES
) -> Iterator[Process]:
    config = configuration(path, contour, consumer=QUICK, tables=list(tables))
    with process(config, failpoint, "apply") as started:
        yield started


def waiting(contour: Contour) -> list[tuple[str, str | None]]:
    rows = contour.run("select reason, record_key from replication.parked_events order by 1")
    return [(reason, key) for reason, key in rows]


def assert_counters_are_exact(contour: Contour) -> None:
    """Each event up to the stored offsets is counted once, or parked."""
    counted, waiting, read = contour.run(
        "select (select coalesce(sum(processed), 0) from replication.workers), "
        "(select count(*) from replication.parked_events), "
        "(select coalesce(sum(next_offset), 0) from replication.consumer_offsets)"
    )[0]
    assert counted + waiting == read


def orphans(contour: Contour) -> int:
    count = contour.value(
        "select count(*) from children c where not exists (select from parents where id = c.parent)"
    )
    assert isinstance(count, int)
    return count


# Each point for the first time, and some of a later batch.
KILLS: list[tuple[ApplyPoint, int]] = [
    *((point, 1) for point in APPLY_POINTS),
    ("written", 2),
    ("applied", 3),
    ("apply_committed", 3),
]


def test_killed_at_any_point_nothing_is_lost_or_applied_twice(
    contours: list[Contour], tmp_path: Path
) -> None:
    """One applier after the other dies, each taking over from the last."""
    a, b = contours
    for number, (point, count) in enumerate(KILLS, start=1):
        write(a, number)
        parent = number * 100 + 1
        with applier(tmp_path, b, f"{point}:{count}") as killed:

            def child_waits(killed: Process = killed, parent: int = parent) -> bool:
                child = ("missing_parent", f'{{"id":{parent}}}')
                return killed.popen.poll() is not None or child in waiting(b)

            until(child_waits, f"the child to wait, or the end at {point}")
            a.run("update parents set name = 'captured' where id = %s", parent)
            a.publish()
            assert killed.popen.wait(40) == -signal.SIGKILL, point
        assert_counters_are_exact(b)
        assert orphans(b) == 0, point
    last = Contour(with_settings(b.settings, consumer=SETTINGS), b.app, b.dsn)
    # A window ends after a while, done or not, on a machine that is busy.
    until(lambda: last.apply().end == "drained", "the rest to be applied")
    assert same_rows(contours, "parents")
    assert same_rows(contours, "children")
    assert b.value("select count(*) from notes") == 3 * len(KILLS)
    assert waiting(b) == [("bad_value", None)] * len(KILLS)
    kept = b.run("select event from replication.parked_events")
    assert all(b'"body":"does not fit"' in bytes(event) for (event,) in kept)
    assert_counters_are_exact(b)


def read_to_the_end(contour: Contour, writer: Contour) -> bool:
    """Whether every event that ``writer`` has captured is behind the offsets."""
    read, captured = (
        contour.run("select coalesce(sum(next_offset), 0) from replication.consumer_offsets")[0][0],
        writer.value("select count(*) from replication_queue"),
    )
    return bool(read == captured)


def instances(contour: Contour) -> dict[str, int]:
    """What each applier has done."""
    return dict(
        contour.run("select instance, processed from replication.workers where role = 'applier'")
    )


def test_appliers_come_and_go_while_events_flow(contours: list[Contour], tmp_path: Path) -> None:
    """Two at first; one joins, one leaves in order, one is killed, one more joins."""
    a, b = contours
    number = iter(range(1, 10_000))
    two = ["parents", "notes"]

    def busy(count: int) -> bool:
        """Write to all topics until ``count`` appliers have had their share."""
        for table in ("parents", "notes"):
            a.run(
                f"insert into {table} select g, 'x' from generate_series(%s::int, %s::int) g",
                *span(next(number)),
            )
        return sum(done > 0 for done in instances(b).values()) >= count

    with (
        publishing(a.settings),
        applier(tmp_path, b, tables=two) as first,
        applier(tmp_path, b, tables=two) as second,
    ):
        until(lambda: busy(2), "both to work")
        with applier(tmp_path, b, tables=two) as third:
            until(lambda: busy(3), "the third one to work")
            logs = [*first.end()]
            until(lambda: busy(3), "some more events")
            second.popen.kill()
            with applier(tmp_path, b, tables=two) as fourth:
                until(lambda: busy(4), "the fourth one to work")
                until(lambda: read_to_the_end(b, a), "all to be applied")
                logs += fourth.end() + third.end()
    assert same_rows(contours, "notes")
    assert same_rows(contours, "parents")
    assert [line for line in logs if line["level"] != "info"] == []
    assert sum(line.get("duplicates", 0) + line.get("parked", 0) for line in logs) == 0
    assert_counters_are_exact(b)


def span(number: int) -> tuple[int, int]:
    return number * 10 + 1, number * 10 + 10


@pytest.mark.parametrize("point", ["polled", "written"])
def test_a_frozen_applier_writes_nothing_stale_and_joins_again(
    contours: list[Contour], tmp_path: Path, point: ApplyPoint
) -> None:
    """Frozen for longer than its session: its partitions go to another one, and so do its locks."""
    a, b = contours
    a.run("insert into notes select g, 'x' from generate_series(1, 50) g")
    a.publish()
    with applier(tmp_path, b, f"{point}:2:SIGSTOP") as frozen:
        until(lambda: frozen.stopped, "the applier to freeze")
        (zombie,) = instances(b)
        with applying(with_settings(b.settings, consumer=SETTINGS)) as (other,):
            until(lambda: read_to_the_end(b, a), "another one to take over")
            a.run("update notes set body = 'y'; delete from notes where id % 5 = 0")
            a.publish()
            until(lambda: read_to_the_end(b, a), "the rest to be applied")
            done = instances(b)
            frozen.popen.send_signal(signal.SIGCONT)
            number = iter(range(100, 10_000))

            def busy() -> bool:
                a.run(
                    "insert into notes select g, 'z' from generate_series(%s::int, %s::int) g",
                    *span(next(number)),
                )
                a.publish()
                return instances(b)[zombie] > done[zombie]

            until(busy, "the frozen one to work again")
            assert other.failure is None
        until(lambda: read_to_the_end(b, a), "all to be applied")
        log = frozen.end()
    assert same_rows(contours, "notes")
    assert any(line["event"] == "retrying" for line in log), log
    assert log[-1]["event"] == "window ended"
    assert_counters_are_exact(b)
