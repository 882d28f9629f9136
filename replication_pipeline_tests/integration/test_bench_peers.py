"""The benchmarks' peers from Debian's packages replicate all that is written, and leave nothing behind.

They need what bench/peers/install_debian.sh installs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench import users
from bench.contestants.plain import Plain
from bench.database import make_template
from bench.peers import bucardo, londiste
from bench.peers.base import Peer
from bench.server import running
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.process import wait_until

pytestmark = pytest.mark.integration
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
ROWS = 1000
PEERS: list[Peer] = [londiste.DEFAULT, londiste.TUNED, bucardo.DEFAULT, bucardo.TUNED]
CONTENTS = "select * from users order by id"
WHOLE = """
select 'database', datname from pg_database union all select 'role', rolname from pg_roles
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    if not (PROGRAMS / "postgres").exists():
        pytest.skip("no PostgreSQL 15 of Debian")
    with running(PROGRAMS, None, {"fsync": "off", "min_wal_size": "80MB"}) as server:
        yield server


def of_whole_server(server: EmbeddedPostgres) -> set[tuple[Any, ...]]:
    with psycopg.connect(server.dsn()) as connection:
        return set(connection.execute(WHOLE))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_replicates_from_its_start_and_leaves_no_trace(
    server: EmbeddedPostgres, peer: Peer, tmp_path: Path
) -> None:
    if missing := peer.missing(server):
        pytest.skip(missing)
    make_template(server, Plain())
    before = of_whole_server(server)
    with (
        peer.link(server, EmbeddedKafka(tmp_path / "never started")) as link,
        psycopg.connect(link.a, autocommit=True) as a,
        psycopg.connect(link.b, autocommit=True) as b,
    ):
        a.execute(users.insert(1, ROWS))
        a.execute("update users set balance = -1 where id % 7 = 0")
        a.execute("delete from users where id % 5 = 0")
        assert b.execute(CONTENTS).fetchall() == []

        link.start()
        written = a.execute(CONTENTS).fetchall()
        wait_until(
            lambda: b.execute(CONTENTS).fetchall() == written, timeout=60, what="b to be equal"
        )
        assert len(link.processes()) >= 4

    assert peer.versions
    assert of_whole_server(server) == before
