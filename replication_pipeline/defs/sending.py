"""A run by which an operator has events sent: what it works with, and publishing until they are out.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from replication_pipeline.defs.resources import KafkaResource, PostgresResource
from replication_pipeline.defs.running import Watcher, until
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Sending:
    """One such run. ``settings`` are as it began."""

    context: dg.AssetExecutionContext
    settings: Settings
    postgres: PostgresResource
    kafka: KafkaResource
    stop: StopToken

    def publish_until(self, done: Callable[[], bool], seconds: float) -> None:
        """One more publisher until ``done`` (by whomever), the queue is empty, or time is over."""
        from replication_pipeline import runtime

        instance = runtime.instance_name(self.settings, "publisher")
        with (
            until(done, self.stop) as over,
            self.postgres.outbox(instance) as outbox,
            self.kafka.producer() as producer,
        ):
            runtime.publish_window(
                self.settings,
                outbox=outbox,
                producer=producer,
                stop=over,
                length=timedelta(seconds=seconds),
                until="drained",
                observer=Watcher(self.context),
                instance=instance,
            )
