"""Real servers for the whole run, and contours made from templates for each test.

PostgreSQL and Kafka are started when the first test needs them and stopped at the end. A test gets
databases of its own, cloned from a template with the SQL installed, and topics under a prefix of its
own, so that tests neither see nor wait for each other.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import structlog

from replication_pipeline import runtime
from replication_pipeline.domain.model import WindowTotals
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline.settings import Settings

NAMES = "abc"
LONGEST = timedelta(seconds=30)
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A test that has set logging up within this process leaves it writing to a file that is closed."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL server. Nothing here outlives the run, so it need not sync to disk."""
    with EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres"),
        settings={
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_prepared_transactions": "20",
        },
    ) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def templates(postgres: EmbeddedPostgres) -> dict[str, str]:
    """Databases with the SQL installed, one for each contour name."""
    return make_templates(postgres)


def make_templates(postgres: EmbeddedPostgres) -> dict[str, str]:
    """The templates in a server of a module's own."""
    made = {}
    for number, name in enumerate(NAMES, start=1):
        database = f"template_{name}"
        settings = Settings(
            contour={"name": name, "id": number},
            postgres={"dsn": postgres.create_database(database)},
            kafka={"bootstrap_servers": "unused:1"},
        )
        with connect(settings, application_name="test", check=False) as connection:
            installer.install(connection, settings)
        made[name] = database
    return made


@dataclass
class Contour:
    """A contour under test: its settings, and an application's connection to its database."""

    settings: Settings
    app: psycopg.Connection[Any]
    dsn: str
    _opened: list[psycopg.Connection[Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.settings.contour.name

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the application would; its rows, if it has any."""
        cursor = self.app.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *parameters: Any) -> Any:
        """The only column of the only row."""
        ((value,),) = self.run(statement, *parameters)
        return value

    def session(self, **options: Any) -> psycopg.Connection[Any]:
        """One more connection of the application; closed with the test."""
        connection = psycopg.connect(self.dsn, **options)
        self._opened.append(connection)
        return connection

    def queue(self) -> list[tuple[Any, ...]]:
        """``(operation, record_key, payload)`` in the order of ids."""
        return self.run("select operation, record_key, payload from replication_queue order by id")

    def publish(self, **options: Any) -> WindowTotals:
        """Publish until the queue is empty."""
        return runtime.publish(
            self.settings, stop=StopToken(), length=LONGEST, until="drained", **options
        )

    def apply(self, **options: Any) -> WindowTotals:
        """Apply until all topics are read to their ends."""
        return runtime.apply(
            self.settings, stop=StopToken(), length=LONGEST, until="drained", **options
        )

    def close(self) -> None:
        for connection in [self.app, *self._opened]:
            connection.close()


MakeContours = Callable[..., list[Contour]]


@contextmanager
def contour_maker(
    postgres: EmbeddedPostgres, templates: dict[str, str], broker: EmbeddedKafka | None
) -> Iterator[MakeContours]:
    """As the fixture ``make_contours``, for fixtures that many tests share."""
    made: list[Contour] = []

    def make(
        ddl: str,
        tables: list[str] | dict[str, Any],
        *,
        count: int = 2,
        **sections: dict[str, Any],
    ) -> list[Contour]:
        number = next(_numbers)
        prefix = f"t{number}-{uuid.uuid4().hex[:6]}."
        for position, name in enumerate(NAMES[:count], start=1):
            dsn = postgres.create_database(f"test_{number}_{name}", template=templates[name])
            settings = Settings(
                **{
                    "contour": {"name": name, "id": position},
                    "postgres": {"dsn": dsn},
                    "tables": tables,
                    "kafka": {
                        "bootstrap_servers": broker.bootstrap_servers if broker else "unused:1",
                        "topic_prefix": prefix,
                        "partitions": 3,
                    },
                    "monitoring": {"heartbeat_interval": 0},  # but where they are the subject
                }
                | sections  # type: ignore[arg-type]
            )
            contour = Contour(settings, psycopg.connect(dsn, autocommit=True), dsn)
            made.append(contour)
            # A clone has all of its template but the settings of the database.
            contour.run(
                f"alter database test_{number}_{name} set search_path = public, replication"
            )
            contour.run("set search_path = public, replication")
            contour.run(ddl)
            with connect(settings, application_name="test") as connection:
                for table in tables:
                    installer.setup_table(connection, settings, table)
        if broker:
            ensure_topics(made[-1].settings, list(tables))
        return made[-count:]

    yield make
    for contour in made:
        contour.close()


@pytest.fixture
def make_contours(
    postgres: EmbeddedPostgres, templates: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[MakeContours]:
    """Contours with the given tables set up. Topics are made when the test uses Kafka."""
    broker = request.getfixturevalue("kafka") if "kafka" in request.fixturenames else None
    with contour_maker(postgres, templates, broker) as make:
        yield make


USERS = """
create table users (
  id bigint primary key, email text, name text, balance numeric(12,2), meta jsonb,
  updated_at timestamptz
)
"""


@pytest.fixture
def users(make_contours: MakeContours) -> list[Contour]:
    """Two contours with one table ``users``."""
    return make_contours(USERS, ["users"])


def same_rows(contours: list[Contour], table: str) -> bool:
    """Whether a table is equal everywhere, versions included."""
    contents = [
        contour.run(f"select t::text from {table} t order by t::text") for contour in contours
    ]
    return all(content == contents[0] for content in contents)


def settle(contours: list[Contour], rounds: int = 3) -> None:
    """Publish and apply everywhere until everything has had the chance to arrive."""
    for _ in range(rounds):
        for contour in contours:
            contour.publish()
        for contour in contours:
            contour.apply()
