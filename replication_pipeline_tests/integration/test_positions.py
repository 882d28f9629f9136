"""Positions that Kafka can't serve, or that mean another topic: a halt with a remedy, never a jump."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from typer.testing import CliRunner

from replication_pipeline import runtime
from replication_pipeline.cli import offsets as cli
from replication_pipeline.cli.main import app
from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.positions import SOUND
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.republish import Selection
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka import reading, topic_watch
from replication_pipeline.kafka.client import Admin
from replication_pipeline.kafka.topic_logs import read_logs
from replication_pipeline.kafka.topic_watch import ask, described
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.observe import RepublishLog
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, same_rows
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def admin(kafka: EmbeddedKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


def topic_of(contour: Contour, table: str = "users") -> Topic:
    return topic_for(table, prefix=contour.settings.kafka.topic_prefix)


def make_anew(admin: AdminClient, contour: Contour) -> None:
    topic = topic_of(contour)

    def is_gone() -> bool:
        return described("test", topic, ask(admin, [topic])[topic]) is None

    def is_there() -> bool:
        with contextlib.suppress(TransientError):
            return topic in read_logs(admin, "test", [topic])
        return False

    admin.delete_topics([topic])[topic].result(20)
    until(is_gone, "the topic to be gone")
    ensure_topics(contour.settings, ["users"])
    until(is_there, "the topic to be there again")


def cut(admin: AdminClient, contour: Contour, *, leave: int = 0) -> None:
    """What retention does: of each partition only the last events are left."""
    topic = topic_of(contour)
    ranges = read_logs(admin, "test", [topic])[topic].ranges
    admin_cut = admin.delete_records(
        [TopicPartition(topic, p, max(log.start, log.end - leave)) for p, log in ranges.items()]
    )
    for future in admin_cut.values():
        future.result(20)


def write(contour: Contour, first: int, last: int) -> None:
    contour.run("insert into users (id) select generate_series(%s::int, %s::int)", first, last)
    contour.publish()


def offsets(contour: Contour, *arguments: str) -> Any:
    """What the command prints, within this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "configured", lambda _: contour.settings)
        result = CliRunner().invoke(app, ["offsets", *arguments, "--json"])
    printed = json.loads(result.stdout)
    if arguments[0] == "list":
        assert result.exit_code == (not {row["standing"] for row in printed} <= SOUND)
    return printed


def standings(contour: Contour) -> set[str]:
    return {row["standing"] for row in offsets(contour, "list")}


def halted(contour: Contour) -> FatalError:
    with pytest.raises(FatalError) as error:
        contour.apply()
    assert error.value.remedy is not None
    assert "replication-pipeline offsets accept users" in error.value.remedy
    assert topic_of(contour) in error.value.message
    return error.value


def count(contour: Contour) -> int:
    value = contour.value("select count(*) from users")
    assert isinstance(value, int)
    return value


def test_a_topic_made_anew_halts_even_when_it_has_grown_longer(
    users: list[Contour], admin: AdminClient
) -> None:
    a, b = users
    write(a, 1, 10)
    b.apply()
    write(a, 11, 15)  # b has not read these when the topic goes
    make_anew(admin, a)
    write(a, 16, 99)
    for _ in range(2):
        assert "deleted and made anew" in halted(b).message
    assert count(b) == 10
    assert standings(b) == {"made_anew"}
    accepted = offsets(b, "accept", "users")
    assert accepted == {"accepted": {topic_of(b): {"0": 0, "1": 0, "2": 0}}}
    b.apply()
    assert count(b) == 94
    assert standings(b) == {"ok"}


def test_events_parked_from_the_former_topic_outlive_it(
    users: list[Contour], admin: AdminClient
) -> None:
    """The new topic's events have the same places."""
    a, b = users
    b.run("alter table users alter column name type varchar(3)")

    def write_long_names(first: int, last: int) -> None:
        a.run(
            "insert into users (id, name) select g, 'too long' "
            "from generate_series(%s::int, %s::int) g",
            first,
            last,
        )
        a.publish()

    write_long_names(1, 3)
    assert b.apply().parked == 3
    make_anew(admin, a)
    write_long_names(4, 6)
    halted(b)
    offsets(b, "accept", "users")
    assert b.apply().parked == 3
    parked = b.run("select kafka_offset >= 0 from replication.parked_events order by 1")
    assert parked == [(False,)] * 3 + [(True,)] * 3
    b.run("alter table users alter column name type text")
    b.run("update replication.parked_events set retried_at = '-infinity'")
    b.apply()
    assert same_rows(users, "users")
    assert count(b) == 6


def test_a_topic_made_anew_under_a_running_applier_halts_it(
    users: list[Contour], admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_watch, "EVERY", 0.05)
    monkeypatch.setattr(reading, "METADATA_EVERY", 0.3)
    a, b = users
    with applying(b.settings, survive=False) as (applier,):
        write(a, 1, 5)
        until(lambda: count(b) == 5, "the events to be applied")
        make_anew(admin, a)
        write(a, 6, 50)
        until(lambda: not applier.running, "the applier to halt")
        assert isinstance(applier.failure, FatalError)
        assert "deleted and made anew" in applier.failure.message


