"""Names that travel: a table's name in events, and its Kafka topic.

``users`` means ``public.users``; tables elsewhere are ``schema.table``. A topic allows only letters,
digits, ``.``, ``_`` and ``-``, so any other character of a table's name is written as ``-hex-``.
"""

from __future__ import annotations

import re
from typing import Final, NewType

TableName = NewType("TableName", str)
Topic = NewType("Topic", str)

TOPIC_SUFFIX: Final = "_changes"
HEARTBEAT_TOPIC: Final = "replication_heartbeats"  # no table's: those end in TOPIC_SUFFIX
MAX_TOPIC_LENGTH: Final = 249
_ILLEGAL = re.compile(r"[^A-Za-z0-9._]")


def table_name(schema: str, relation: str) -> TableName:
    """The name a table has in events, configuration and topics."""
    return TableName(relation if schema == "public" else f"{schema}.{relation}")


def topic_for(table: str, *, prefix: str = "") -> Topic:
    """The topic that carries a table's changes.

    Raises ``ValueError`` when the name would be longer than Kafka allows.
    """
    escaped = _ILLEGAL.sub(lambda match: f"-{ord(match.group()):x}-", table)
    topic = f"{prefix}{escaped}{TOPIC_SUFFIX}"
    if len(topic) > MAX_TOPIC_LENGTH:
        raise ValueError(
            f"table {table!r} gives a topic of {len(topic)} characters; "
            f"Kafka allows {MAX_TOPIC_LENGTH}"
        )
    return Topic(topic)


def heartbeat_topic(*, prefix: str = "") -> Topic:
    """The topic of heartbeats, one for all contours."""
    return Topic(f"{prefix}{HEARTBEAT_TOPIC}")


def consumer_group(contour: str) -> str:
    """The one consumer group of a contour."""
    return f"replicator-consumer-{contour}"
