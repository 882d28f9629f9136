"""Shards taken from publishers until a transaction ends; a claim never waits for one (outbox.sql)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import psycopg

from replication_pipeline.postgres import queries

SHARDS: Final = 16
SQL: Final = queries.load("shards")


def lock_shards(connection: psycopg.Connection[Any], shards: Iterable[int] = range(SHARDS)) -> None:
    """Wait for those who publish from them; nothing of them is published until the transaction ends."""
    connection.execute(SQL["lock"], {"shards": sorted(set(shards))})
