"""From the schema version before: with rows in its tables, writers at work, old processes running.

``upgrades/version_2`` is that version as it was released, and never changed: its SQL, and the program
of its windows (``workers.tar.xz``). What it had queued is published, what it had parked is tried again,
what it had decided stays decided; and for as long as its windows live on they publish and apply, and
what they claim, mark, count and park is understood.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from replication_pipeline.domain.version import pack
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.parked import retry_parked
from replication_pipeline.postgres.queries import parse
from replication_pipeline.settings import Settings
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.outbox import publisher
from replication_pipeline_tests.publishing import (
    assert_counters_are_exact,
    log_of,
    publishing,
    until,
    until_published,
)

pytestmark = pytest.mark.integration

FORMER: Final = Path(__file__).parents[1] / "upgrades" / "version_2"
OUTBOX: Final = parse((FORMER / "outbox.sql").read_text(encoding="utf-8"))
DDL: Final = """
create table users (id bigint primary key, name text);
create table parents (id int primary key, note text);
create table children (id int primary key, parent int references parents);
"""
TABLES: Final = ["users", "parents", "children"]
LONG: Final = "k" * 1_500


def install_former(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.execute("set local client_min_messages = error")
        connection.execute(
            "select set_config('replication.setup_contour', 'a', true), "
            "set_config('replication.setup_contour_id', '1', true)"
        )
        connection.execute((FORMER / "schema.sql").read_text(encoding="utf-8"))


@pytest.fixture
def pair(
    postgres: EmbeddedPostgres, make_contours: MakeContours, kafka: EmbeddedKafka
) -> Iterator[list[Contour]]:
    """Contour a of the version before, contour b of this one."""
    _, b = make_contours(DDL, TABLES)
    dsn = postgres.create_database(f"upgrade_{b.settings.kafka.topic_prefix}")
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": dsn},
        tables=TABLES,
        kafka=b.settings.kafka.model_dump(),
        monitoring={"heartbeat_interval": 0},
    )
    a = Contour(settings, psycopg.connect(dsn, autocommit=True), dsn)
    try:
        a.run("set search_path = public, replication")
        a.run(DDL)
        install_former(a.app)
        for table in TABLES:
            a.run(f"select replication.setup_table_for_replication('{table}')")
        assert a.value("select schema_version from replication.contour") == 2
        yield [a, b]
    finally:
        a.close()


def upgrade(contour: Contour) -> None:
    with connect(contour.settings, application_name="test") as connection:
        installer.install(connection, contour.settings)
    assert contour.value("select schema_version from replication.contour") == 3


def of_b(table: str, row: dict[str, Any], number: int) -> bytes:
    """An event of contour b, as version 2 wrote them: without fingerprint, merge and snapshot."""
    source = {
        "connector": "replication_pipeline",
        "contour": "b",
        "schema": "public",
        "table": table,
        "txId": 1,
        "event_id": f"00000000-0000-4000-8000-00000000000{number}",
        "row_version": str(pack(1_700_000_000_000_000 + number, 2)),
        "base_version": None,
    }
    return json.dumps({"before": None, "after": row, "source": source, "op": "c"}).encode()


def claim(session: psycopg.Connection[Any], limit: int) -> list[tuple[Any, ...]]:
    """What a publisher of version 2 takes, in its transaction, which stays open."""
    session.execute(OUTBOX["lock_shards"], {"share": 16, "rotation": 0})
    return session.execute(
        OUTBOX["claim"],
        {
            "shards": list(range(16)),
            "floors": [0] * 16,
            "limit": limit,
            "bytes": 10**9,
            "source": '{"connector":"replication_pipeline","contour":"a","schema":',
        },
    ).fetchall()


def test_rows_of_every_table_come_through_the_upgrade(pair: list[Contour]) -> None:
    a, b = pair
    a.run("insert into users select g, 'before' from generate_series(1, 20) g")
    a.run("insert into parents values (1, 'p'); insert into children values (1, 1)")
    a.run("update users set name = 'second' where id <= 5; delete from users where id = 20")
    a.run(
        "update replication_queue set published = true, published_at = now() - interval '1 hour' "
        "where table_name = 'users' and record_key in ('{\"id\":11}', '{\"id\":12}')"
    )
    a.run(
        "update replication_queue set attempts = 5, parked_at = now(), last_error = 'TOO_LARGE: no' "
        "where record_key = '{\"id\":7}'"
    )
    # Of the applier: offsets, known events, deletes (one of a long key), conflicts told twice, parked.
    topic = f"{a.settings.kafka.topic_prefix}children_changes"
    a.run("insert into consumer_offsets values (%s, 0, 0, 5), ('elsewhere', 3, 77, 78)", topic)
    a.run("insert into processed_events values ('00000000-0000-4000-8000-000000000009')")
    a.run(
        "insert into replication_tombstones (table_name, record_key, version) "
        "values ('users', '{\"id\":900}', %s), ('users', %s, 5000)",
        pack(4_000_000_000_000_000, 2),
        LONG,
    )
    for _ in range(2):
        a.run(
            "insert into replication_conflicts (table_name, record_key, event_id, incoming_contour, "
            "incoming_version, current_version, winner) "
            "values ('users', '{\"id\":1}', gen_random_uuid(), 'b', 2050, 1025, 'incoming')"
        )
    waiting = of_b("children", {"id": 50, "parent": 60}, 1)
    for offset, (reason, value) in enumerate([("missing_parent", waiting), ("malformed", b"junk")]):
        a.run(
            "insert into parked_events (topic, partition, kafka_offset, table_name, reason, event) "
            "values (%s, 0, %s, 'children', %s, %s)",
            topic,
            offset + 1_000,
            reason,
            value,
        )
    columns = "id, event_id, operation, record_key, payload::text, version, base_version, published"
    before = a.run(f"select {columns} from replication_queue order by id")

    for _ in range(2):  # and once more, which changes nothing
        upgrade(a)
        assert a.run(f"select {columns} from replication_queue order by id") == before
    assert a.run("select next_offset from consumer_offsets where topic = 'elsewhere'") == [(77,)]
    assert a.value("select count(*) from processed_events") == 1
    assert a.value("select count(*) from replication_conflicts") == 1, "told once"
    assert a.run("select long_key from replication_tombstones where long_key is not null") == [
        (LONG,)
    ]
    assert a.run(
        "select held, count(*) from replication_queue where parked_at is not null group by 1"
    ) == [(True, 1)]

    # The deleted key is still deleted: a new row comes out above its tombstone.
    a.run("insert into users values (900, 'again')")
    assert a.value("select replication_version from users where id = 900") > pack(
        4_000_000_000_000_000, 2
    )
    a.run("delete from users where id = 900")
    a.run("insert into users values (30, 'after'); update users set name = 'third' where id = 1")
    # All that waited is published, but for what is parked and what stands behind it; then that as well.
    a.publish()
    assert a.run("select record_key from replication_queue where not published") == [('{"id":7}',)]
    assert retry_parked(a.app, "publish") == 1
    a.publish()
    assert a.value("select count(*) from replication_queue where not published") == 0
    b.apply()
    # 11 and 12 had been published by the version before, and that topic is not here.
    assert {i for (i,) in b.run("select id from users")} == {*range(1, 20), 30} - {11, 12}
    assert b.run("select name from users where id = 1") == [("third",)]
    assert same_rows([a, b], "children")
    # What waited for its parent is applied when that comes, and what was no event is kept.
    b.run("insert into parents values (60, 'late')")
    b.publish()
    a.apply()
    a.run("update parked_events set retried_at = '-infinity' where reason <> 'malformed'")
    a.apply()
    assert a.run("select parent from children where id = 50") == [(60,)]
    assert a.run("select reason, event from parked_events") == [("malformed", b"junk")]


def test_writers_go_on_while_it_is_upgraded(pair: list[Contour]) -> None:
    """Each write is captured once, by the former functions or by the new ones."""
    a, b = pair
    stop, written, trouble = threading.Event(), [0], list[str]()

    def write() -> None:
        with psycopg.connect(a.dsn, autocommit=True) as session:
            while not stop.is_set():
                try:
                    session.execute(
                        "insert into public.users values (%s, 'w')", (1_000 + written[0],)
                    )
                    written[0] += 1
                except psycopg.Error as error:
                    trouble.append(str(error.sqlstate))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while written[0] < 20:
            assert writer.is_alive()
        upgrade(a)
        reached = written[0] + 20
        while written[0] < reached:
            assert writer.is_alive()
    finally:
        stop.set()
        writer.join(20)
    assert trouble == []
    a.publish()
    b.apply()
    assert b.value("select count(*) from users") == written[0]
    assert same_rows([a, b], "users")


def test_a_publisher_of_the_version_before_goes_on_beside_new_ones(pair: list[Contour]) -> None:
    """Until its window is over: it keeps its locks, marks what it has sent, parks what is refused."""
    a, b = pair
    a.run("insert into users select g, 'x' from generate_series(1, 10) g")
    with psycopg.connect(a.dsn) as former:
        claimed = claim(former, 4)
        assert len(claimed) == 4
        former.rollback()
        upgrade(a)
        claimed = claim(former, 4)
        # What it has locked is nobody else's.
        with publisher(a.settings) as newer:
            assert newer.claim(100) is None
        sent = [(row[1], row[0]) for row in claimed[:3]]
        former.execute(
            OUTBOX["mark_published"],
            {"shards": [s for s, _ in sent], "ids": [i for _, i in sent]},
        )
        refused = claimed[3]
        former.execute(
            OUTBOX["mark_refused"],
            {
                "shards": [refused[1]],
                "ids": [refused[0]],
                "errors": ["TOO_LARGE: no"],
                "max_attempts": 1,
            },
        )
        former.execute(
            OUTBOX["count_published"],
            {"instance": "former", "batches": 1, "processed": 3, "failed": 1, "bytes": 10},
        )
        former.commit()
    totals = a.publish()
    assert totals.processed == 7, "all but what was sent; what it parked gets another try"
    assert a.value("select count(*) from replication_queue where not published") == 0
    b.apply()
    assert b.value("select count(*) from users") == 7


@dataclass
class FormerWindow:
    """A window of version 2, as the process that it was; its log is a file beside its program."""

    program: Path
    config: str
    role: str
    popen: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "replication_pipeline", self.role, "--config", self.config],
                cwd=self.program,  # which Python looks in first
                env=os.environ | {"PYTHONPATH": str(self.program)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def log(self) -> Path:
        return self.program / f"{self.role}.log"

    def lives(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text(encoding="utf-8")
        return True

    def end(self) -> dict[str, Any]:
        """Ask it to stop; the last line of its log, which has its totals."""
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(20) == 0, self.log.read_text(encoding="utf-8")
        last = json.loads(self.log.read_text(encoding="utf-8").splitlines()[-1])
        assert isinstance(last, dict)
        return last


@contextmanager
def former_windows(contour: Contour, path: Path) -> Iterator[dict[str, FormerWindow]]:
    """One that publishes and one that applies."""
    program = path / "version_2"
    with tarfile.open(FORMER / "workers.tar.xz") as packed:
        packed.extractall(program, filter="data")
    config = configuration(path, contour)
    windows = {role: FormerWindow(program, config, role) for role in ("publish", "apply")}
    try:
        yield windows
    finally:
        for window in windows.values():
            window.popen.kill()
            window.popen.wait(20)


def test_windows_of_the_version_before_go_on_alone_and_beside_new_ones(
    pair: list[Contour], tmp_path: Path
) -> None:
    a, b = pair
    ensure_topics(b.settings, TABLES)

    def arrived(what: str) -> None:
        """In a, of everything that b has written."""

        def equal() -> bool:
            return all(window.lives() for window in former.values()) and all(
                same_rows(pair, table) for table in TABLES
            )

        b.publish()
        until(lambda: not unsent(a), f"{what}: all to be published")
        b.apply()
        until(equal, f"{what}: the contours to be equal")

    def unsent(contour: Contour) -> bool:
        return bool(
            contour.value("select exists (select from replication_queue where not published)")
        )

    with former_windows(a, tmp_path) as former:
        a.run("insert into users select g, 'before' from generate_series(1, 50) g")
        b.run("insert into parents select g, 'before' from generate_series(1, 20) g")
        arrived("on their own SQL")
        upgrade(a)

        # Alone: inserts, updates, deletes; a conflict; a child that comes before its parent.
        a.run("insert into users select g, 'new SQL' from generate_series(51, 100) g")
        a.run("update users set name = 'changed' where id <= 20; delete from users where id = 50")
        b.run("insert into children select g, g from generate_series(1, 10) g")
        b.run(
            "update parents set note = 'changed' where id > 10; delete from parents where id = 20"
        )
        arrived("on the new SQL")
        with b.session() as session:
            session.execute("set session_replication_role = replica")
            session.execute("insert into public.parents values (70, 'not captured')")
        b.run("insert into children values (70, 70)")
        b.publish()
        waiting = "select reason from parked_events"
        until(lambda: a.run(waiting) == [("missing_parent",)], "the child to wait")
        b.run("update parents set note = 'captured' where id = 70")
        arrived("after the parent has come")
        assert a.run(waiting) == []
        a.run("update users set name = 'a was first' where id = 7")
        b.run("update users set name = 'b was later' where id = 7")
        arrived("after a conflict")
        kept = "select reason, winner from replication_conflicts"
        assert a.run(kept) == [(None, "incoming")], "reasons are new"
        assert b.run(kept) == [("update_update", "current")]

        # Beside new ones, which see them.
        with publishing(a.settings), applying(a.settings):
            for number in range(5):
                a.run("update users set name = %s", f"both {number}")
                b.run("update parents set note = %s", f"both {number}")
            arrived("beside new windows")
            alive = (
                "select role, count(*) from workers where stopped_at is null group by 1 order by 1"
            )
            assert a.run(alive) == [("applier", 2), ("publisher", 2)]
            totals = {role: window.end() for role, window in former.items()}
            assert totals["publish"]["total_processed"] >= 50 + 50 + 20 + 1 + 1
            assert totals["apply"]["applied"] >= 20 + 10 + 11 + 2 + 1
            assert [total["end"] for total in totals.values()] == ["stopped", "stopped"]
            a.run("delete from users where id = 2")
            until_published(a)
    # Back to the former program, without a way back of the SQL.
    with former_windows(a, tmp_path) as former:
        a.run("update users set name = 'rolled back' where id = 3")
        b.run("update parents set note = 'rolled back' where id = 3")
        arrived("after the program was rolled back")
    queued = [event_id for (event_id,) in a.run("select event_id::text from replication_queue")]
    sources = [value["source"] for table in TABLES for value in log_of(a, table)]
    sent = [source["event_id"] for source in sources if source["contour"] == "a"]
    assert sorted(sent) == sorted(queued), "each once, whoever sent it"
    assert_counters_are_exact(a)
