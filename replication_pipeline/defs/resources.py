"""The adapters as Dagster resources: thin, and without secrets.

A resource's configuration is visible in the UI and stored with every run, so it is only the path of
the contour's configuration file. Settings are read at use: each window starts with what the file
says then. Adapters are imported at use too, because the code server, which reloads often, needs the
definitions and not the servers' client libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.domain.watch import Watch
from replication_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    import psycopg

    from replication_pipeline.kafka.consumer import KafkaEventConsumer
    from replication_pipeline.kafka.producer import KafkaEventProducer
    from replication_pipeline.notify import Receiver
    from replication_pipeline.postgres.inbox import PostgresInbox
    from replication_pipeline.postgres.outbox import PostgresOutbox


class ContourResource(dg.ConfigurableResource[Any]):
    """Knows where the contour's configuration is; secrets stay there."""

    config_path: str | None = Field(
        default=None,
        description="The contour's configuration file; empty: the one REPLICATION_CONFIG names.",
    )

    def settings(self) -> Settings:
        """The contour's settings as of now. ``ConfigurationError`` when they can't be used."""
        return load_settings(self.config_path)


class PostgresResource(ContourResource):
    """The contour's database."""

    def outbox(self, instance: str) -> AbstractContextManager[PostgresOutbox]:
        """The queue, as worker ``instance``."""
        from replication_pipeline import runtime

        return runtime.open_outbox(self.settings(), instance)

    def inbox(self, instance: str) -> AbstractContextManager[PostgresInbox]:
        """Tables and offsets, as worker ``instance``."""
        from replication_pipeline import runtime

        return runtime.open_inbox(self.settings(), instance)

    @contextmanager
    def connection(self, settings: Settings | None = None) -> Iterator[psycopg.Connection]:
        """One connection that commits each statement; with other timeouts, if ``settings`` say so.
        ``TransientError`` when there is none.
        """
        from replication_pipeline.postgres.connection import connect

        chosen = settings or self.settings()
        with closing(connect(chosen, application_name="replicator_dagster")) as session:
            yield session

    def status(self) -> ContourStatus:
        """One look at backlog, lag and workers."""
        from replication_pipeline.postgres.status import read_status

        with self.connection() as session:
            return read_status(session, self.settings().contour.name)

    def watch(self) -> Watch:
        """One look at all that the checks judge."""
        from replication_pipeline.postgres.watch import look

        settings = self.settings()
        with self.connection() as session:
            return look(session, settings)


class AlertsResource(ContourResource):
    """Who is told of trouble: the log, and the configuration's webhook, e-mail and Slack channel."""

    def receivers(self) -> Sequence[Receiver]:
        """The log, and those that are configured."""
        from replication_pipeline.notify import receivers

        return receivers(self.settings().monitoring)


class KafkaResource(ContourResource):
    """Kafka, as this contour reaches it."""

    def producer(self) -> AbstractContextManager[KafkaEventProducer]:
        """The producing side."""
        from replication_pipeline import runtime

        return runtime.open_producer(self.settings())

    def consumer(self, inbox: PostgresInbox) -> AbstractContextManager[KafkaEventConsumer]:
        """The consuming side; positions come from ``inbox``."""
        from replication_pipeline import runtime

        return runtime.open_consumer(self.settings(), inbox)
