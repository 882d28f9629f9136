"""What the exporter reads stays right whatever becomes of windows: counters are exact, histograms hold
what was committed, once, and writing them waits for nobody.
"""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from replication_pipeline.domain.histograms import Histogram
from replication_pipeline.domain.model import BatchResult
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres import metrics
from replication_pipeline.postgres.cleanup import clean_up
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.histograms import Histograms
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.acceptance.test_command_line import COMMAND, configuration, lines
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.integration.outbox import publisher, settle
from replication_pipeline_tests.integration.wire import wire_between
from replication_pipeline_tests.scraping import Scrape, get, scrape

pytestmark = pytest.mark.integration

PUBLISHED = "replication_events_processed_total"
LATENCY = "replication_publish_latency_seconds"
LAG = "replication_end_to_end_lag_seconds"
BATCH = "replication_batch_duration_seconds"


@pytest.fixture
def contours(make_contours: MakeContours) -> list[Contour]:
    return make_contours(USERS, ["users"])


def count(contour: Contour, name: str = LATENCY) -> float:
    return sum(sample.value for sample in scrape(contour.settings).named(f"{name}_count"))


def test_counters_go_on_while_windows_come_go_and_are_folded(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    contour = users[0]
    for window in (1, 2):
        contour.run("insert into users (id) select 10 * %s + generate_series(1, 5)", window)
        contour.publish()
        assert scrape(contour.settings).value(PUBLISHED, role="publisher") == window * 5
    # A window that was killed has not brought its newest counts to its own row.
    contour.run(
        "insert into replication.worker_counts (instance, part, processed) "
        "select instance, 99, 7 from replication.workers limit 1"
    )
    before = scrape(contour.settings)
    contour.run("update replication.workers set heartbeat_at = now() - interval '2 hours'")
    with connect(contour.settings, application_name="test") as connection:
        assert clean_up(connection, contour.settings).workers == 2
    after = scrape(contour.settings)
    for told in (before, after):
        assert told.value(PUBLISHED, role="publisher") == 17
        assert told.value(f"{LATENCY}_count", table="users") == 10
        assert told.value("replication_batches_total", role="publisher") == 2
    last = "replication_last_success_timestamp_seconds"
    assert before.value(last, role="publisher") == after.value(last, role="publisher")


def test_only_what_is_committed_is_observed_also_by_further_lanes(contours: list[Contour]) -> None:
    contour = contours[0]
    empty = scrape(contour.settings)
    assert [s.value for n in (LATENCY, LAG, BATCH) for s in empty.named(f"{n}_count")] == [0] * 4
    contour.run("insert into users (id) select generate_series(1, 8)")
    with publisher(contour.settings, lane=1) as outbox:
        claim = outbox.claim(100)
        assert claim is not None
        outbox.settle(claim.events)
        outbox.abandon(sent=True)
        claim = outbox.claim(100)
        assert claim is not None
        settle(outbox, claim, claim.events[0].id)
    assert count(contour) == 7


def test_a_publisher_of_long_turns_observes_each_batch(contours: list[Contour]) -> None:
    contour = contours[0]
    contour.run("insert into users (id) select generate_series(1, 300)")
    with publisher(contour.settings) as outbox:
        results = []
        claim = outbox.claim(100)
        while claim is not None:
            outbox.settle(claim.events)
            results.append(BatchResult(role="publisher", count=len(claim.events)))
            claim = outbox.request(100)()
        outbox.commit(results)
    assert len(results) == 3
    assert count(contour) == 300
    assert count(contour, BATCH) == 3


def test_an_event_that_comes_again_is_no_second_arrival(contours: list[Contour]) -> None:
    a, b = contours
    with wire_between(contours, seed=0) as wire:
        _, receiver = wire.receivers
        a.run("insert into users (id) select generate_series(1, 6)")
        wire.publish()
        first = list(receiver.waiting)
        receiver.waiting.clear()
        receiver.apply(first)
        a.run("insert into users (id) select generate_series(7, 9)")
        wire.publish()
        receiver.apply([*receiver.waiting, *first[:4]])
        receiver.apply(first)
        receiver.waiting.clear()
    assert count(b, LAG) == 9
    assert count(b, BATCH) == 3


def test_who_adds_to_histograms_waits_for_nobody_and_loses_nothing(contours: list[Contour]) -> None:
    contour = contours[0]

    def add(session: psycopg.Connection[object], waited: int) -> None:
        seen = Histograms()
        seen.since("publish_latency", "users", [0, 0], waited)
        seen.write(session)

    one, other = contour.session(), contour.session()
    add(one, 1_000)
    one.commit()
    add(one, 10_000_000)  # it stands still before it commits
    other.execute("set lock_timeout = '1s'")
    add(other, 60_000_000_000)
    other.commit()
    with connect(contour.settings, application_name="test") as reading:

        def told() -> Histogram:
            (histogram,) = [
                read[2]
                for read in metrics.read(reading, contour.settings, "histograms")
                if isinstance(read, tuple) and read[:2] == (LATENCY, ("users",))
            ]
            return histogram

        assert sum(told().counts) == 4
        one.commit()
        assert sum(told().counts) == 6
        assert contour.value("select count(*) from replication.histograms") == 2
        add(one, 1_000)
        one.commit()
        assert contour.value("select count(*) from replication.histograms") == 1
        assert (told().counts[0], told().counts[-1], sum(told().counts)) == (4, 2, 8)
        assert told().total == 2 * (1_000 + 10_000_000 + 60_000_000_000 + 1_000)


def test_a_sum_of_more_microseconds_than_a_bigint_holds_is_told(contours: list[Contour]) -> None:
    contour = contours[0]
    with connect(contour.settings, application_name="test") as connection:
        for _ in range(3):
            seen = Histograms()
            seen._seen["publish_latency", "users"] = Histogram([0] * 15 + [1], 1 << 62)
            seen.write(connection)
    assert count(contour) == 3
    told = scrape(contour.settings).named(f"{LATENCY}_sum")
    assert sum(sample.value for sample in told) == pytest.approx(3 * (1 << 62) / 1e6)


def test_a_statistic_that_can_not_be_kept_stops_nobody(contours: list[Contour]) -> None:
    contour = contours[0]
    contour.run("alter table replication.histograms add constraint never check (false)")
    with closing(PostgresOutbox(contour.settings, "p")) as outbox:
        assert outbox.claim(1) is None
        outbox._histograms.took("publish_batch", timedelta(seconds=1))
        outbox._next_heartbeat = 0.0
        contour.run("insert into users (id) values (1)")
        assert outbox.claim(1) is not None
    with closing(PostgresInbox(contour.settings, "i")) as inbox:
        for _ in range(2):
            inbox._histograms.took("apply_batch", timedelta(seconds=1))
            inbox._histograms._written = inbox._next_heartbeat = 0.0
            inbox.retry_parked(1, eagerly=False)


def test_the_command_serves_until_it_is_told_to_end(users: list[Contour], tmp_path: Path) -> None:
    contour = users[0]
    secret = "canary-71d2"
    dsn = psycopg.conninfo.make_conninfo(contour.dsn, password=secret)
    config = configuration(tmp_path, contour, postgres={"dsn": dsn})
    process = subprocess.Popen(
        [*COMMAND, "exporter", "--port", "0", "--config", config], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        assert (first["event"], first["host"]) == ("listening", "127.0.0.1")
        told = Scrape(get(first["port"]))
        assert told.value("replication_up", contour="a") == 1
        assert get(first["port"], "/healthz") == "ok\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert secret not in told.text + errors
    assert not lines(errors), "a scrape is no news"
