"""Publishers as processes: killed between any two steps, stopped by signals, frozen and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.failpoints import POINTS, Point
from replication_pipeline_tests.acceptance.test_command_line import COMMAND, configuration, lines
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.proxy import Proxy
from replication_pipeline_tests.publishing import (
    PUBLISHERS_SESSIONS,
    assert_all_arrived,
    assert_counters_are_exact,
    attempts,
    publishing,
    sessions,
    unpublished,
    until,
    until_claimed,
    until_published,
    with_settings,
)

pytestmark = pytest.mark.acceptance

SMALL = {"batch_size": 20, "max_batch_size": 20, "poll_interval": "100ms"}


class Process:
    """``replication-pipeline publish``, or another command that runs until it is stopped;
    ``failpoint`` is a point and what happens there.
    """

    def __init__(self, config: str, failpoint: str = "", command: str = "publish") -> None:
        self.popen = subprocess.Popen(
            [*COMMAND, command, "--config", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"REPLICATION_FAILPOINT": failpoint},
        )

    @property
    def stopped(self) -> bool:
        assert self.popen.poll() is None, self.popen.communicate()
        return psutil.Process(self.popen.pid).status() == psutil.STATUS_STOPPED

    def end(self, number: signal.Signals = signal.SIGTERM) -> list[dict[str, Any]]:
        """Ask it to stop, which it must within ten seconds. Its log."""
        self.popen.send_signal(number)
        _, errors = self.popen.communicate(timeout=10)
        assert self.popen.returncode == 0, errors
        return lines(errors)


@contextmanager
def process(config: str, failpoint: str = "", command: str = "publish") -> Iterator[Process]:
    started = Process(config, failpoint, command)
    try:
        yield started
    finally:
        started.popen.kill()
        started.popen.communicate()


def write(contour: Contour) -> None:
    contour.run("update users set balance = balance + 1")


@pytest.fixture
def contour(users: list[Contour], kafka: EmbeddedKafka) -> Contour:
    """With events of thirty keys, three for each."""
    contour = users[0]
    contour.run("insert into users (id, balance) select g, 0 from generate_series(1, 30) g")
    write(contour)
    write(contour)
    return contour


# Each point for the first time, and those of a batch in the middle of a turn.
KILLS: list[tuple[Point, int]] = [
    *((point, 1) for point in POINTS),
    ("sent", 3),
    ("acknowledged", 3),
    ("marked", 3),
]


@pytest.mark.parametrize(("point", "count"), KILLS)
def test_killed_at_any_point_nothing_is_lost_or_miscounted(
    contour: Contour, tmp_path: Path, point: Point, count: int
) -> None:
    config = configuration(tmp_path, contour, publisher=SMALL)
    with process(config, f"{point}:{count}") as killed:
        for _ in range(400):
            write(contour)
            if killed.popen.poll() is not None:
                break
        assert killed.popen.wait(20) == -signal.SIGKILL
    assert_counters_are_exact(contour)
    assert unpublished(contour) > 0
    write(contour)
    contour.publish()
    assert attempts(contour) == 0
    assert_all_arrived(contour)


@pytest.mark.parametrize("point", ["sent", "marked"])
def test_killed_with_two_lanes_at_work_nothing_is_lost_or_miscounted(
    contour: Contour, tmp_path: Path, point: Point
) -> None:
    """Batches are so small that the second lane opens, and the end comes some turns later."""
    small = SMALL | {"batch_size": 5, "max_batch_size": 5}
    with contour.app.transaction():
        for _ in range(150):
            write(contour)
    with process(configuration(tmp_path, contour, publisher=small), f"{point}:500") as killed:
        until(lambda: sessions(contour) == 2, "the second lane")
        assert killed.popen.wait(20) == -signal.SIGKILL
    assert unpublished(contour) > 0
    assert_counters_are_exact(contour)
    contour.publish()
    assert_all_arrived(contour)


HOLDING: list[Point] = ["claimed", "sent", "acknowledged", "marked", "counted"]


@pytest.mark.parametrize("point", ["claimed", "sent", "acknowledged"])
def test_a_frozen_publisher_is_replaced_and_does_not_mark_what_it_lost(
    contour: Contour, tmp_path: Path, point: Point
) -> None:
    """Its claim ends with the timeout for idle transactions, twice the delivery timeout."""
    kafka = {"delivery_timeout": timedelta(seconds=1)}
    config = configuration(
        tmp_path,
        contour,
        publisher=SMALL,
        kafka=contour.settings.kafka.model_dump(
            include={"bootstrap_servers", "topic_prefix", "partitions"}
        )
        | {"delivery_timeout": "1s"},
    )
    with process(config, f"{point}:1:SIGSTOP") as frozen:
        until(lambda: frozen.stopped, "the publisher to freeze")
        began = time.monotonic()
        with publishing(with_settings(contour.settings, kafka=kafka)):
            until_published(contour)
            assert time.monotonic() - began < 10
            write(contour)
            until_published(contour)
            before = contour.run("select id, published_at from replication_queue order by id")
            frozen.popen.send_signal(signal.SIGCONT)
            write(contour)
            until_published(contour)
        write(contour)
        until_published(contour)  # by the first one, which has come back
        log = frozen.end()
    assert any(line["event"] == "retrying" for line in log), log
    assert log[-1]["total_processed"] > 0
    after = contour.run("select id, published_at from replication_queue order by id")
    assert after[: len(before)] == before
    assert attempts(contour) == 0
    assert_all_arrived(contour)


@pytest.mark.parametrize("point", HOLDING)
def test_a_connection_cut_between_claim_and_commit_rolls_the_turn_back(
    contour: Contour, tmp_path: Path, point: Point
) -> None:
    config = configuration(tmp_path, contour, publisher=SMALL)
    with process(config, f"{point}:1:SIGSTOP") as cut:
        until(lambda: cut.stopped, "the publisher to get there")
        terminate_publishers(contour)
        assert unpublished(contour) == 90
        cut.popen.send_signal(signal.SIGCONT)
        until_published(contour)
        log = cut.end()
    assert [line["event"] for line in log if line["event"] == "retrying"] == ["retrying"]
    assert attempts(contour) == 0
    assert_all_arrived(contour)


def terminate_publishers(contour: Contour) -> None:
    assert contour.run(f"select pg_terminate_backend(pid) {PUBLISHERS_SESSIONS}")
    until(lambda: sessions(contour) == 0, "the session to end")


def test_a_killed_publisher_is_replaced_at_once(contour: Contour, tmp_path: Path) -> None:
    """Its locks go with its connection; nobody waits for a heartbeat to grow old."""
    config = configuration(tmp_path, contour, publisher={"batch_size": 1000})
    with process(config, "acknowledged:1:SIGSTOP") as killed:
        until(lambda: killed.stopped, "the publisher to get there")
        until_claimed(contour)
        with publishing(contour.settings) as (other,):
            until(lambda: "publisher" in _instances(contour), "the other publisher to look around")
            assert unpublished(contour) == 90
            began = time.monotonic()
            killed.popen.kill()
            until_published(contour)
            assert time.monotonic() - began < 3
        assert other.errors == []
    assert_all_arrived(contour)


def _instances(contour: Contour) -> str:
    """``publisher`` once another than the stopped process has said that it lives."""
    count = contour.value("select count(*) from replication.workers where role = 'publisher'")
    return "publisher" if count == 2 else ""


@pytest.mark.parametrize(
    ("away", "number"),
    [("kafka", signal.SIGINT), ("postgres", signal.SIGINT), ("postgres", signal.SIGTERM)],
)
def test_a_stop_is_orderly_whatever_is_away(
    contour: Contour, kafka: EmbeddedKafka, tmp_path: Path, number: signal.Signals, away: str
) -> None:
    """Ten seconds at most, totals in the last line, nothing half done."""
    server = conninfo_to_dict(contour.dsn)
    with (
        Proxy(int(str(server["port"]))) as to_postgres,
        Proxy(kafka.port) as to_kafka,
    ):
        settings: dict[str, Any] = {
            "postgres": {"dsn": make_conninfo(contour.dsn, port=to_postgres.port)},
            "publisher": {"poll_interval": "100ms"},
        }
        if away == "kafka":
            to_kafka.cut()
            settings["kafka"] = {
                "bootstrap_servers": f"127.0.0.1:{to_kafka.port}",
                "topic_prefix": contour.settings.kafka.topic_prefix,
            }
        with process(configuration(tmp_path, contour, **settings)) as asked:
            if away == "kafka":
                until_claimed(contour)
            else:
                until_published(contour)
            if away == "postgres":
                to_postgres.cut()
                until(lambda: sessions(contour) == 0, "the session to end")
            began = time.monotonic()
            log = asked.end(number)
            assert time.monotonic() - began < 10
        last = log[-1]
        assert (last["event"], last["end"]) == ("window ended", "stopped")
        published = contour.value("select count(*) from replication_queue where published")
        assert last["total_processed"] == published == (0 if away == "kafka" else 90)
    contour.publish()
    assert attempts(contour) == 0
    assert_all_arrived(contour)
