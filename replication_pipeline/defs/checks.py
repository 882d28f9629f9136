"""Verdicts on the queue as asset checks, and what all checks share.

The same findings are made in two places: by a sensor on every tick, stored without a run when the
verdict changes and every ``monitoring.check_interval``; and on demand, as check definitions, when an
operator presses *Execute*. Here are the two on the backlog, which ``publish_sensor`` judges;
``watched`` has the other cheap ones, ``deep`` those that run on a schedule. A database that can't be
reached is a finding as well: an old green mark would be a lie.

No postponed annotations here: Dagster compares the type of a step's ``context`` as an object.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import dagster as dg

from replication_pipeline.defs.assets import applied_key, queue_key
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.errors import ReplicationError, TransientError
from replication_pipeline.domain.health import (
    ContourStatus,
    Verdict,
    lag_verdict,
    unpublished_verdict,
)
from replication_pipeline.settings import MonitoringSettings, Settings

CheckName = Literal[
    "unpublished_count",
    "publish_lag",
    "error_rate",
    "parked_events",
    "heartbeat",
    "queue_health",
    "apply_lag",
    "setup",
    "convergence",
]
QueueCheck = Literal["unpublished_count", "publish_lag"]
Look = ContourStatus | TransientError
Stored = Mapping[str, tuple[str, float]]  # per check: the verdict stored last, and when
Metadata = dict[str, float | str | dg.MetadataValue]

DESCRIPTIONS: Final[dict[QueueCheck, str]] = {
    "unpublished_count": "How many captured changes wait for Kafka. When it fails: see that "
    "publish_sensor is on and publish runs are green; if they are and the number still grows, "
    "raise publisher.max_publishers or publisher.batch_size.",
    "publish_lag": "Age of the oldest change that waits for Kafka. When it fails: read the newest "
    "publish run; retries there mean that Kafka or the database is away. A single old event with "
    "an otherwise short queue is one that Kafka refuses: see `replication-pipeline parked list`.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict of one check, without Dagster's dress: on the queue, or on an applied ``table``."""

    check: CheckName
    verdict: Verdict | Literal["unknown"]
    description: str
    metadata: Metadata
    table: str | None = None

    @property
    def id(self) -> str:
        """No other finding of the contour has it."""
        return self.check if self.table is None else f"{self.check}:{self.table}"

    @property
    def passed(self) -> bool:
        """Green or not."""
        return self.verdict == "ok"

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """ERROR is kept for what needs a person now."""
        error = self.verdict == "error"
        return dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN


def findings(
    look: ContourStatus | ReplicationError, monitoring: MonitoringSettings
) -> tuple[Finding, ...]:
    """Both checks' verdicts on one look at the contour."""
    # As text: numbers would be drawn as plots, and these never move.
    thresholds: dict[QueueCheck, Metadata] = {
        "unpublished_count": {"warning_at": f"{monitoring.unpublished_warning:,}"},
        "publish_lag": {
            "warning_above": f"{monitoring.lag_warning.total_seconds():g} s",
            "critical_above": f"{monitoring.lag_critical.total_seconds():g} s",
        },
    }
    if isinstance(look, ReplicationError):
        return tuple(
            Finding(check, "unknown", f"Not known: {look.message}", limits)
            for check, limits in thresholds.items()
        )
    age = look.oldest_unpublished_seconds
    figures: Metadata = {
        "unpublished": look.unpublished,
        "oldest_unpublished_seconds": round(age, 3),
        "parked": look.parked_publish,
    }
    return (
        Finding(
            "unpublished_count",
            unpublished_verdict(look.unpublished, warning=monitoring.unpublished_warning),
            f"{look.unpublished} events wait for Kafka.",
            figures | thresholds["unpublished_count"],
        ),
        Finding(
            "publish_lag",
            lag_verdict(
                timedelta(seconds=age),
                warning=monitoring.lag_warning,
                critical=monitoring.lag_critical,
            ),
            f"The oldest event has waited for {age:.1f} s."
            if look.unpublished
            else "No event waits.",
            figures | thresholds["publish_lag"],
        ),
    )


def due(
    found: Iterable[Finding], last: Stored, *, now: float, every: timedelta
) -> tuple[Sequence[Finding], Stored]:
    """The findings worth storing now, and what is stored afterwards.

    Runless events are never purged with a run, so an unchanged verdict is stored only so often.
    """
    chosen = []
    stored = dict(last)
    for finding in found:
        verdict, at = last.get(finding.id, ("", 0.0))
        if verdict != finding.verdict or now - at >= every.total_seconds():
            stored[finding.id] = (finding.verdict, now)
            chosen.append(finding)
    return chosen, stored


def asset_of(contour: str, table: str | None) -> dg.AssetKey:
    """What a check is about: an applied table, or the contour's queue."""
    return queue_key(contour) if table is None else applied_key(contour, table)


def evaluation(finding: Finding, contour: str) -> dg.AssetCheckEvaluation:
    """For a sensor's tick, without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=asset_of(contour, finding.table),
        check_name=finding.check,
        passed=finding.passed,
        severity=finding.severity,
        description=finding.description,
        metadata=finding.metadata,
    )


def results(
    context: dg.AssetCheckExecutionContext, contour: str, found: Iterable[Finding]
) -> Iterator[dg.AssetCheckResult]:
    """For a run, those that were asked for."""
    selected = set(context.selected_asset_check_keys)
    for finding in found:
        asset = asset_of(contour, finding.table)
        if dg.AssetCheckKey(asset, finding.check) in selected:
            yield dg.AssetCheckResult(
                asset_key=asset,
                check_name=finding.check,
                passed=finding.passed,
                severity=finding.severity,
                description=finding.description,
                metadata=finding.metadata,
            )


def queue_checks(settings: Settings) -> dg.AssetChecksDefinition:
    """The checks that an operator can execute; Dagster runs them in one step."""
    key = queue_key(settings.contour.name)

    @dg.multi_asset_check(
        name="queue_checks",
        specs=[
            dg.AssetCheckSpec(check, asset=key, description=description)
            for check, description in DESCRIPTIONS.items()
        ],
        can_subset=True,
    )
    def check_queue(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        now = postgres.settings()
        found = findings(look_at(postgres), now.monitoring)
        yield from results(context, now.contour.name, found)

    return check_queue


def look_at(postgres: PostgresResource) -> Look:
    """The contour's status, or why there is none now. Fatal errors are raised."""
    try:
        return postgres.status()
    except TransientError as error:
        return error
