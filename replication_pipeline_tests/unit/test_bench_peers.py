"""What can be told of the benchmarks' peers without a server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.latency import used_by, used_since
from bench.peers import debezium
from bench.peers.debezium_sources import SOURCES
from bench.peers.everyone import everyone, names

pytestmark = pytest.mark.unit

DSN = "host=127.0.0.1 port=5433 dbname=shop user=postgres"


def test_the_floor_is_first_and_every_peer_has_a_name_of_its_own() -> None:
    assert names()[:2] == ["native", "ours"]
    assert len({*names()}) == len(names())


def test_no_two_peers_want_different_servers() -> None:
    with everyone() as peers:
        wanted = {(name, value) for peer in peers for name, value in peer.server.items()}

    assert len({name for name, _ in wanted}) == len(wanted)


def test_connectors_are_told_which_database() -> None:
    source = debezium.source("d1", DSN, "users", debezium.TUNED_SOURCE)
    sink = debezium.sink(DSN, "d1.public.users", debezium.REWRITE_INSERTS, {})

    assert (source["database.port"], source["database.dbname"]) == ("5433", "shop")
    assert source["slot.name"] == source["publication.name"] == "d1"
    assert source["max.batch.size"] == "8192"
    assert sink["connection.url"] == (
        "jdbc:postgresql://127.0.0.1:5433/shop?reWriteBatchedInserts=true"
    )


def test_an_outbox_goes_to_the_topic_that_is_watched() -> None:
    for source in SOURCES:
        found = source.configuration("d1", DSN)
        routed = found.get("transforms.outbox.route.topic.replacement")
        assert routed == ("d1.public.users" if source.table == "outbox" else None)
        assert found["table.include.list"] == f"public.{source.table}"


def test_processor_time_is_of_those_who_live_and_of_the_time_since() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        before = used_by([os.getpid(), other.pid])
        other.communicate(b"\n")
    used = used_since({os.getpid(): before[os.getpid()]}, [os.getpid(), other.pid])

    assert list(used) == [os.getpid()]
    assert 0 <= used[os.getpid()] < 30
