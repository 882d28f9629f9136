"""Why events are parked, and what an operator may do about it."""

from __future__ import annotations

from typing import Final

# Of what the limits allow; from here on people are told that it comes near.
NEAR_LIMIT: Final = 0.8

# What an operator may do about a reason; other refusals of Kafka have no better hint than their text.
HINTS: Final[dict[str, str]] = {
    "MSG_SIZE_TOO_LARGE": "raise kafka.max_message_bytes and the topic's max.message.bytes, then retry",
    "UNKNOWN_TOPIC_OR_PART": "make the topic (replication-pipeline setup-table), then retry",
    "_UNKNOWN_TOPIC": "make the topic (replication-pipeline setup-table), then retry",
    "_UNKNOWN_PARTITION": "make the topic (replication-pipeline setup-table), then retry",
    "TOPIC_AUTHORIZATION_FAILED": "allow this contour's Kafka user to write to the topic, then retry",
    "too_large": "there is nothing to send: write a smaller row, then discard this event",
    "missing_parent": "tried by itself whenever rows come; look why the parent is missing",
    "referenced": "tried by itself whenever rows go; look which children are still there",
    "clock_skew": "tried by itself; look at the clock of the contour that wrote it",
    "unknown_column": "make the table's columns equal; tried by itself",
    "missing_table": "set the table up here: replication-pipeline setup-table; tried by itself",
    "unknown_table": "configure and set up the table here; tried by itself",
    "unique_conflict": "another row has this value; change that one, tried by itself",
    "displaced": "a newer row has this value; change one of them, tried by itself",
    "constraint": "the table's own rules refuse it; tried by itself",
    "bad_value": "a value does not fit the column's type here; tried by itself",
    "fenced_contour": "tried by itself once that contour is admitted (contours admit)",
    "too_old": "as old as a delete forgotten here: write the row again where it came from, or discard",
    "forged_origin": "no two contours may have one number (contours list); else find who wrote it to "
    "the topic, and discard it; tried by itself",
    "unknown_contour": "add the contour to security.contours, or find who wrote it to the topic, and "
    "discard it; tried by itself",
    "bad_signature": "accept the contour's key (security.hmac.accept_files), or find who wrote it to "
    "the topic, and discard it; tried by itself",
    "malformed": "no event of this pipeline: find who wrote it to the topic, then discard it",
}
