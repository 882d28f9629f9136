"""What the exporter tells: every metric's name, labels and meaning, in the order of docs/monitoring.md.

Names and units are Prometheus': base units, counters end in ``_total``, times are seconds. Each has the
label ``contour``, whose exporter tells it. Labels are names of contours and tables, and words of the
catalogue's own: never a value of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from replication_pipeline.domain.histograms import HistogramName

Kind = Literal["gauge", "counter", "histogram"]
OWN: Final = ("replication_up", "replication_scrape_errors", "replication_scrape_duration_seconds")


@dataclass(frozen=True, slots=True)
class Metric:
    """``labels`` besides ``contour``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """``labels`` besides ``contour``, in the order of the metric's."""

    metric: str
    labels: tuple[str, ...]
    value: float


METRICS: Final = (
    Metric(
        "replication_up",
        "gauge",
        "1: the contour's database answers and is this contour's. 0: nothing else is told.",
    ),
    Metric(
        "replication_scrape_errors",
        "gauge",
        "1: this part of the metrics could not be read the last time, and is missing. 0: it was read.",
        ("part",),
    ),
    Metric(
        "replication_scrape_duration_seconds",
        "gauge",
        "How long reading this part took the last time. It is read again after 20 times as long, "
        "and after 5 s at the earliest.",
        ("part",),
    ),
    Metric(
        "replication_info",
        "gauge",
        "Always 1. Version of the program, number of the contour, version of the installed SQL.",
        ("version", "contour_id", "schema_version"),
    ),
    Metric(
        "replication_unpublished_events",
        "gauge",
        "Captured changes that are not in Kafka yet, held and parked ones included; counted up to "
        "two million.",
    ),
    Metric(
        "replication_publish_lag_seconds",
        "gauge",
        "Age of the oldest unpublished event, held and parked ones included; 0 when there is none.",
    ),
    Metric(
        "replication_held_events",
        "gauge",
        "Events that Kafka has refused and that are tried again, and those behind refused or parked "
        "ones of their keys.",
    ),
    Metric(
        "replication_parked_events",
        "gauge",
        "Events that can't go on, by direction (publish, apply), table and reason; none: no sample.",
        ("direction", "table", "reason"),
    ),
    Metric(
        "replication_parked_oldest_age_seconds",
        "gauge",
        "Since when the oldest of them is parked.",
        ("direction", "table", "reason"),
    ),
    Metric(
        "replication_parked_space_used_ratio",
        "gauge",
        "What is parked at applying, of consumer.max_parked_events and max_parked_bytes (those of the "
        "exporter's configuration), whichever is nearer; at 1 topics wait.",
    ),
    Metric(
        "replication_workers",
        "gauge",
        "Publishers and appliers that live: their heartbeat is younger than 30 s.",
        ("role",),
    ),
    Metric(
        "replication_events_processed_total",
        "counter",
        "Events that publishers have published, or that appliers have dealt with for good.",
        ("role",),
    ),
    Metric(
        "replication_events_failed_total",
        "counter",
        "Refusals: by Kafka, of each attempt; at applying, of events that the database or the "
        "program can't take.",
        ("role",),
    ),
    Metric("replication_batches_total", "counter", "Batches that were committed.", ("role",)),
    Metric("replication_event_bytes_total", "counter", "Bytes of events in them.", ("role",)),
    Metric(
        "replication_last_success_timestamp_seconds",
        "gauge",
        "When an event was last published or applied, since 1970.",
        ("role",),
    ),
    Metric("replication_events_applied_total", "counter", "Events that were written to tables."),
    Metric(
        "replication_events_skipped_total",
        "counter",
        "Events that were older than what stood there, or known already.",
    ),
    Metric(
        "replication_conflicts_total",
        "counter",
        "Concurrent writes of one row, of which one had to give way.",
    ),
    Metric(
        "replication_apply_lag_events",
        "gauge",
        "Events of a table that were in Kafka and not applied here at the appliers' last look.",
        ("table",),
    ),
    Metric(
        "replication_apply_still_seconds",
        "gauge",
        "For how long no position of the table's topic has moved. No trouble while nothing comes.",
        ("table",),
    ),
    Metric(
        "replication_batch_duration_seconds",
        "histogram",
        "How long a batch took, from claim or poll to commit.",
        ("role",),
    ),
    Metric(
        "replication_publish_latency_seconds",
        "histogram",
        "From the capture of an event to its acknowledgement by Kafka.",
        ("table",),
    ),
    Metric(
        "replication_end_to_end_lag_seconds",
        "histogram",
        "From a change in another contour to its commit here, by the clocks of both machines. "
        "Without snapshots, and without events that come once more.",
        ("table",),
    ),
    Metric(
        "replication_heartbeat_age_seconds",
        "gauge",
        "For how long this contour has heard nothing of the other one (or of itself).",
        ("peer",),
    ),
    Metric(
        "replication_arrived_age_seconds",
        "gauge",
        "All that the other contour wrote until so long ago has arrived here.",
        ("peer",),
    ),
    Metric(
        "replication_contour_fenced",
        "gauge",
        "1: the contour is fenced, its changes are not applied elsewhere. 0: it takes part.",
        ("peer",),
    ),
    Metric(
        "replication_clock_skew_seconds",
        "gauge",
        "How far the other contour's clock is ahead of this one's; behind is negative.",
        ("peer",),
    ),
    Metric(
        "replication_queue_dead_tuples",
        "gauge",
        "Dead rows of the queue that vacuum has not removed, as PostgreSQL's statistics say.",
    ),
    Metric("replication_queue_size_bytes", "gauge", "The queue on disk, with its indexes."),
    Metric(
        "replication_oldest_snapshot_seconds",
        "gauge",
        "Age of the oldest transaction in this database that keeps dead rows from being removed. "
        "No sample where the exporter's role is no member of pg_read_all_stats.",
    ),
    Metric(
        "replication_compare_differing_rows",
        "gauge",
        "Rows that differed between contours when the table was last compared as a whole "
        "(compare, or the check convergence).",
        ("table",),
    ),
    Metric(
        "replication_compare_last_timestamp_seconds",
        "gauge",
        "When that was, since 1970.",
        ("table",),
    ),
)
BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}

HISTOGRAMS: Final[Mapping[HistogramName, tuple[str, str]]] = {
    "publish_batch": ("replication_batch_duration_seconds", "publisher"),
    "apply_batch": ("replication_batch_duration_seconds", "applier"),
    "publish_latency": ("replication_publish_latency_seconds", ""),
    "end_to_end_lag": ("replication_end_to_end_lag_seconds", ""),
}
"""By the name that is stored: the metric, and its role; else the table is the label."""
