"""All that ``doctor`` finds: in the contour's database, beside other contours, and in Kafka.

Composition alone. A server that is away costs its own checks and no others, but for the contour's own
database, without which nothing can be said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from replication_pipeline.domain.errors import ConfigurationError, ReplicationError
from replication_pipeline.domain.findings import Check, Finding, mend
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.positions import SOUND, explain, standing
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.doctor import examine_kafka
from replication_pipeline.kafka.topic_logs import read_logs
from replication_pipeline.postgres import doctor as postgres
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.positions import read_positions
from replication_pipeline.settings import Settings

NAME = "replicator_doctor"


def examine(settings: Settings) -> list[Finding]:
    """Everything; ``TransientError`` when the contour's own database is away."""
    with (
        closing(connect(settings, application_name=NAME, check=False)) as connection,
        postgres.open_others(settings, NAME) as others,
    ):
        found = postgres.examine(connection, settings, others)
        if not settings.tables or len(found) == 1:  # the role may not look at tables
            return found
        try:
            longest = postgres.longest_rows(connection, settings)
            topics = {topic_for(t, prefix=settings.kafka.topic_prefix): t for t in settings.tables}
            stored = read_positions(connection, topics)
            found += examine_kafka(settings, longest)
            logs = read_logs(admin_client(settings), settings.contour.name, topics)
        except ReplicationError as error:
            away = mend(error.message, error.remedy or "look at the brokers")
            return found + Check[None]("brokers", "kafka", lambda _: [away], "").findings(None)

        def positions(_: None) -> Iterator[Finding]:
            for topic, log in logs.items():
                known = stored[topic]
                same = log.topic_id is None or known.topic_id in (None, log.topic_id)
                for partition, kept in sorted(log.ranges.items()):
                    offset = known.next_offsets.get(partition)
                    how = standing(offset, kept, same_topic=same)
                    if how not in SOUND:
                        yield mend(
                            f"{topic} [{partition}]: {explain(how, offset, kept)}; appliers halt",
                            f"replication-pipeline republish --table {topics[Topic(topic)]} in "
                            f"the other contours, then offsets accept {topics[Topic(topic)]} here",
                        )

        check = Check[None]("positions", "kafka", positions, "Kafka has what is to be read next")
        return found + check.findings(None)


def fix(settings: Settings, name: str) -> list[Finding]:
    """Run the remedies of the check ``name`` here, all or none; what was found before."""
    with (
        closing(connect(settings, application_name=NAME)) as connection,
        postgres.open_others(settings, NAME) as others,
    ):
        names = {check.name for check in postgres.CHECKS}
        if name not in names:
            raise ConfigurationError(
                f"doctor has no check {name}", remedy=f"one of {', '.join(sorted(names))}"
            )
        found = [
            finding
            for finding in postgres.examine(connection, settings, others)
            if finding.check == name and finding.fixable
        ]
        postgres.mend(connection, settings, found)
        return found
