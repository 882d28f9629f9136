"""PostgreSQL killed, restarted, cut off, under a publisher that goes on; on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours, make_templates
from replication_pipeline_tests.proxy import Proxy
from replication_pipeline_tests.publishing import (
    Publisher,
    assert_all_arrived,
    attempts,
    publishing,
    unpublished,
    until,
    until_claimed,
    until_published,
    with_settings,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A crash of the server is no crash of the machine, so it need not sync to disk."""
    directory = tmp_path_factory.mktemp("faulty")
    with EmbeddedPostgres(directory, settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="module")
def templates(postgres: EmbeddedPostgres) -> dict[str, str]:
    return make_templates(postgres)


@pytest.fixture
def contour(make_contours: MakeContours, kafka: EmbeddedKafka) -> Contour:
    contour, _ = make_contours(USERS, ["users"])
    contour.run("insert into users (id, balance) select g, 0 from generate_series(1, 50) g")
    return contour


def write(contour: Contour, times: int = 3) -> None:
    for _ in range(times):
        contour.run("update users set balance = balance + 1")


def reconnect(contour: Contour) -> None:
    contour.app.close()
    contour.app = psycopg.connect(contour.dsn, autocommit=True)
    contour.run("set search_path = public, replication")


@pytest.fixture
def to_kafka(kafka: EmbeddedKafka) -> Iterator[Proxy]:
    with Proxy(kafka.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("when", "way"),
    [("idle", "kill"), ("in flight", "kill"), ("in flight", "immediate"), ("in flight", "fast")],
)
def test_postgres_goes_and_comes_back(
    contour: Contour,
    postgres: EmbeddedPostgres,
    kafka: EmbeddedKafka,
    to_kafka: Proxy,
    way: Literal["kill", "immediate", "fast"],
    when: str,
) -> None:
    """The same publisher goes on, on the same port; a batch in flight is sent once more."""
    settings = contour.settings
    if when == "in flight":  # Kafka can't be reached, so the claim stays open
        to_kafka.cut()
        settings = with_settings(
            settings, kafka={"bootstrap_servers": f"127.0.0.1:{to_kafka.port}"}
        )
    with publishing(settings) as (publisher,):
        if when == "idle":
            until_published(contour)
        write(contour)
        if when == "in flight":
            until_claimed(contour)
        try:
            if way == "kill":
                postgres.kill()
            else:
                postgres.stop(mode=way)
            to_kafka.mend()
            # Kafka, which has only just come back, may be what it complains of first.
            until(
                lambda: any("PostgreSQL" in e or "SQLSTATE 57P" in e for e in publisher.errors),
                "the publisher to notice the outage",
            )
        finally:
            postgres.start()
            reconnect(contour)
        write(contour)
        until_published(contour)
    assert attempts(contour) == 0
    assert_all_arrived(contour)


def test_what_a_publisher_without_its_locks_had_sent_does_not_stay_the_last(
    contour: Contour, kafka: EmbeddedKafka, to_kafka: Proxy
) -> None:
    """Its events come to Kafka when another one has long published newer ones of the same keys."""
    to_kafka.cut()
    slow = with_settings(
        contour.settings, kafka={"bootstrap_servers": f"127.0.0.1:{to_kafka.port}"}
    )
    claims = "pg_stat_activity where application_name = 'replicator_publisher'"
    with publishing(slow) as (publisher,):
        until_claimed(contour)
        contour.run(f"select pg_terminate_backend(pid) from {claims}")
        with publishing(contour.settings):
            write(contour)
            until_published(contour)
        assert publisher.errors == []
        to_kafka.mend()
        until(lambda: bool(publisher.errors), "the publisher to notice its loss")
        contour.run("insert into users (id) values (99)")
        until(lambda: publisher.processed > 0, "the publisher to be at work again")
        until_published(contour)
    assert_all_arrived(contour)


def test_postgres_is_away_when_the_publisher_starts(
    contour: Contour, postgres: EmbeddedPostgres
) -> None:
    write(contour)
    contour.app.close()
    postgres.stop()
    publisher = Publisher(contour.settings)
    try:
        until(lambda: bool(publisher.errors), "the publisher to notice the outage")
    finally:
        postgres.start()
        reconnect(contour)
    until_published(contour)
    assert publisher.end().retries > 0
    assert_all_arrived(contour, repeats=False)


def test_the_way_to_postgres_is_cut_again_and_again(contour: Contour) -> None:
    """At whatever step the publisher is just then."""
    server = conninfo_to_dict(contour.dsn)
    with Proxy(int(str(server["port"]))) as network:
        dsn = SecretStr(make_conninfo(contour.dsn, port=network.port))
        small = {"batch_size": 5, "max_batch_size": 20, "poll_interval": timedelta(seconds=0.1)}
        settings = with_settings(contour.settings, postgres={"dsn": dsn}, publisher=small)
        with publishing(settings) as (publisher,):
            for _ in range(8):
                retries, done = len(publisher.errors), publisher.processed
                write(contour, 5)
                until(
                    lambda done=done: publisher.processed > done,  # type: ignore[misc]
                    "the publisher to be at work",
                )
                network.cut()
                until(
                    lambda retries=retries: len(publisher.errors) > retries,  # type: ignore[misc]
                    "the publisher to notice the outage",
                )
                network.mend()
            until_published(contour)
    assert unpublished(contour) == 0
    assert attempts(contour) == 0
    assert_all_arrived(contour)
