"""Versions, names, verdicts, key order: pure functions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication_pipeline.domain import version
from replication_pipeline.domain.errors import FatalError, ReplicationError, TransientError
from replication_pipeline.domain.health import desired_windows, lag_verdict, unpublished_verdict
from replication_pipeline.domain.model import (
    WHOLE,
    BatchResult,
    ClaimedEvent,
    Deliveries,
    DeliveryFailure,
    Part,
    WindowTotals,
    percentile,
)
from replication_pipeline.domain.names import consumer_group, table_name, topic_for
from replication_pipeline.engine.publish import in_key_order

pytestmark = pytest.mark.unit

clocks = st.integers(0, version.MAX_MICROSECONDS - 1)
contours = st.integers(1, version.MAX_CONTOUR_ID)


@given(clocks, contours)
def test_a_version_fits_a_bigint_and_gives_its_parts_back(clock: int, contour: int) -> None:
    packed = version.pack(clock, contour)
    assert 0 < packed < 2**63
    assert (version.microseconds_of(packed), version.contour_id_of(packed)) == (clock, contour)


@given(clocks, contours, clocks, contours)
def test_a_successor_is_later_whatever_the_clock_says(
    clock: int, contour: int, now: int, other: int
) -> None:
    old = version.pack(clock, contour)
    assert version.successor(old, now_microseconds=now, contour_id=other) > old


@given(clocks, contours, clocks, contours)
def test_versions_of_two_contours_never_tie(
    clock: int, contour: int, other_clock: int, other: int
) -> None:
    same = version.pack(clock, contour) == version.pack(other_clock, other)
    assert same == ((clock, contour) == (other_clock, other))


@pytest.mark.parametrize("parts", [(0, 0), (0, 1024), (-1, 1), (version.MAX_MICROSECONDS + 1, 1)])
def test_parts_out_of_range_are_refused(parts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"is not between|does not fit"):
        version.pack(*parts)


def test_names_and_topics() -> None:
    assert table_name("public", "users") == "users"
    assert table_name("shop", "users") == "shop.users"
    assert topic_for("users") == "users_changes"
    assert topic_for("shop.users", prefix="eu.") == "eu.shop.users_changes"
    assert topic_for('My Shop.Order "x"') == "My-20-Shop.Order-20--22-x-22-_changes"
    assert consumer_group("a") == "replicator-consumer-a"


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_topics_are_legal_and_different_tables_have_different_ones(one: str, other: str) -> None:
    topics = topic_for(one), topic_for(other)
    assert (topics[0] == topics[1]) == (one == other)
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in topics[0])


def test_a_topic_too_long_for_kafka_is_refused() -> None:
    with pytest.raises(ValueError, match="249"):
        topic_for("x" * 250)


def test_verdicts() -> None:
    assert [unpublished_verdict(n, warning=1000) for n in (0, 999, 1000)] == ["ok", "ok", "warning"]
    limits = {"warning": timedelta(seconds=10), "critical": timedelta(seconds=30)}
    ages = [timedelta(seconds=n) for n in (0, 10, 10.1, 30, 30.1)]
    assert [lag_verdict(age, **limits) for age in ages] == [
        "ok",
        "ok",
        "warning",
        "warning",
        "error",
    ]


def test_windows_follow_the_backlog_and_linger_on_the_way_down() -> None:
    def wanted(backlog: int, running: int) -> int:
        return desired_windows(backlog, per_window=1000, minimum=1, maximum=4, running=running)

    assert [wanted(n, 1) for n in (0, 999, 1001, 3500, 99_000)] == [1, 1, 2, 4, 4]
    assert wanted(1500, 3) == 3, "kept until the backlog is well below what called for it"
    assert wanted(900, 3) == 1
    assert wanted(0, 4) == 1


@given(st.integers(0, 10**6), st.integers(0, 10), st.integers(0, 5), st.integers(5, 10))
def test_windows_stay_within_their_bounds(backlog: int, running: int, low: int, high: int) -> None:
    wanted = desired_windows(backlog, per_window=500, minimum=low, maximum=high, running=running)
    assert low <= wanted <= high


def event(number: int, key: str) -> ClaimedEvent:
    return ClaimedEvent(
        id=number, shard=0, slot=0, place="(0,1)", table="t", key=key.encode(), created=0,
        fenced=False, size=2, value=b"{}",
    )  # fmt: skip


def test_nothing_behind_a_refused_event_of_its_key_is_marked() -> None:
    events = (event(1, "a"), event(2, "b"), event(3, "a"), event(4, "c"), event(5, "b"))
    held: set[tuple[str, bytes]] = set()
    refused = Deliveries((DeliveryFailure(events[0], "NO", "no"),))
    batch = in_key_order(events, refused, held)
    assert [e.id for e in batch.published] == [2, 4, 5]
    assert [e.id for e in batch.behind] == [3]
    later = in_key_order((event(6, "b"), event(7, "a")), Deliveries(), held)
    assert [e.id for e in later.published] == [6], "in a later batch of the same turn"


def test_only_the_first_refused_event_of_a_key_counts_an_attempt() -> None:
    events = (event(1, "a"), event(2, "a"))
    refused = Deliveries(tuple(DeliveryFailure(e, "NO", "no") for e in events))
    batch = in_key_order(events, refused, set())
    assert [failure.event.id for failure in batch.refused] == [1]
    assert ([e.id for e in batch.behind], list(batch.published)) == ([2], [])


def test_totals_add_up() -> None:
    totals = WindowTotals(role="publisher")
    totals.add(BatchResult(role="publisher"))
    for lag in (1, 3, 2):
        totals.add(
            BatchResult(
                role="publisher",
                count=10,
                processed=9,
                failed=1,
                lag=timedelta(seconds=lag),
                per_table={"users": 9},
            )
        )
    assert (totals.batches, totals.processed, totals.failed) == (3, 27, 3)
    assert totals.max_lag == timedelta(seconds=3)
    assert totals.per_table == {"users": 27}
    assert percentile(totals.lags_ms, 0.5) == 2000


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([5.0], 0.99) == 5.0
    assert [percentile(range(1, 101), rank) for rank in (0.5, 0.95, 1.0)] == [51, 96, 100]


def test_errors_tell_the_remedy_and_the_exit_status() -> None:
    error = FatalError("the topic is gone", remedy="make it again")
    assert str(error) == "the topic is gone\n  → make it again"
    assert str(TransientError("away")) == "away"
    assert (TransientError("x").exit_code, ReplicationError("x").exit_code) == (3, 1)


@given(st.integers(1, 16), st.integers(1, 8))
def test_the_parts_of_a_share_are_the_share(share: int, lanes: int) -> None:
    parts = [Part(number, lanes).of_share(share) for number in range(lanes)]
    assert sum(parts) == share
    assert max(parts) - min(parts) <= 1
    assert WHOLE.of_share(share) == share
