"""A broker that has just started may say that the cluster has none. librdkafka's clients forget what
they know then, and may never try a broker again: each of ours has to find its way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.embedded.process import EmbeddedServerError, free_port
from replication_pipeline.kafka import heartbeats, lifeline, reading, topic_watch
from replication_pipeline.kafka.heartbeats import KafkaHeartbeats
from replication_pipeline.kafka.replay import ReplayConsumer, plan_replay
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.brokerless import BrokerlessProxy
from replication_pipeline_tests.conftest import Contour, same_rows
from replication_pipeline_tests.integration.test_positions import write
from replication_pipeline_tests.publishing import publishing, until

LONGEST_TRY = timedelta(seconds=15)  # until a client is lost for good, which is up to its threads

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("kafka")]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerlessProxy]:
    """A broker, whose clients reach it by this only."""
    port, front = free_port(), free_port()
    broker = EmbeddedKafka(
        tmp_path_factory.mktemp("kafka"),
        port=port,
        settings={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{front}"},
    )
    # The proxy first: once a client knows the broker's address, it goes by no other.
    with BrokerlessProxy(port, front) as proxy, broker:
        yield proxy


class Front:
    """Where contours are told to find Kafka."""

    def __init__(self, network: BrokerlessProxy) -> None:
        self.bootstrap_servers = f"127.0.0.1:{network.port}"


@pytest.fixture
def kafka(network: BrokerlessProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    monkeypatch.setattr(lifeline, "TOLD_EVERY", 0.3)
    monkeypatch.setattr(lifeline, "LONGEST_START", 1.5)
    monkeypatch.setattr(reading, "METADATA_EVERY", 1.0)
    monkeypatch.setattr(topic_watch, "EVERY", 0.2)
    monkeypatch.setattr(topic_watch, "PATIENCE", 1.0)
    monkeypatch.setattr(heartbeats, "LONGEST_QUESTION", 2.0)
    monkeypatch.setattr(heartbeats, "LONGEST_READ", 2.0)
    yield Front(network)
    network.hide.clear()


@contextmanager
def hidden(network: BrokerlessProxy, client: str) -> Iterator[None]:
    """Clients hear that there are no brokers, ``client`` for sure."""
    before = network.hidden[client]
    network.hide.set()
    try:
        until(lambda: network.hidden[client] > before, "the client to hear of no brokers")
        yield
    finally:
        network.hide.clear()


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was told of clients that gave up."""
    told: list[str] = []

    def lost(contour: str) -> TransientError:
        error = lifeline.lost(contour)
        told.append(error.message)
        return error

    for module in ("consumer", "replay"):
        monkeypatch.setattr(f"replication_pipeline.kafka.{module}.lost", lost)
    return told


def test_publishers_and_appliers_go_on(
    users: list[Contour], network: BrokerlessProxy, replaced: list[str]
) -> None:
    a, b = users
    with publishing(a.settings), applying(b.settings):
        a.run("insert into users (id) values (1)")
        until(lambda: same_rows(users, "users"), "the first row to arrive")
        with hidden(network, "replicator-consumer-b"), suppress(EmbeddedServerError):
            until(lambda: bool(replaced), "a lost client", timeout=LONGEST_TRY.total_seconds())
        a.run("insert into users (id) values (2)")
        until(lambda: same_rows(users, "users"), "the second row to arrive")
    if not replaced:
        pytest.skip("librdkafka found its brokers again by itself")


def test_a_replay_goes_on(
    users: list[Contour], network: BrokerlessProxy, replaced: list[str]
) -> None:
    a, _ = users
    write(a, 1, 50)
    consumer = ReplayConsumer(a.settings, plan_replay(a.settings, 0))
    found: set[tuple[str, int, int]] = set()

    def read() -> bool:
        with suppress(TransientError):
            if batch := consumer.poll(500, timedelta(seconds=0.2)):
                found.update((m.topic, m.partition, m.offset) for m in batch.messages)
        return consumer.caught_up()

    write(a, 51, 60)  # beyond the plan
    consumer._connected()
    with hidden(network, "replicator-consumer-a"):
        read()
    until(read, "all events of the plan")
    consumer.close()
    assert len(found) == 50


def test_heartbeats_go_on(users: list[Contour], network: BrokerlessProxy) -> None:
    a, _ = users
    beats = KafkaHeartbeats(a.settings)

    def in_the_end(what: Callable[[], object]) -> object:
        answers: list[object] = []

        def answered() -> bool:
            with suppress(TransientError):
                answers.append(what())
            return bool(answers)

        until(answered, "an answer")
        return answers[0]

    questions: list[Callable[[], object]] = [
        lambda: beats.send(b"{}"),
        lambda: beats.ends(["users"]),
        lambda: beats.read(None),
    ]
    for ask in questions:
        in_the_end(ask)
    network.hide.set()
    network.cut()
    network.mend()
    for ask in questions:
        with suppress(TransientError):
            ask()
    network.hide.clear()
    for ask in questions:
        in_the_end(ask)
    beats.close()
