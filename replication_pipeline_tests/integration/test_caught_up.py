"""Caught up is said of the contour, whoever of its group has the partitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.kafka.consumer import KafkaEventConsumer
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline_tests.conftest import Contour, same_rows
from replication_pipeline_tests.integration.test_positions import write
from replication_pipeline_tests.publishing import until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("kafka")]


@dataclass(frozen=True, slots=True)
class Member:
    """An applier that works when it is told to."""

    consumer: KafkaEventConsumer
    cycle: ApplyCycle

    @property
    def partitions(self) -> int:
        return len(self.consumer._positions)

    def caught_up(self) -> bool:
        self.cycle()
        return self.consumer.caught_up()


@contextmanager
def member(contour: Contour, name: str) -> Iterator[Member]:
    inbox = PostgresInbox(contour.settings, name)
    consumer = KafkaEventConsumer(contour.settings, inbox)
    cycle = ApplyCycle(consumer, inbox, 100, 100, timedelta(milliseconds=10), timedelta(hours=1))
    try:
        yield Member(consumer, cycle)
    finally:
        cycle.close()
        consumer.close()
        inbox.close()


def read(contour: Contour) -> int:
    return int(
        contour.run("select coalesce(sum(next_offset), 0) from replication.consumer_offsets")[0][0]
    )


def test_the_partitions_of_a_member_that_stands_still_count(users: list[Contour]) -> None:
    """Of four members with three partitions one has none, and one stops to read."""
    a, b = users
    with ExitStack() as opened, ExitStack() as stands_still:
        still = stands_still.enter_context(member(b, "still"))
        others = [opened.enter_context(member(b, str(number))) for number in range(3)]
        assert not still.consumer.caught_up()  # nothing is shared out yet

        def shared() -> bool:
            members = [still, *others]
            return (
                {one.caught_up() for one in members} == {True}
                and still.partitions == 1
                and sorted(one.partitions for one in others) == [0, 1, 1]
            )

        until(shared, "each to have its share")
        write(a, 1, 60)

        def some_is_read() -> bool:
            assert {one.caught_up() for one in others} == {False}
            return read(b) > 0

        until(some_is_read, "the others to read what is theirs")
        for _ in range(20):
            assert {one.caught_up() for one in others} == {False}
        stands_still.close()
        until(lambda: {one.caught_up() for one in others} == {True}, "the others to read the rest")
        assert read(b) == 60
        assert same_rows(users, "users")
