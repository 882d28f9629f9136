"""The plans of the contour's tables, kept true while tables change under a running applier."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import psycopg

from replication_pipeline.domain.errors import FatalError, PoisonError
from replication_pipeline.domain.model import Message
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.postgres.apply_plan import TablePlan, plan
from replication_pipeline.postgres.catalog import read_tables
from replication_pipeline.settings import Settings

LOOK_EVERY: Final = 5.0  # seconds between looks at the catalog for changed tables


@dataclass(slots=True)
class Plans:
    """One plan a table, for one session: the stages that they write to are temporary tables."""

    settings: Settings
    _by_table: dict[str, TablePlan] = field(default_factory=dict)
    _by_topic: dict[Topic, str] = field(default_factory=dict)
    _due: float = field(default=0.0)
    fresh: bool = field(default=False)  # the catalog was read for the transaction at hand

    def __post_init__(self) -> None:
        prefix = self.settings.kafka.topic_prefix
        self._by_topic = {topic_for(table, prefix=prefix): table for table in self.settings.tables}

    def __iter__(self) -> Iterator[TablePlan]:
        return iter(self._by_table.values())

    def forget(self) -> None:
        """A new session has no stages."""
        self._by_table.clear()
        self._due = 0.0

    def refresh(self, connection: psycopg.Connection) -> None:
        """Look now and then whether tables have changed; make the stages of those that have.

        In a transaction of its own, so that no rollback takes a stage away.
        """
        now = time.monotonic()
        self.fresh = now >= self._due
        if not self.fresh:
            return
        current = read_tables(connection, self.settings.tables)
        if {p.table for p in self} != set(current.values()):
            self._by_table = {name: plan(table) for name, table in current.items()}
            for table_plan in self:
                connection.execute(table_plan.create_stage, {})  # with parameters, %% is one %
        connection.commit()
        self._due = now + LOOK_EVERY

    def table_name(self, topic: Topic) -> str | None:
        """The table whose changes travel by ``topic``."""
        return self._by_topic.get(topic)

    @property
    def topics(self) -> list[str]:
        """Of all configured tables, also those that are not set up."""
        return list(self._by_topic)

    def parents(self) -> dict[Topic, set[Topic]]:
        """By topic those of the tables that its own refers to, from any thread."""
        topics = {table: topic for topic, table in self._by_topic.items()}
        plans = list(self._by_table.values())
        by_relation = {p.table.relation: topics[p.table.name] for p in plans}
        return {
            by_relation[p.table.relation]: {
                by_relation[key.parent] for key in p.table.references if key.parent in by_relation
            }
            for p in plans
        }

    def lacks(self, message: Message) -> bool:
        """Whether its table is configured, and not set up in the database."""
        table = self._by_topic.get(message.topic)
        return table is not None and table not in self._by_table

    def of(self, message: Message) -> TablePlan:
        """The plan for an event; ``PoisonError`` for one of a topic that nobody has asked for."""
        table = self._by_topic.get(message.topic)
        if table is None:
            raise PoisonError(
                f"{message.topic} [{message.partition}] offset {message.offset}: no table's",
                reason="unknown_table",
            )
        return self.by_name(table)

    def by_name(self, table: str) -> TablePlan:
        """The plan of a table; ``FatalError`` where it is not set up here."""
        try:
            return self._by_table[table]
        except KeyError:
            raise FatalError(
                f"contour {self.settings.contour.name}: table {table} is configured, but not set "
                "up in the database",
                remedy=f"replication-pipeline setup-table {table}",
            ) from None
