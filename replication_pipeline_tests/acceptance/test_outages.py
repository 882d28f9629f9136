"""Cuts of 15 s, 60 s and 5 minutes heal without a human: of PostgreSQL, of Kafka, and of both at once.

Windows of both roles run through all of it while an application writes. After each cut everything that
was written must arrive within seconds, no event has used up an attempt, nothing is parked, and the same
windows go on. ``make outages`` takes forty-five minutes; ``OUTAGES=15`` chooses lengths. That short
ones heal is shown in ``make test`` by ``test_publisher_kafka_faults.py``, ``test_lost_brokers.py``,
``test_publisher_postgres_faults.py`` and ``chaos``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final, Literal

import psycopg
import pytest
from pydantic import SecretStr

from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.proxy import Proxy
from replication_pipeline_tests.publishing import attempts, publishing, until, with_settings

pytestmark = pytest.mark.acceptance

Server = Literal["PostgreSQL", "Kafka", "both"]
LENGTHS: Final = [int(each) for each in os.environ.get("OUTAGES", "15,60,300").split(",")]
HEALED_WITHIN: Final = 30.0  # seconds after the network is back
LENGTH: Final = timedelta(hours=1)
TABLE: Final = "create table users (id bigint primary key, name text)"


@pytest.fixture
def network() -> Iterator[Proxy]:
    with Proxy(target=0) as proxy:
        yield proxy


@pytest.fixture
def kafka(network: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that is reached, and tells to be reached, through the network."""
    settings = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{network.port}"}
    with EmbeddedKafka(tmp_path_factory.mktemp("far"), settings=settings) as broker:
        network.target = broker.port
        yield broker


def through(contour: Contour, proxy: Proxy, kafka: Proxy) -> Contour:
    """The contour as its windows reach it; its application stays beside the database."""
    dsn = psycopg.conninfo.make_conninfo(contour.dsn, host="127.0.0.1", port=proxy.port)
    settings = with_settings(
        contour.settings,
        postgres={"dsn": SecretStr(dsn)},
        kafka={
            "bootstrap_servers": f"127.0.0.1:{kafka.port}",
            "delivery_timeout": timedelta(seconds=5),
        },
        monitoring={"heartbeat_interval": timedelta(seconds=1)},
    )
    return replace(contour, settings=settings)


@contextmanager
def writing(contour: Contour) -> Iterator[list[int]]:
    """An application that writes twenty rows a second, whatever happens; how many there are."""
    written, stop = [0], threading.Event()

    def write() -> None:
        with psycopg.connect(contour.dsn, autocommit=True) as session:
            while not stop.wait(0.05):
                session.execute("insert into public.users values (%s, 'x')", (written[0],))
                written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join(20)


def live_through(
    cuts: list[tuple[Server, float, bool]],
    make_contours: MakeContours,
    kafka: EmbeddedKafka,
    network: Proxy,
) -> None:
    """Each cut with its server, its length, and whether packets are dropped without a word."""
    a, b = make_contours(TABLE, ["users"])
    port = psycopg.conninfo.conninfo_to_dict(a.dsn)["port"]
    with ExitStack() as stack:
        database = stack.enter_context(Proxy(target=int(str(port))))
        far = [through(contour, database, network) for contour in (a, b)]
        (publisher,) = stack.enter_context(publishing(far[0].settings, length=LENGTH))
        (applier,) = stack.enter_context(applying(far[1].settings, length=LENGTH))
        written = stack.enter_context(writing(a))

        def arrived() -> int:
            return int(b.value("select count(*) from users"))

        until(lambda: arrived() > 10, "the first rows to arrive")
        for server, seconds, silently in cuts:
            down = {"PostgreSQL": [database], "Kafka": [network], "both": [database, network]}
            before = arrived()
            for proxy in down[server]:
                proxy.freeze() if silently else proxy.cut()
            until_over = time.monotonic() + seconds
            while time.monotonic() < until_over:
                threading.Event().wait(min(1.0, seconds))
                assert publisher.running, (server, seconds, publisher.failure)
                assert applier.running, (server, seconds, applier.failure)
            for proxy in down[server]:
                proxy.mend()
            until(
                lambda target=written[0]: arrived() >= target,  # type: ignore[misc]
                f"all rows to arrive after {seconds} s without {server}",
                HEALED_WITHIN,
            )
            assert written[0] > before
        refused = [seconds for _, seconds, silently in cuts if not silently]
        assert not refused or (publisher.errors and applier.errors), "it was noticed"
    assert attempts(a) == 0
    for contour in (a, b):
        assert contour.value("select count(*) from replication.parked_events") == 0
    a.publish()
    b.apply()
    assert same_rows([a, b], "users")


@pytest.mark.outages
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("silently", [False, True], ids=["refused", "dropped"])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_long_cut_heals_by_itself(
    make_contours: MakeContours,
    kafka: EmbeddedKafka,
    network: Proxy,
    seconds: int,
    silently: bool,
) -> None:
    cuts: list[tuple[Server, float, bool]] = [
        (server, seconds, silently) for server in ("PostgreSQL", "Kafka", "both")
    ]
    live_through(cuts, make_contours, kafka, network)
