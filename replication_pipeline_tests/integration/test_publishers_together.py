"""Several publishers at once: each its share, no event twice, no key out of order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from replication_pipeline.domain.model import Part
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.postgres.shards import SHARDS
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.outbox import publisher, settle
from replication_pipeline_tests.publishing import (
    Publisher,
    assert_all_arrived,
    publishing,
    until,
    until_published,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_shards_are_shared_evenly(users: list[Contour], count: int) -> None:
    """Claims that are open at the same time have equal numbers of shards, and all of them."""
    contour = users[0]
    with ExitStack() as stack:
        outboxes = [
            stack.enter_context(publisher(contour.settings, f"p{number}"))
            for number in range(count)
        ]
        assert all(outbox.claim(1) is None for outbox in outboxes)  # each says that it lives
        contour.run("insert into users (id) select generate_series(1, 500)")
        claimed: set[int] = set()
        held: list[set[int]] = []
        for outbox in outboxes:
            _look_around(outbox)
            claim = outbox.claim(1000)
            assert claim is not None
            claimed |= {event.id for event in claim.events}
            held.append(set(outbox._reached))
            stack.callback(settle, outbox, claim)
        assert [len(shards) for shards in held] == [SHARDS // count] * count
        assert set().union(*held) == set(range(SHARDS))
        assert len(claimed) == 500


def test_lanes_share_what_is_their_publishers(users: list[Contour]) -> None:
    """Two publishers of two lanes: no lane has more than half of its publisher's eight."""
    contour = users[0]
    with ExitStack() as stack:
        outboxes = [
            stack.enter_context(publisher(contour.settings, name, lane))
            for name in ("p1", "p2")
            for lane in (0, 1)
        ]
        assert all(outbox.claim(1) is None for outbox in outboxes)
        assert contour.value("select publishers from replication.status") == 2
        contour.run("insert into users (id) select generate_series(1, 500)")
        held = []
        for outbox in outboxes:
            _look_around(outbox)
            claim = outbox.claim(1000, Part(outbox.lane, 2))
            assert claim is not None
            held.append(set(outbox._reached))
            stack.callback(settle, outbox, claim)
        assert [len(shards) for shards in held] == [4] * 4
        assert set().union(*held) == set(range(SHARDS))


def _look_around(outbox: PostgresOutbox) -> None:
    outbox._next_look = 0.0


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_publishers_at_once_neither_repeat_nor_reorder_nor_collide(
    users: list[Contour], kafka: EmbeddedKafka, count: int
) -> None:
    contour = users[0]
    contour.run("insert into users (id, balance) select g, 0 from generate_series(1, 200) g")
    with publishing(contour.settings, count) as publishers:
        began = time.monotonic()
        while not all(one.processed >= 50 for one in publishers) or time.monotonic() - began < 1:
            assert time.monotonic() - began < 60, [one.processed for one in publishers]
            contour.run("update users set balance = balance + 1 where id % 4 = random(0, 3)")
        until_published(contour)
    totals = [one.totals for one in publishers if one.totals]
    assert [one.retries for one in totals] == [0] * count
    written = contour.value("select count(*) from replication_queue")
    assert sum(one.processed for one in totals) == written
    assert_all_arrived(contour, repeats=False)


@pytest.fixture
def starting(users: list[Contour]) -> Iterator[list[Publisher]]:
    publishers: list[Publisher] = []
    yield publishers
    for one in publishers:
        one.end()


def test_a_window_hands_over_to_its_successor_without_a_gap(
    users: list[Contour], kafka: EmbeddedKafka, starting: list[Publisher]
) -> None:
    """The successor begins before the end, as the sensor sees to."""
    contour = users[0]
    contour.run("insert into users (id, balance) select g, 0 from generate_series(1, 20) g")
    first = Publisher(contour.settings, length=timedelta(seconds=3))
    starting.append(first)
    until_published(contour)
    began = time.monotonic()
    while first.running or time.monotonic() - began < 4:
        assert time.monotonic() - began < 30
        contour.run("update users set balance = balance + 1")
        if len(starting) == 1 and time.monotonic() - began > 1:
            starting.append(Publisher(contour.settings))
    until_published(contour)
    successor = starting[1]
    until(lambda: successor.processed > 0, "the successor to have worked")
    assert first.totals
    assert first.totals.end == "time"
    longest = contour.value(
        "select extract(epoch from max(published_at - created_at))::float8 from replication_queue"
    )
    assert longest < 1.5, f"an event waited {longest:.2f} s"
    assert successor.end().retries == first.totals.retries == 0
    assert_all_arrived(contour, repeats=False)