def test_glances_notice_what_no_rebalance_tells(
    users: list[Contour], admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever has not looked since the topic was accepted goes on."""
    monkeypatch.setattr(topic_watch, "EVERY", 0.05)
    a, b = users
    with runtime.open_inbox(b.settings, "test") as inbox:
        topics = {topic_of(b): "users"}
        first, second = (
            topic_watch.TopicWatch("b", topics, Admin(b.settings), inbox) for _ in range(2)
        )
        for watch in (first, second):
            watch.compare()
        before = dict(second._known)
        make_anew(admin, a)

        def notices() -> bool:
            try:
                first.glance()
            except FatalError:
                return True
            return False

        def learns() -> bool:
            second.glance()
            return second._known != before

        until(notices, "the topic to be noticed")
        offsets(b, "accept", "users")
        until(learns, "the new id to be learned")


def test_retention_that_ran_past_halts_until_it_is_accepted(
    users: list[Contour], admin: AdminClient
) -> None:
    a, b = users
    write(a, 1, 30)
    b.apply()
    write(a, 31, 90)
    cut(admin, a, leave=5)
    for _ in range(2):
        assert "that were not read here" in halted(b).message
    assert count(b) == 30
    assert standings(b) == {"cut"}
    # What the remedy says first: the events are sent again, then the log is taken as it is.
    with runtime.open_republish(
        a.settings, Selection(), watcher=RepublishLog(), stop=StopToken()
    ) as run:
        run.plan()
        run.run()
    accepted = offsets(b, "accept", "users")
    assert len(accepted["accepted"][topic_of(b)]) == 3
    b.apply()
    assert same_rows(users, "users")
    assert count(b) == 90


def test_a_log_that_was_cut_before_it_was_ever_read_halts(
    users: list[Contour], admin: AdminClient
) -> None:
    a, b = users
    write(a, 1, 30)
    cut(admin, a, leave=2)
    assert "never read here" in halted(b).message
    assert count(b) == 0
    assert standings(b) == {"cut_unread"}
    offsets(b, "accept", "users")
    b.apply()
    assert count(b) == 6


def test_a_position_beyond_the_log_halts(users: list[Contour], admin: AdminClient) -> None:
    a, b = users
    write(a, 1, 30)
    b.apply()
    b.run(
        "update replication.consumer_offsets set next_offset = next_offset + 1000 where partition = 1"
    )
    write(a, 31, 60)
    assert "the log ends at" in halted(b).message
    assert standings(b) <= {"beyond", "ok"}
    accepted = offsets(b, "accept", "users")
    assert accepted["accepted"] == {topic_of(b): {"1": 0}}
    totals = b.apply()
    assert totals.duplicates > 0
    assert same_rows(users, "users")


def test_added_partitions_are_read_from_their_beginning(
    users: list[Contour], admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "METADATA_EVERY", 0.3)
    a, b = users
    topic = topic_of(a)
    with applying(b.settings, count=2) as appliers:
        write(a, 1, 30)
        until(lambda: count(b) == 30, "the events to be applied")
        admin.create_partitions([NewPartitions(topic, 8)])[topic].result(20)
        a.run("update users set name = 'moved'")
        write(a, 31, 120)
        until(lambda: same_rows(users, "users"), "all to be equal")
        assert all(applier.failure is None for applier in appliers)
    positions = dict(
        b.run(
            "select partition, next_offset from replication.consumer_offsets where topic = %s",
            topic,
        )
    )
    logs = read_logs(admin, "test", [topic])[topic].ranges
    assert positions == {p: log.end for p, log in logs.items() if log.end}
    assert set(positions) - {0, 1, 2}, "nothing came to an added partition"


def test_a_batch_is_bounded_by_bytes(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run(
        "insert into users (id, name) select g, repeat(md5(g::text), 400) "
        "from generate_series(1, 60) g"
    )
    a.publish()
    small = with_settings(b.settings, consumer={"max_batch_bytes": 50_000, "batch_size": 500})
    seen: list[tuple[int, int]] = []
    with applying(small) as (applier,):
        applier.on_batch = lambda result: seen.append((result.count, result.bytes))
        until(lambda: count(b) == 60, "the events to be applied")
    assert sum(n for n, _ in seen) == 60
    assert all(size <= 50_000 for _, size in seen)
    assert max(n for n, _ in seen) > 1
    tiny = with_settings(b.settings, consumer={"max_batch_bytes": 1_024})
    b.run("delete from replication.consumer_offsets")
    again: list[int] = []
    with applying(tiny) as (applier,):
        applier.on_batch = lambda result: again.append(result.count)
        until(lambda: sum(again) == 60, "the events to be read again")
    assert again == [1] * 60
