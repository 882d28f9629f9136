"""Kafka away, slow, out of disk, unwilling: rows wait, use up no attempts, and leave in order.

On a broker of this module's own, behind a proxy and with an authorizer.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from replication_pipeline import runtime
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine import publish
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka import producer
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.parked import retry_parked
from replication_pipeline_tests.conftest import LONGEST, USERS, Contour, MakeContours
from replication_pipeline_tests.proxy import Proxy
from replication_pipeline_tests.publishing import (
    Publisher,
    assert_all_arrived,
    attempts,
    publishing,
    sessions,
    unpublished,
    until,
    until_claimed,
    until_published,
    with_settings,
)

pytestmark = pytest.mark.integration

IMPATIENT = {"delivery_timeout": timedelta(seconds=1)}


@pytest.fixture(scope="module")
def network() -> Iterator[Proxy]:
    with Proxy(target=0) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def kafka(network: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that tells its clients the proxy's address."""
    settings = {
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{network.port}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with EmbeddedKafka(tmp_path_factory.mktemp("faulty"), settings=settings) as broker:
        network.target = broker.port
        yield broker


@pytest.fixture
def contour(make_contours: MakeContours, kafka: EmbeddedKafka) -> Contour:
    """With a hundred rows whose inserts are published already."""
    contour, _ = make_contours(
        f"{USERS}; create table orders (id bigint primary key)", ["users", "orders"]
    )
    contour.run("insert into users (id, balance) select g, 0 from generate_series(1, 100) g")
    contour.publish()
    return contour


def update_all(contour: Contour, times: int = 3) -> None:
    for _ in range(times):
        contour.run("update users set balance = balance + 1")


def until_retried(publisher: Publisher) -> None:
    former = len(publisher.errors)
    until(lambda: len(publisher.errors) > former, "the publisher to notice the outage")


def test_kafka_is_down_when_the_publisher_starts(contour: Contour, network: Proxy) -> None:
    update_all(contour)
    network.cut()
    try:
        with publishing(with_settings(contour.settings, kafka=IMPATIENT)) as (publisher,):
            until_retried(publisher)
            assert "Kafka is away" in publisher.errors[-1]
            assert (unpublished(contour), attempts(contour)) == (300, 0)
            network.mend()
            until_published(contour)
    finally:
        network.mend()
    assert_all_arrived(contour)


def test_the_network_fails_mid_batch(contour: Contour, network: Proxy) -> None:
    """What was sent may be in Kafka or not; it is sent once more, in order, by the same publisher."""
    settings = with_settings(contour.settings, kafka=IMPATIENT)
    with publishing(settings) as (publisher,):
        update_all(contour, 1)
        until_published(contour)  # it is connected
        network.freeze()
        update_all(contour)
        until_claimed(contour)
        network.cut()
        until_retried(publisher)
        assert (unpublished(contour), attempts(contour)) == (300, 0)
        network.mend()
        update_all(contour)
        until_published(contour)
    assert_all_arrived(contour)


def test_the_broker_is_killed_mid_batch_and_comes_back_much_later(
    contour: Contour, network: Proxy, kafka: EmbeddedKafka
) -> None:
    """Several delivery timeouts pass; the same publisher goes on."""
    with publishing(with_settings(contour.settings, kafka=IMPATIENT)) as (publisher,):
        network.freeze()
        update_all(contour)
        until_claimed(contour)
        kafka.kill()
        network.mend()
        try:
            until(lambda: len(publisher.errors) > 1, "two attempts")
            assert (unpublished(contour), attempts(contour)) == (300, 0)
        finally:
            kafka.start()
        until_published(contour)
    assert_all_arrived(contour)


def test_two_lanes_stop_in_time_while_kafka_stands_still(
    contour: Contour, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "TURN", 0.01)
    small = {"batch_size": 5, "max_batch_size": 5}
    publisher = Publisher(with_settings(contour.settings, publisher=small))
    with contour.app.transaction():
        update_all(contour, 60)
    until(lambda: sessions(contour) == 2, "the second lane")
    network.freeze()
    try:
        began = time.monotonic()
        totals = publisher.end()
        assert time.monotonic() - began < 10
    finally:
        network.mend()
    assert totals.end == "stopped"
    assert 0 < totals.processed == 6000 - unpublished(contour)
    contour.publish()
    assert attempts(contour) == 0
    assert_all_arrived(contour)


def test_a_network_that_stands_still_for_seconds_loses_nothing(
    contour: Contour, network: Proxy
) -> None:
    """Requests that were on the way may get no answer even then; the delivery timeout ends them."""
    settings = with_settings(contour.settings, kafka={"delivery_timeout": timedelta(seconds=6)})
    with publishing(settings):
        update_all(contour, 1)
        until_published(contour)  # it is connected
        network.freeze()
        try:
            update_all(contour)
            until_claimed(contour)
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 3, "three seconds to pass")
            assert (unpublished(contour), attempts(contour)) == (300, 0)
        finally:
            network.mend()
        until_published(contour)
    assert attempts(contour) == 0
    assert_all_arrived(contour)


