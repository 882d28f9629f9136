"""A publisher's lanes: more than one only while there is a backlog, and then nothing else changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from replication_pipeline.domain.errors import WrongContourError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine import lanes, publish
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.publishing import (
    PUBLISHERS_SESSIONS,
    Publisher,
    assert_all_arrived,
    assert_counters_are_exact,
    publishing,
    sessions,
    unpublished,
    until,
    until_published,
    with_settings,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def contour(users: list[Contour], monkeypatch: pytest.MonkeyPatch) -> Contour:
    """Turns and batches are so short that some thousand events are a backlog."""
    monkeypatch.setattr(publish, "TURN", 0.01)
    contour = users[0]
    contour.settings = with_settings(
        contour.settings, publisher={"batch_size": 20, "max_batch_size": 20}
    )
    return contour


def write(contour: Contour, keys: int, times: int) -> None:
    """``times`` events of each key, key after key in every round, all at once."""
    with contour.app.transaction():
        contour.run(
            "insert into users (id, balance) select g, 0 from generate_series(1, %s) g", keys
        )
        for _ in range(times - 1):
            contour.run("update users set balance = balance + 1")


@pytest.fixture
def most(users: list[Contour]) -> Iterator[list[int]]:
    """The numbers of sessions that publishers were seen with."""
    seen: list[int] = []
    over = threading.Event()
    with users[0].session(autocommit=True) as session:

        def watch() -> None:
            while not over.wait(0.005):
                seen.append(
                    session.execute(f"select count(*) {PUBLISHERS_SESSIONS}").fetchall()[0][0]
                )

        thread = threading.Thread(target=watch)
        thread.start()
        yield seen
        over.set()
        thread.join()


@pytest.mark.parametrize(("keys", "times"), [(1000, 3), (1, 1500)])
def test_a_backlog_opens_a_second_lane_that_closes_after_it(
    contour: Contour, kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, keys: int, times: int
) -> None:
    monkeypatch.setattr(lanes, "REST", 0.3)
    with publishing(contour.settings) as (subject,):
        until(lambda: sessions(contour) == 1, "the publisher to connect")
        write(contour, keys, times)
        until(lambda: sessions(contour) == 2, "the second lane")
        assert contour.value("select publishers from replication.status") == 1
        until_published(contour)
        until(lambda: sessions(contour) == 1, "the second lane to be closed")
        assert contour.value("select publishers from replication.status") == 1
        contour.run("update users set balance = 0 where id = 1")
        until_published(contour)
    assert subject.errors == []
    assert subject.processed == keys * times + 1
    assert contour.value("select count(*) from replication.workers") == 1
    assert_all_arrived(contour, repeats=False)


def test_little_traffic_stays_on_one_connection(
    users: list[Contour], kafka: EmbeddedKafka, most: list[int]
) -> None:
    contour = users[0]  # with the usual sizes
    with publishing(contour.settings):
        for number in range(100):
            contour.run("insert into users (id) values (%s)", number)
        until_published(contour)
    assert max(most) == 1


def test_draining_ends_when_all_lanes_have_nothing_left(
    contour: Contour, kafka: EmbeddedKafka, most: list[int]
) -> None:
    contour.settings = with_settings(contour.settings, publisher={"lanes": 4})
    write(contour, 1000, 4)
    totals = contour.publish()
    assert (totals.end, totals.processed, totals.retries) == ("drained", 4000, 0)
    assert 2 < max(most) <= 4
    assert_all_arrived(contour, repeats=False)


@pytest.mark.parametrize("setting", [{"lanes": 1}, {"max_batch_size": 5000, "batch_size": 5000}])
def test_one_lane_is_enough_where_that_is_asked_for(
    contour: Contour, kafka: EmbeddedKafka, most: list[int], setting: dict[str, int]
) -> None:
    """By the setting, or as one claim takes all there is."""
    contour.settings = with_settings(contour.settings, publisher=setting)
    write(contour, 500, 2)
    assert contour.publish().processed == 1000
    assert max(most) == 1


def test_a_lane_that_loses_its_connection_leaves_its_events_to_the_others(
    contour: Contour, kafka: EmbeddedKafka
) -> None:
    with publishing(contour.settings) as (subject,):
        until(lambda: sessions(contour) == 1, "the publisher to connect")
        write(contour, 1000, 4)
        until(lambda: sessions(contour) == 2, "the second lane")
        newest = f"select pid {PUBLISHERS_SESSIONS} order by backend_start desc limit 1"
        contour.run(f"select pg_terminate_backend(pid) from ({newest}) s")
        until(lambda: subject.errors != [], "the loss to be noticed")
        until_published(contour)
        assert sessions(contour) <= 2
    assert len(subject.errors) == 1
    assert subject.totals
    assert subject.totals.retries == 1
    assert_all_arrived(contour)


def test_a_fatal_error_of_a_lane_ends_the_window_with_its_remedy(
    contour: Contour, kafka: EmbeddedKafka
) -> None:
    """What the first lane has done until then is told and counted."""
    subject = Publisher(contour.settings)
    try:
        contour.run("insert into users (id) values (0)")
        until_published(contour)
        contour.run("update replication.contour set id = 99")  # asked for by new connections
        write(contour, 1000, 6)
        until(lambda: not subject.running, "the window to end")
        assert isinstance(subject.failure, WrongContourError)
        assert subject.failure.remedy
        assert subject.processed == 6001 - unpublished(contour) > 0
        assert_counters_are_exact(contour)
    finally:
        subject._stop.set()


def test_a_stop_with_two_lanes_leaves_nothing_half_done(
    contour: Contour, kafka: EmbeddedKafka
) -> None:
    subject = Publisher(contour.settings)
    until(lambda: sessions(contour) == 1, "the publisher to connect")
    write(contour, 1000, 6)
    until(lambda: sessions(contour) == 2, "the second lane")
    began = time.monotonic()
    totals = subject.end()
    assert time.monotonic() - began < 10
    assert totals.end == "stopped"
    assert totals.processed == 6000 - unpublished(contour)
    contour.publish()
    assert_all_arrived(contour, repeats=False)