def test_a_broker_that_stands_still_for_a_moment_is_waited_for(
    contour: Contour, kafka: EmbeddedKafka
) -> None:
    pid = kafka.pid
    assert pid
    with publishing(
        with_settings(contour.settings, kafka={"delivery_timeout": timedelta(seconds=6)})
    ):
        update_all(contour, 1)
        until_published(contour)
        os.kill(pid, signal.SIGSTOP)
        try:
            update_all(contour)
            until_claimed(contour)
            began = time.monotonic()
            until(
                lambda: time.monotonic() - began > 1.2, "a moment shorter than a broker's session"
            )
            assert (unpublished(contour), attempts(contour)) == (300, 0)
        finally:
            os.kill(pid, signal.SIGCONT)
        until_published(contour)
    assert_all_arrived(contour)


def test_a_slow_network_only_delays(contour: Contour, network: Proxy) -> None:
    network.delay = 0.3
    try:
        with publishing(contour.settings) as (publisher,):
            update_all(contour)
            until_published(contour)
    finally:
        network.mend()
    assert publisher.errors == []
    assert_all_arrived(contour, repeats=False)


def test_a_broker_out_of_disk_dies_and_rows_wait_until_it_is_repaired(
    contour: Contour, kafka: EmbeddedKafka
) -> None:
    """No file of the broker may grow any more; a broker without a log directory ends itself."""
    pid = kafka.pid
    assert pid
    with publishing(with_settings(contour.settings, kafka=IMPATIENT)) as (publisher,):
        update_all(contour, 1)
        until_published(contour)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, 1))
        try:
            update_all(contour)
            until(lambda: not kafka.running, "the broker to die")
            until_retried(publisher)
            assert (unpublished(contour), attempts(contour)) == (300, 0)
        finally:
            kafka.kill()
            kafka.start()
        until_published(contour)
    assert_all_arrived(contour)


def test_a_topic_without_the_right_to_write_holds_its_events_only(contour: Contour) -> None:
    prefix = contour.settings.kafka.topic_prefix
    denial = (ResourceType.TOPIC, topic_for("orders", prefix=prefix), ResourcePatternType.LITERAL,
              "User:ANONYMOUS", "*", AclOperation.WRITE, AclPermissionType.DENY)  # fmt: skip
    admin = admin_client(contour.settings)
    _done(admin.create_acls([AclBinding(*denial)]))
    contour.settings = with_settings(
        contour.settings, publisher={"retry_backoff": timedelta(milliseconds=100)}
    )
    contour.run("insert into orders select generate_series(1, 20)")
    contour.run("delete from orders where id = 1")
    update_all(contour)
    totals = contour.publish()
    assert (totals.processed, totals.parked, totals.retries) == (300, 20, 0)
    assert contour.run(
        "select table_name, published, attempts, parked_at is not null, held, count(*) "
        "from replication_queue where not published group by 1, 2, 3, 4, 5 order by 3"
    ) == [("orders", False, 0, False, True, 1), ("orders", False, 5, True, True, 20)]
    error = contour.value("select distinct last_error from replication_queue where attempts = 5")
    assert "TOPIC_AUTHORIZATION_FAILED" in error
    _done(admin.delete_acls([AclBindingFilter(*denial)]))
    with connect(contour.settings, application_name="test") as connection:
        assert retry_parked(connection, "publish") == 20
    assert contour.publish().processed == 21
    assert_all_arrived(contour, "users", "orders", repeats=False)


def _done(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(20)


@pytest.fixture
def tiny_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    options = producer.producer_options
    monkeypatch.setattr(
        producer,
        "producer_options",
        lambda settings: options(settings) | {"queue.buffering.max.messages": 10},
    )


def test_a_full_producer_queue_is_waited_for(contour: Contour, tiny_queue: None) -> None:
    update_all(contour)
    totals = contour.publish()
    assert (totals.processed, totals.retries) == (300, 0)
    assert_all_arrived(contour, repeats=False)


def test_a_full_producer_queue_while_kafka_is_down_ends_with_the_delivery_timeout(
    contour: Contour, network: Proxy, tiny_queue: None
) -> None:
    update_all(contour)
    network.cut()
    try:
        with publishing(with_settings(contour.settings, kafka=IMPATIENT)) as (publisher,):
            began = time.monotonic()
            until_retried(publisher)
            assert time.monotonic() - began < 10
            assert (unpublished(contour), attempts(contour)) == (300, 0)
            network.mend()
            until_published(contour)
    finally:
        network.mend()
    assert_all_arrived(contour)


def test_a_stop_while_the_producer_queue_is_full_and_kafka_is_down(
    contour: Contour, network: Proxy, tiny_queue: None
) -> None:
    update_all(contour)
    network.cut()
    try:
        with publishing(contour.settings) as (publisher,):
            until_claimed(contour)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert publisher.totals
        assert publisher.totals.end == "stopped"
        assert (unpublished(contour), attempts(contour)) == (300, 0)
    finally:
        network.mend()
    contour.publish()
    assert_all_arrived(contour, repeats=False)


def test_events_pass_a_topic_with_a_small_limit_and_the_one_above_it_is_parked(
    contour: Contour,
) -> None:
    """The broker's limit is one of a packet; it refuses all events that travel in it."""
    entry = ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)
    topic = topic_for("users", prefix=contour.settings.kafka.topic_prefix)
    admin = admin_client(contour.settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    _done(admin.incremental_alter_configs([resource]))
    contour.settings = with_settings(
        contour.settings,
        publisher={"retry_backoff": timedelta(milliseconds=50), "max_attempts": 2},
    )
    fill = (
        "update users set name = (select string_agg(md5(random()::text), '') "
        "from generate_series(1, {}) where users.id > 0) where id {}"
    )
    contour.run(fill.format(1500, "= 50"))
    contour.run(fill.format(30, "> 0"))
    update_all(contour, 1)
    totals = contour.publish()
    assert (totals.processed, totals.parked, totals.failed) == (198, 1, 2)
    assert contour.run(
        "select operation, attempts, parked_at is not null, last_error like 'MSG_SIZE_TOO_LARGE%%' "
        "from replication_queue where not published order by id"
    ) == [("UPDATE", 2, True, True), ("UPDATE", 0, False, None), ("UPDATE", 0, False, None)]
    entry = ConfigEntry("max.message.bytes", "9000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    _done(admin.incremental_alter_configs([resource]))
    with connect(contour.settings, application_name="test") as connection:
        assert retry_parked(connection, "publish") == 1
    assert contour.publish().processed == 3
    assert_all_arrived(contour)


def test_the_clock_jumps(contour: Contour) -> None:
    """The contour's clock, and the times at which events say they were queued."""
    shifts = ("-1 hour", "2 hours", "-3 days", "0")
    for shift in shifts:
        contour.run("select replication.install_clock(%s::interval)", shift)
        update_all(contour, 1)
    contour.run(
        "update replication_queue set created_at = created_at + (id % 7 - 3) * interval '1 hour' "
        "where not published"
    )
    with publishing(contour.settings) as (publisher,):
        for shift in shifts:
            contour.run("select replication.install_clock(%s::interval)", shift)
            update_all(contour, 2)
        until_published(contour)
    assert publisher.errors == []
    assert publisher.totals
    assert publisher.totals.max_lag >= timedelta(0)
    assert_all_arrived(contour, repeats=False)


def test_one_cycle_on_an_empty_queue_ends_while_kafka_is_down(
    contour: Contour, network: Proxy
) -> None:
    network.cut()
    try:
        totals = runtime.publish(
            contour.settings, stop=StopToken(), length=LONGEST, until="one_cycle"
        )
    finally:
        network.mend()
    assert (totals.end, totals.retries) == ("one_cycle", 0)
